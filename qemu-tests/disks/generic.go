package disks

import (
	"cmp"
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
// and devices than the one for clouds, the appliance's, and often the host's.
type Generic struct {
	// Kernel is a file, and so is Mdadm, the program.
	Kernel, Mdadm string

	modules map[string]string // files by name, with _ for -
}

// genericScript fetches the kernel's package to $1 and unpacks what filesystems
// and disks in virtual machines need. The host does not get it installed: it would
// boot it, and look after RAIDs. Lists of packages that are missing or too old are
// fetched first.
const genericScript = `
cd "$1"
fetch() { apt-get -q download mdadm "$(apt-cache show --no-all-versions linux-image-amd64 | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p')"; }
fetch || { apt-get -q update; fetch; }
dpkg-deb --fsys-tarfile linux-image-*.deb | tar -x --wildcards './boot/vmlinuz-*' './lib/modules/*/kernel/'{fs,lib,crypto,block} \
  './lib/modules/*/kernel/drivers/'{virtio,block,nvme,scsi,ata,md,usb/core,usb/common,usb/host,usb/storage}
dpkg-deb --fsys-tarfile mdadm_*.deb | tar -x ./sbin/mdadm
rm ./*.deb
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
			g.modules[underscored(name)] = path
		} else if strings.HasPrefix(name, "vmlinuz-") {
			g.Kernel = path
		} else if name == "mdadm" {
			g.Mdadm = path
		}
		return err
	})
	if err == nil && (g.Kernel == "" || g.Mdadm == "" || len(g.modules) == 0) {
		err = fmt.Errorf("no kernel with modules in %s: remove it, it is fetched again", dir)
	}
	if err != nil {
		return g, fmt.Errorf("disks: %v", err)
	}
	return g, nil
}

// Guest is what an initramfs is made of, besides the kernel.
type Guest struct {
	// Init is a static program, the machine's PID 1.
	Init string
	// Modules are names of modules. With those they need they stand below
	// /modules, their names sorted in the order in which they can be loaded.
	Modules []string
	// Programs are files of the host: they get into /bin, the libraries they take
	// to where they are on the host.
	Programs []string
}

// Initramfs makes an initramfs in a file.
func (g Generic) Initramfs(ctx context.Context, path string, guest Guest) error {
	tree, err := os.MkdirTemp(filepath.Dir(path), "initramfs-")
	if err != nil {
		return fmt.Errorf("disks: %v", err)
	}
	defer os.RemoveAll(tree)
	files, err := g.files(ctx, guest)
	if err != nil {
		return fmt.Errorf("disks: initramfs: %w", err)
	}
	for to, from := range files {
		to = filepath.Join(tree, to)
		if err := cmp.Or(os.MkdirAll(filepath.Dir(to), 0o755), copyFile(to, from, 0o755)); err != nil {
			return fmt.Errorf("disks: initramfs: %v", err)
		}
	}
	var list strings.Builder // a folder before what is in it
	err = fs.WalkDir(os.DirFS(tree), ".", func(name string, _ fs.DirEntry, err error) error {
		list.WriteString(name + "\n")
		return err
	})
	if err != nil {
		return fmt.Errorf("disks: initramfs: %v", err)
	}
	archive, err := proc.RunInput(ctx, proc.Command{Args: []string{"cpio", "--create", "--quiet", "--format=newc"}, Dir: tree}, []byte(list.String()))
	if err != nil {
		return fmt.Errorf("disks: initramfs: %w", err)
	}
	if err := os.WriteFile(path, archive, 0o644); err != nil {
		return fmt.Errorf("disks: %v", err)
	}
	return nil
}

// files returns the files of an initramfs, by their names there.
func (g Generic) files(ctx context.Context, guest Guest) (map[string]string, error) {
	files := map[string]string{"init": guest.Init}
	order, err := g.order(nil, guest.Modules)
	if err != nil {
		return nil, err
	}
	for i, m := range order {
		files[fmt.Sprintf("modules/%03d-%s.ko", i, m)] = g.modules[m]
	}
	for _, program := range guest.Programs {
		files[filepath.Join("bin", filepath.Base(program))] = program
		libs, err := libraries(ctx, program)
		if err != nil {
			return nil, err
		}
		for _, lib := range libs {
			files[lib] = lib
		}
	}
	return files, nil
}

// libraries returns the files that a program is linked with at run time, its
// interpreter among them: none if it is static.
func libraries(ctx context.Context, program string) (libs []string, err error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, fmt.Errorf("program %s: %v", program, err)
	}
	static := f.Section(".interp") == nil
	if err := f.Close(); static || err != nil {
		return nil, err
	}
	out, err := proc.Run(ctx, proc.Command{Args: []string{"ldd", program}})
	for word := range strings.FieldsSeq(string(out)) {
		if filepath.IsAbs(word) {
			libs = append(libs, word)
		}
	}
	return libs, err
}

// underscored is how the kernel calls a module, whatever its file and those who
// depend on it do.
func underscored(module string) string { return strings.ReplaceAll(module, "-", "_") }

// order adds modules to a list, each behind those it needs.
func (g Generic) order(list, modules []string) ([]string, error) {
	for _, m := range modules {
		if m = underscored(m); slices.Contains(list, m) {
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
