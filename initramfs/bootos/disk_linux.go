package bootos

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"huck/imager/usedmap"
	"huck/imager/usedmap/lvm"
	"huck/initramfs/rootfs"
)

// Disk is a disk whose filesystems are mounted for reading, none of them
// changed by that: a journal is not replayed, for a hibernated system would
// find its own disk moved on without it.
type Disk struct {
	Volumes []Volume
	mounts  []string
	dm      *mapper  // nil without logical volumes
	mapped  []string // names of its devices
}

// mountOptions keep each kind from writing in spite of MS_RDONLY.
var mountOptions = map[string]string{
	"ext4":  "noload",
	"xfs":   "norecovery,nouuid",
	"btrfs": "rescue=nologreplay",
	"vfat":  "",
}

// topSubvolume is a mount option of Btrfs: all subvolumes, as boot loaders see
// them, and not the default one.
const topSubvolume = ",subvolid=5"

// Mount mounts what it knows of the disk with the given device node below dir,
// which must exist, linear logical volumes included. What cannot be mounted is
// logged and left out.
func Mount(node, dir string, log *slog.Logger) (*Disk, error) {
	parts, err := partitions(node)
	if err != nil {
		return nil, err
	}
	d := &Disk{}
	for _, p := range parts {
		if err := d.look(p, dir, log); err != nil {
			log.Info("not looked into", "dev", p.node, "err", err)
		}
	}
	return d, nil
}

// look mounts what the device p holds.
func (d *Disk) look(p partition, dir string, log *slog.Logger) error {
	f, err := os.Open(p.node)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	found, err := usedmap.Identify(f, size)
	if err != nil {
		return err
	}
	if found.Content != "LVM2_member" {
		return d.mount(p, found, dir)
	}
	volumes, err := lvm.Volumes(f, size)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		lv, err := d.mapVolume(f, p, v)
		if err == nil {
			err = d.look(lv, dir, log)
		}
		if err != nil {
			log.Info("not looked into", "dev", p.node, "volume", v.Group+"/"+v.Name, "err", err)
		}
	}
	return nil
}

// mapVolume makes a device of a logical volume on f, the device p.
func (d *Disk) mapVolume(f *os.File, p partition, v lvm.Volume) (partition, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return partition{}, fmt.Errorf("bootos: %s: %w", p.node, err)
	}
	if d.dm == nil {
		var err error
		if d.dm, err = openMapper(); err != nil {
			return partition{}, err
		}
	}
	name := fmt.Sprintf("%s%s-%d", dmNamePrefix, filepath.Base(p.node), len(d.mapped))
	node, err := d.dm.add(name, v, st.Rdev)
	if err != nil {
		return partition{}, err
	}
	d.mapped = append(d.mapped, name)
	return partition{node: node, names: grubNames(v)}, nil
}

// grubNames is how GRUB calls a logical volume: by UUIDs, and with the names
// that device-mapper has, in which a dash stands twice.
func grubNames(v lvm.Volume) []string {
	dashes := func(s string) string { return strings.ReplaceAll(s, "-", "--") }
	return []string{"lvmid/" + v.GroupID + "/" + v.ID, "lvm/" + dashes(v.Group) + "-" + dashes(v.Name)}
}

// mount mounts a filesystem and, if its default is another than what boot
// loaders see, Btrfs' default subvolume: some configurations count from there.
func (d *Disk) mount(p partition, found usedmap.Identity, dir string) error {
	options, ok := mountOptions[found.Content]
	if !ok {
		return fmt.Errorf("bootos: no filesystem known here, but %q", found.Content)
	}
	top := filepath.Join(dir, filepath.Base(p.node))
	if found.Content != "btrfs" {
		return d.mountAt(p, found, top, options)
	}
	if err := d.mountAt(p, found, top, options+topSubvolume); err != nil {
		return err
	}
	def := top + "-default"
	if err := d.mountAt(p, found, def, options); err != nil {
		return err
	}
	var a, b unix.Stat_t // each subvolume has a device number of its own
	if unix.Stat(top, &a) == nil && unix.Stat(def, &b) == nil && a.Dev == b.Dev {
		return d.unmountLast()
	}
	return nil
}

