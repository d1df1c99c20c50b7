package bootos

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Volume is a filesystem on the disk.
type Volume struct {
	// Partition is its number, 0 if the filesystem has the whole disk or is in a
	// logical volume.
	Partition int
	// Names are those of a logical volume in GRUB's syntax.
	Names []string
	// UUID and Label as the boot loader writes them: lower case, with dashes.
	UUID, Label string
	// Subvolumes says that folders at the top may be subvolumes, one of which is
	// the system's /.
	Subvolumes bool
	// FS is its content.
	FS fs.FS
}

// name is the volume's name in GRUB's syntax. There is only one disk.
func (v Volume) name() string {
	if len(v.Names) > 0 {
		return v.Names[0]
	}
	if v.Partition == 0 {
		return "hd0"
	}
	return fmt.Sprintf("hd0,%d", v.Partition)
}

// folders returns those of dirs below the volume's root and, with subvolumes,
// below each of them, the root's first.
func (v Volume) folders(dirs ...string) []string {
	all := slices.Clone(dirs)
	if !v.Subvolumes {
		return all
	}
	list, err := fs.ReadDir(v.FS, ".")
	if err != nil {
		return all
	}
	for _, sub := range list[:min(len(list), maxSubvolumes)] {
		if !sub.IsDir() {
			continue
		}
		for _, dir := range dirs {
			all = append(all, sub.Name()+"/"+dir)
		}
	}
	return all
}

// maxSubvolumes bounds the folders that are looked into.
const maxSubvolumes = 64

// File is a file on a volume.
type File struct {
	Volume int // index among the volumes given
	Path   string
}

// Entry is a system to start.
type Entry struct {
	// Title for people, Source says where the entry stands.
	Title, Source string
	Kernel        File
	Initrds       []File
	Cmdline       string
}

// ErrNoSystem is wrapped when a disk has no system that can be found.
var ErrNoSystem = errors.New("no bootable system found")

// Find returns the entry that the disk's boot loader would start by default.
func Find(volumes []Volume) (Entry, error) {
	var whys []string
	for _, find := range []func([]Volume) (Entry, error){findBLS, findGRUB} {
		e, err := find(volumes)
		if err == nil {
			return e, nil
		}
		whys = append(whys, err.Error())
	}
	return Entry{}, fmt.Errorf("bootos: %w: %s", ErrNoSystem, strings.Join(whys, "; "))
}

// check makes sure that all files are there.
func (e Entry) check(volumes []Volume) error {
	for _, f := range append([]File{e.Kernel}, e.Initrds...) {
		info, err := fs.Stat(volumes[f.Volume].FS, f.Path)
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is no file", f.Path)
		}
		if err != nil {
			return fmt.Errorf("%s: %q: %v", e.Source, e.Title, err)
		}
	}
	return nil
}

// clean makes a path of a configuration fit for fs.FS; it cannot leave the volume.
func clean(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "."
	}
	return p
}

// maxConfig bounds the configuration files that are read: real ones have some 10 KB.
const maxConfig = 1 << 20

func readConfig(fsys fs.FS, name string) (string, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return "", err
	}
	if info.Size() > maxConfig {
		return "", fmt.Errorf("%s has %d bytes, more than %d", name, info.Size(), maxConfig)
	}
	b, err := fs.ReadFile(fsys, name)
	return string(b), err
}
