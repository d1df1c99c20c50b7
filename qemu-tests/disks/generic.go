package disks

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"huck/qemu-tests/proc"
)

// Generic is Debian's own kernel for all machines: it knows more filesystems
// than the one for clouds, the appliance's, and often the host's.
type Generic struct {
	// Kernel is a file.
	Kernel string

	modules map[string]string // files by name
}

// genericScript fetches the kernel's package to $1 and unpacks what filesystems
// in virtual machines need. The host does not get it installed: it would boot it.
// Lists of packages that are missing or too old are fetched first.
const genericScript = `
cd "$1"
fetch() { apt-get -q download "$(apt-cache show --no-all-versions linux-image-amd64 | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p')"; }
fetch || { apt-get -q update; fetch; }
dpkg-deb --fsys-tarfile linux-image-*.deb | tar -x --wildcards './boot/vmlinuz-*' './lib/modules/*/kernel/fs/f2fs' './lib/modules/*/kernel/fs/xfs' './lib/modules/*/kernel/fs/quota' \
  './lib/modules/*/kernel/lib' './lib/modules/*/kernel/crypto' './lib/modules/*/kernel/drivers/virtio' './lib/modules/*/kernel/drivers/block/virtio_blk.ko'
rm linux-image-*.deb
`

// GenericKernel returns the kernel from the cache folder, where it comes from
// the package mirror of the host's own configuration at the first call.
func GenericKernel(ctx context.Context, cache string, log *slog.Logger) (Generic, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Generic{}, fmt.Errorf("disks: %v", err)
	}
	unlock, err := lock(filepath.Join(cache, "debian-kernel.lock"))
	if err != nil {
		return Generic{}, err
	}
	defer unlock()
	key := sha256.Sum256([]byte(genericScript))
	dir := filepath.Join(cache, fmt.Sprintf("debian-kernel-%x", key[:8]))
	if _, err := os.Stat(dir); err != nil {
		log.Info("fetching Debian's kernel, once")
		work, err := os.MkdirTemp(cache, "fetching-kernel-")
		if err != nil {
			return Generic{}, fmt.Errorf("disks: %v", err)
		}
		defer os.RemoveAll(work)
		if err := runAll(ctx, []string{"bash", "-euo", "pipefail", "-c", genericScript, "bash", work}); err != nil {
			return Generic{}, err
		}
		if err := os.Rename(work, dir); err != nil {
			return Generic{}, fmt.Errorf("disks: %v", err)
		}
	}
	return findGeneric(dir)
}

func findGeneric(dir string) (Generic, error) {
	g := Generic{modules: map[string]string{}}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			g.modules[name] = path
		} else if strings.HasPrefix(name, "vmlinuz-") {
			g.Kernel = path
		}
		return err
	})
	if err == nil && (g.Kernel == "" || len(g.modules) == 0) {
		err = fmt.Errorf("no kernel with modules in %s: remove it, it is fetched again", dir)
	}
	if err != nil {
		return g, fmt.Errorf("disks: %v", err)
	}
	return g, nil
}

// Initramfs makes an initramfs of a program and modules, with those they need,
// in the order in which they can be loaded, below /modules.
func (g Generic) Initramfs(ctx context.Context, path, init string, modules ...string) error {
	tree, err := os.MkdirTemp(filepath.Dir(path), "initramfs-")
	if err != nil {
		return fmt.Errorf("disks: %v", err)
	}
	defer os.RemoveAll(tree)
	files := []string{"modules", "init"} // a folder before what is in it
	order, err := g.order(nil, modules)
	if err == nil {
		err = os.Mkdir(filepath.Join(tree, "modules"), 0o755)
	}
	if err == nil {
		err = copyFile(filepath.Join(tree, "init"), init, 0o755)
	}
	for i, m := range order {
		name := fmt.Sprintf("modules/%02d-%s.ko", i, m)
		if files = append(files, name); err == nil {
			err = copyFile(filepath.Join(tree, name), g.modules[m], 0o644)
		}
	}
	if err != nil {
		return fmt.Errorf("disks: initramfs: %v", err)
	}
	archive, err := proc.RunInput(ctx, proc.Command{Args: []string{"cpio", "--create", "--quiet", "--format=newc"}, Dir: tree}, []byte(strings.Join(files, "\n")+"\n"))
	if err != nil {
		return fmt.Errorf("disks: initramfs: %w", err)
	}
	if err := os.WriteFile(path, archive, 0o644); err != nil {
		return fmt.Errorf("disks: %v", err)
	}
	return nil
}

// order adds modules to a list, each behind those it needs.
func (g Generic) order(list, modules []string) ([]string, error) {
	for _, m := range modules {
		if slices.Contains(list, m) {
			continue
		}
		needs, err := g.needs(m)
		if err != nil {
			return nil, err
		}
		if list, err = g.order(list, needs); err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

// needs reads the names of the modules that a module says it depends on.
func (g Generic) needs(module string) ([]string, error) {
	f, err := elf.Open(g.modules[module])
	if err != nil {
		return nil, fmt.Errorf("module %s: %v", module, err)
	}
	defer f.Close()
	info := f.Section(".modinfo")
	if info == nil {
		return nil, fmt.Errorf("module %s says nothing of itself", module)
	}
	b, err := info.Data()
	if err != nil {
		return nil, fmt.Errorf("module %s: %v", module, err)
	}
	for field := range strings.SplitSeq(string(b), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}
