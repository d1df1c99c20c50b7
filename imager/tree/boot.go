package tree

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// bootFiles is what a tree has to start it with. Paths are relative to it.
type bootFiles struct {
	// entry is the configuration that the tree has already: it is left alone.
	entry string
	// kernel and initrd are those of the highest version; initrd may be empty.
	version, kernel, initrd string
	// loader is a boot loader for UEFI that reads entries, if there is one.
	loader string
}

// loaderPath is where systemd has its boot loader for x86-64.
const loaderPath = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"

// bootOf looks for what starts the tree in dir. A link in it does not lead out of
// it, to a file of this machine.
func bootOf(dir string) (bootFiles, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return bootFiles{}, err
	}
	defer root.Close() // nothing is written there
	return findBoot(root.FS())
}

// findBoot looks for what starts a tree.
func findBoot(tree fs.FS) (bootFiles, error) {
	var b bootFiles
	for _, pattern := range []string{"boot/loader/entries/*.conf", "boot/grub/grub.cfg", "boot/grub2/grub.cfg"} {
		if found, err := fs.Glob(tree, pattern); err == nil && len(found) > 0 {
			b.entry = found[0]
			return b, nil
		}
	}
	kernels, err := fs.Glob(tree, "boot/vmlinuz*")
	if err != nil {
		return b, err
	}
	for _, k := range kernels {
		st, err := fs.Lstat(tree, k)
		if err != nil || !st.Mode().IsRegular() { // a link, of which the target is among them
			continue
		}
		version := strings.TrimPrefix(strings.TrimPrefix(path.Base(k), "vmlinuz"), "-")
		if b.kernel == "" || newer(version, b.version) {
			b.version, b.kernel = version, k
		}
	}
	if b.kernel == "" {
		return b, &Refused{Device: "tree", Why: "it has no kernel (boot/vmlinuz-VERSION), no grub.cfg and no boot loader entry: install a kernel in it"}
	}
	for _, name := range []string{"initrd.img-" + b.version, "initramfs-" + b.version + ".img", "initrd-" + b.version, "initramfs-linux.img", "initrd.img"} {
		if st, err := fs.Stat(tree, "boot/"+name); err == nil && st.Mode().IsRegular() {
			b.initrd = "boot/" + name
			break
		}
	}
	if st, err := fs.Stat(tree, loaderPath); err == nil && st.Mode().IsRegular() {
		b.loader = loaderPath
	}
	return b, nil
}

// newer reports whether version a is higher than b: runs of digits count as
// numbers.
func newer(a, b string) bool {
	for a != "" && b != "" {
		x, restA := splitRun(a)
		y, restB := splitRun(b)
		if x != y {
			if isDigit(x[0]) && isDigit(y[0]) {
				x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
				return len(x) > len(y) || len(x) == len(y) && x > y
			}
			return x > y
		}
		a, b = restA, restB
	}
	return len(a) > len(b)
}

// splitRun splits off the first run of digits or of other characters.
func splitRun(s string) (first, rest string) {
	n := 1
	for n < len(s) && isDigit(s[n]) == isDigit(s[0]) {
		n++
	}
	return s[:n], s[n:]
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// text is the boot loader entry, on a volume where the files stand below dir.
// PARTUUID is what a kernel knows without an initrd, too.
func (b bootFiles) text(l Layout, part, dir string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "title %s\nversion %s\nlinux %s\n", l.RootLabel, b.version, path.Join(dir, b.kernel))
	if b.initrd != "" {
		fmt.Fprintf(&s, "initrd %s\n", path.Join(dir, b.initrd))
	}
	fmt.Fprintf(&s, "options %s\n", strings.TrimSpace("root=PARTUUID="+part+" ro rootwait "+l.Cmdline))
	return s.String()
}

// fatBits is the kind of FAT for a filesystem of so many bytes, as mkfs.vfat
// itself chooses; but of a file it takes the whole for the filesystem.
func fatBits(size int64) int {
	switch {
	case size < 16*mib:
		return 12
	case size < 512*mib:
		return 16
	}
	return 32
}

// makeESP makes the EFI system partition, with the tree's boot loader and what
// that is to start, or empty.
func (m *maker) makeESP(ctx context.Context, src *source, boot bootFiles, part string) error {
	_, err := run(ctx, nil, "mkfs.vfat", "-F", fmt.Sprint(fatBits(m.l.ESPSize)), "-n", "ESP", fmt.Sprintf("--offset=%d", mib/sector), m.disk, fmt.Sprint(m.l.ESPSize/1024))
	if err != nil || boot.loader == "" {
		return err
	}
	entry := filepath.Join(m.work, "entry")
	if err := os.WriteFile(entry, []byte(boot.text(m.l, part, "/")), 0o644); err != nil {
		return err
	}
	image := fmt.Sprintf("%s@@%d", m.disk, mib)
	dirs := []string{"::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/entries", "::/boot"}
	if _, err := run(ctx, nil, "mmd", append([]string{"-i", image}, dirs...)...); err != nil {
		return err
	}
	files := [][2]string{{filepath.Join(src.dir, boot.loader), "/EFI/BOOT/BOOTX64.EFI"}, {entry, "/loader/entries/huck.conf"},
		{filepath.Join(src.dir, boot.kernel), "/" + boot.kernel}}
	if boot.initrd != "" {
		files = append(files, [2]string{filepath.Join(src.dir, boot.initrd), "/" + boot.initrd})
	}
	for _, f := range files {
		if _, err := run(ctx, nil, "mcopy", "-i", image, f[0], "::"+f[1]); err != nil {
			return err
		}
	}
	return nil
}