func (d *Disk) mountAt(p partition, found usedmap.Identity, where, options string) error {
	if err := os.MkdirAll(where, 0o755); err != nil {
		return err
	}
	flags := uintptr(unix.MS_RDONLY | unix.MS_NOEXEC | unix.MS_NODEV | unix.MS_NOSUID)
	if err := unix.Mount(p.node, where, found.Content, flags, options); err != nil {
		return fmt.Errorf("mount %s: %w", found.Content, err)
	}
	root, err := os.OpenRoot(where)
	if err != nil {
		return errors.Join(err, unix.Unmount(where, unix.MNT_DETACH))
	}
	// The root keeps its folder open: FS outlives it only as far as the file descriptor does.
	d.Volumes = append(d.Volumes, Volume{Partition: p.number, Names: p.names, UUID: strings.ToLower(found.UUID), Label: found.Label,
		Subvolumes: found.Content == "btrfs", FS: rootfs.FS{Root: root}})
	d.mounts = append(d.mounts, where)
	return nil
}

// Filesystem is a filesystem on a partition, or on a disk without any.
type Filesystem struct {
	// Node is the device node, Partition its number, 0 for the whole disk.
	Node      string
	Partition int
	// Kind is the kernel's name for it: ext4, xfs, btrfs or vfat.
	Kind string
	// UUID and Label are as in Volume.
	UUID, Label string
}

// Filesystems lists those of a disk that Mount would mount, logical volumes
// apart.
func Filesystems(node string) ([]Filesystem, error) {
	parts, err := partitions(node)
	if err != nil {
		return nil, err
	}
	var list []Filesystem
	for _, p := range parts {
		f, err := os.Open(p.node)
		if err != nil {
			return nil, fmt.Errorf("bootos: %w", err)
		}
		found, err := usedmap.Identify(f, math.MaxInt64)
		f.Close()
		if _, ok := mountOptions[found.Content]; ok && err == nil {
			list = append(list, Filesystem{p.node, p.number, found.Content, strings.ToLower(found.UUID), found.Label})
		}
	}
	return list, nil
}

// unmountLast takes the last volume away, and its folder.
func (d *Disk) unmountLast() error {
	n := len(d.Volumes) - 1
	err := d.Volumes[n].FS.(rootfs.FS).Root.Close()
	if uerr := unix.Unmount(d.mounts[n], 0); uerr != nil {
		err = errors.Join(err, fmt.Errorf("bootos: unmount %s: %w", d.mounts[n], uerr))
	} else {
		err = errors.Join(err, os.Remove(d.mounts[n]))
	}
	d.Volumes, d.mounts = d.Volumes[:n], d.mounts[:n]
	return err
}

// Close unmounts everything and removes the logical volumes' devices.
func (d *Disk) Close() error {
	var errs []error
	for len(d.Volumes) > 0 {
		errs = append(errs, d.unmountLast())
	}
	if d.dm != nil {
		for _, name := range d.mapped {
			errs = append(errs, d.dm.remove(name))
		}
		d.dm.close()
	}
	return errors.Join(errs...)
}

// partition is a device node and its number or, of a logical volume, its names.
type partition struct {
	node   string
	number int
	names  []string
}

// partitions lists a disk's partitions, or the disk itself if it has none.
func partitions(node string) ([]partition, error) {
	name := filepath.Base(node)
	dir := filepath.Join("/sys/class/block", name)
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("bootos: partitions of %s: %w", node, err)
	}
	var parts []partition
	for _, e := range list {
		b, err := os.ReadFile(filepath.Join(dir, e.Name(), "partition"))
		if err != nil {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			continue
		}
		parts = append(parts, partition{node: filepath.Join(filepath.Dir(node), e.Name()), number: n})
	}
	slices.SortFunc(parts, func(a, b partition) int { return cmp.Compare(a.number, b.number) })
	if len(parts) == 0 {
		parts = []partition{{node: node}}
	}
	return parts, nil
}
