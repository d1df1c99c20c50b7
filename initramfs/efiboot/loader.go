package efiboot

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// fallback is what firmware starts from a disk that it has no entry for (UEFI
// 2.10, 3.5.1.1), on x86-64.
const fallback = "EFI/BOOT/BOOTX64.EFI"

// ErrNoLoader is wrapped where an EFI system partition has none.
var ErrNoLoader = errors.New("efiboot: no boot loader on the EFI system partition")

// loaders are the boot loaders' names in the vendors' folders, those that are
// to be started first: shim starts GRUB, under Secure Boot, too.
var loaders = [...]string{"shimx64.efi", "grubx64.efi", "systemd-bootx64.efi", "bootmgfw.efi", "linux.efi"}

// Loader finds the boot loader on an EFI system partition and puts a copy at
// the fallback path if there is none. It returns the loader's path as firmware
// has it, with backslashes.
func Loader(esp *os.Root) (string, error) {
	found, err := vendorLoader(esp.FS())
	if err != nil {
		return "", err
	}
	there := find(esp.FS(), fallback)
	switch {
	case found == "" && there == "":
		return "", ErrNoLoader
	case found == "":
		found = there
	case there == "":
		if err := copyVendor(esp, found); err != nil {
			return "", fmt.Errorf("efiboot: fallback path: %w", err)
		}
	}
	return `\` + strings.ReplaceAll(found, "/", `\`), nil
}

// vendorLoader returns the best loader outside of the fallback's folder, "" if
// there is none.
func vendorLoader(esp fs.FS) (string, error) {
	dir := find(esp, "EFI")
	if dir == "" {
		return "", nil
	}
	type candidate struct {
		rank int
		path string
	}
	var found []candidate
	err := fs.WalkDir(esp, dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		depth := strings.Count(name, "/")
		if d.IsDir() {
			if strings.EqualFold(name, "EFI/BOOT") || depth > 2 { // EFI/Microsoft/Boot is the deepest
				return fs.SkipDir
			}
			return nil
		}
		rank := slices.IndexFunc(loaders[:], func(l string) bool { return strings.EqualFold(l, d.Name()) })
		if rank >= 0 && depth > 1 {
			found = append(found, candidate{rank, name})
		}
		return nil
	})
	if err != nil || len(found) == 0 {
		return "", err
	}
	best := slices.MinFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.path, b.path))
	})
	return best.path, nil
}

// find returns the path of a file as it is written in fsys, where case does not
// matter; "" if it is not there.
func find(fsys fs.FS, name string) string {
	at := "."
	for part := range strings.SplitSeq(name, "/") {
		list, err := fs.ReadDir(fsys, at)
		if err != nil {
			return ""
		}
		i := slices.IndexFunc(list, func(d fs.DirEntry) bool { return strings.EqualFold(d.Name(), part) })
		if i < 0 {
			return ""
		}
		at = path.Join(at, list[i].Name())
	}
	return at
}

// copyVendor copies a loader to the fallback path, and beside it the programs
// that it starts by their names: shim looks for GRUB in its own folder.
func copyVendor(esp *os.Root, loader string) error {
	to := cmp.Or(find(esp.FS(), path.Dir(fallback)), path.Dir(fallback))
	if err := esp.MkdirAll(to, 0o755); err != nil {
		return err
	}
	from := path.Dir(loader)
	list, err := fs.ReadDir(esp.FS(), from)
	if err != nil {
		return err
	}
	for _, d := range list {
		name := path.Join(from, d.Name())
		if name == loader || !d.Type().IsRegular() || !strings.EqualFold(path.Ext(name), ".efi") {
			continue
		}
		if err := copyFile(esp, path.Join(to, d.Name()), name); err != nil {
			return err
		}
	}
	return copyFile(esp, path.Join(to, path.Base(fallback)), loader)
}

// copyFile copies a file, durably: a boot loader cut short does not start.
func copyFile(esp *os.Root, to, from string) (err error) {
	in, err := esp.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() // opened for reading
	out, err := esp.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Sync()
}
