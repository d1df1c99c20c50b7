// Package installed mounts the system on a disk for writing, as that system
// itself would: its root, and what its fstab adds from the same disk. No other
// disk is looked at: it could hold an old copy of the same system.
package installed

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"huck/imager/personal"
	"huck/initramfs/bootos"
	"huck/initramfs/rootfs"
)

// System is an installed system, mounted.
type System struct {
	// Dir is where its root is mounted.
	Dir string
	// FS is its tree. What cannot be reached by it is not the system's.
	FS rootfs.FS

	mounts []string // in the order they were made
	// lacking are folders that the system mounts something on that is not
	// mounted here, and why.
	lacking map[string]error
	log     *slog.Logger
}

// writeOptions are for filesystems that were just written: a copy of one on
// another disk is no reason not to mount it.
var writeOptions = map[string]string{"xfs": "nouuid"}

// Mount mounts the system on the disk with the given device node at dir, which
// must exist. hint, if not nil, says where its root is.
func Mount(node, dir string, hint *personal.Root, log *slog.Logger) (*System, error) {
	d, err := look(node, dir, log)
	if err != nil {
		return nil, err
	}
	root, err := d.root(hint)
	if err != nil {
		return nil, fmt.Errorf("installed: %s: %w", node, err)
	}
	s := &System{Dir: dir, lacking: map[string]error{}, log: log}
	if err := s.mount(root, dir); err != nil {
		return nil, fmt.Errorf("installed: %w", err)
	}
	opened, err := os.OpenRoot(dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("installed: %w", err), s.unmount())
	}
	s.FS = rootfs.FS{Root: opened}
	if err := s.addOthers(d); err != nil {
		return nil, errors.Join(fmt.Errorf("installed: %w", err), s.Close())
	}
	return s, nil
}

// volume is a filesystem, or a subvolume of one.
type volume struct {
	bootos.Filesystem
	subvolume string
}

func (v volume) String() string {
	s := fmt.Sprintf("partition %d (%s)", v.Partition, v.Kind)
	if v.subvolume != "" {
		s += " subvolume " + v.subvolume
	}
	return s
}

func (s *System) mount(v volume, where string) error {
	options := writeOptions[v.Kind]
	if v.subvolume != "" {
		options = "subvol=" + v.subvolume
	}
	if err := unix.Mount(v.Node, where, v.Kind, unix.MS_NOATIME, options); err != nil {
		return fmt.Errorf("mount %s for writing: %w", v, err)
	}
	s.mounts = append(s.mounts, where)
	return nil
}

// addOthers mounts what the system's fstab has from this disk.
func (s *System) addOthers(d *disk) error {
	text, err := fs.ReadFile(s.FS, "etc/fstab")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	list := parseTable(string(text))
	slices.SortStableFunc(list, func(a, b tableLine) int { return cmp.Compare(strings.Count(a.on, "/"), strings.Count(b.on, "/")) })
	for _, l := range list {
		if l.on == "/" {
			continue
		}
		v, ok := d.find(l.what)
		if v.subvolume = l.subvolume; !ok {
			err = fmt.Errorf("%s, which its fstab mounts there, is no filesystem of this disk that can be mounted", l.what)
		} else {
			err = s.mountOn(v, l.on)
		}
		if err != nil {
			s.lacking[l.on] = err
			s.log.Info("not mounted", "dir", l.on, "err", err)
		}
	}
	return nil
}

// mountOn mounts v on a folder of the system, however its path gets there.
func (s *System) mountOn(v volume, on string) error {
	f, err := s.Folder(on)
	if err != nil {
		return err
	}
	defer f.Close()
	// The kernel follows the link to the very folder that is open.
	if err := s.mount(v, fmt.Sprintf("/proc/self/fd/%d", f.Fd())); err != nil {
		return err
	}
	s.mounts[len(s.mounts)-1] = filepath.Join(s.Dir, s.place(on))
	return nil
}

// Folder opens a folder of the system, which is made if there is none.
func (s *System) Folder(name string) (*os.File, error) {
	place, err := s.FS.Place(rel(name))
	if err != nil {
		return nil, err
	}
	if err := s.FS.Root.MkdirAll(place, 0o755); err != nil {
		return nil, err
	}
	f, err := s.FS.Root.OpenFile(place, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// place is FS.Place of a path that was resolved before.
func (s *System) place(name string) string {
	p, err := s.FS.Place(rel(name))
	if err != nil {
		return rel(name)
	}
	return p
}

// rel makes an absolute path one of package fs.
func rel(name string) string { return cmp.Or(strings.TrimPrefix(path.Clean("/"+name), "/"), ".") }

// Writable tells why a file cannot be written: what would be mounted over it
// when the system runs is not mounted here.
func (s *System) Writable(name string) error {
	for dir, why := range s.lacking {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			return fmt.Errorf("installed: %s would be hidden when the system runs: %s is not mounted here: %w", name, dir, why)
		}
	}
	return nil
}

// target opens what something is to be mounted on.
func (s *System) target(on string) (*os.File, error) {
	place := s.place(on)
	if info, err := s.FS.Root.Lstat(place); err == nil && info.Mode().IsRegular() {
		return s.FS.Root.Open(place)
	}
	return s.Folder(on)
}

// Bind mounts something of the appliance's in the system until Close: a file, a
// folder with all that is mounted below it, or, with a kind, a filesystem of
// that kind.
func (s *System) Bind(what, kind, on string) error {
	f, err := s.target(on)
	if err != nil {
		return fmt.Errorf("installed: %w", err)
	}
	defer f.Close()
	flags := uintptr(unix.MS_BIND | unix.MS_REC)
	if kind != "" {
		flags = 0
	}
	if err := unix.Mount(what, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), kind, flags, ""); err != nil {
		return fmt.Errorf("installed: mount %s on %s: %w", what, on, err)
	}
	where := filepath.Join(s.Dir, s.place(on))
	s.mounts = append(s.mounts, where)
	if kind == "" {
		// What is unmounted here later must not be unmounted there.
		if err := unix.Mount("", where, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("installed: mount %s on %s: %w", what, on, err)
		}
	}
	return nil
}

// Close unmounts everything. When it returns nil all is on the disk.
func (s *System) Close() error { return errors.Join(s.FS.Root.Close(), s.unmount()) }

func (s *System) unmount() error {
	var errs []error
	for _, where := range slices.Backward(s.mounts) {
		// The root last and for good: it says whether all has been written. Below
		// it there may be more than we mounted, such as a bound /sys/firmware.
		flags := unix.UMOUNT_NOFOLLOW
		if where != s.mounts[0] {
			flags |= unix.MNT_DETACH
		}
		if err := unix.Unmount(where, flags); err != nil {
			errs = append(errs, fmt.Errorf("installed: unmount %s: %w", where, err))
		}
	}
	s.mounts = nil
	unix.Sync()
	return errors.Join(errs...)
}
