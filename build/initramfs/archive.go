package initramfs

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/u-root/u-root/pkg/cpio"
)

// archive collects the entries of a cpio archive by name. It is written in the order of the names, so that a folder
// comes before what is in it (the kernel does not create folders) and the order of adding does not matter.
type archive struct {
	entries map[string]cpio.Record
}

func newArchive() *archive { return &archive{entries: map[string]cpio.Record{}} }

// skeleton adds what init expects before it has mounted anything: mount points, and the two devices that the kernel and
// the Go runtime open first.
func (a *archive) skeleton() {
	for _, dir := range []string{"bbin", "dev", "etc", "lib", "lib/firmware", "mnt", "proc", "root", "run", "sys", "var"} {
		a.entries[dir] = cpio.Directory(dir, 0o755)
	}
	a.entries["tmp"] = cpio.Directory("tmp", 0o1777)
	a.entries["dev/console"] = cpio.CharDev("dev/console", 0o600, 5, 1)
	a.entries["dev/null"] = cpio.CharDev("dev/null", 0o666, 1, 3)
}

// add adds an entry and the folders above it. Nothing may replace anything but a folder another folder.
func (a *archive) add(r cpio.Record) error {
	if old, ok := a.entries[r.Name]; ok {
		if isDir(old) && isDir(r) {
			return nil
		}
		return fmt.Errorf("/%s is in the initramfs already", r.Name)
	}
	if err := a.addParents(r.Name); err != nil {
		return err
	}
	a.entries[r.Name] = r
	return nil
}

func (a *archive) addParents(name string) error {
	dir := path.Dir(name)
	if dir == "." {
		return nil
	}
	if old, ok := a.entries[dir]; ok && !isDir(old) {
		return fmt.Errorf("/%s cannot be put under /%s, which is no folder", name, dir)
	} else if ok {
		return nil
	}
	return a.add(cpio.Directory(dir, 0o755))
}

func isDir(r cpio.Record) bool { return r.Mode&cpio.S_IFMT == cpio.S_IFDIR }

func (a *archive) addFile(name, source string, perm uint64) error {
	content, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	return a.add(cpio.StaticRecord(content, cpio.Info{Name: name, Mode: cpio.S_IFREG | perm}))
}

// addTree adds what is under dir, as under. Owners, times and all of the mode but "executable" stay behind: they differ
// between two checkouts of the same files, and everything in the appliance runs as root.
func (a *archive) addTree(under, dir string) error {
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		name := path.Join(under, filepath.ToSlash(rel))
		if name == "." || rel == "." && d.IsDir() {
			return nil
		}
		return a.addEntry(name, file, d)
	})
}

func (a *archive) addEntry(name, file string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	switch {
	case d.IsDir():
		return a.add(cpio.Directory(name, 0o755))
	case d.Type() == fs.ModeSymlink:
		target, err := os.Readlink(file)
		if err != nil {
			return err
		}
		return a.add(cpio.Symlink(name, target))
	case !d.Type().IsRegular():
		return fmt.Errorf("%s is neither a file, a folder nor a symbolic link", file)
	case info.Mode()&0o111 != 0:
		return a.addFile(name, file, 0o755)
	}
	return a.addFile(name, file, 0o644)
}

// write writes the archive in the kernel's "newc" format.
func (a *archive) write(w io.Writer) error {
	out := cpio.Newc.Writer(w)
	for i, name := range slices.Sorted(maps.Keys(a.entries)) {
		r := cpio.MakeReproducible(a.entries[name])
		r.Ino, r.NLink = uint64(i+1), 1
		if err := out.WriteRecord(r); err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
	}
	return cpio.WriteTrailer(out)
}
