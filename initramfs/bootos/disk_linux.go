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
	"huck/initramfs/rootfs"
)

// Disk is a disk whose filesystems are mounted for reading, none of them
// changed by that: a journal is not replayed, for a hibernated system would
// find its own disk moved on without it.
type Disk struct {
	Volumes []Volume
	mounts  []string
}

// mountOptions keep each kind from writing in spite of MS_RDONLY.
var mountOptions = map[string]string{
	"ext4":  "noload",
	"xfs":   "norecovery,nouuid",
	"btrfs": "rescue=nologreplay",
	"vfat":  "",
}

// Mount mounts what it knows of the disk with the given device node below dir,
// which must exist. What cannot be mounted is logged and left out.
func Mount(node, dir string, log *slog.Logger) (*Disk, error) {
	parts, err := partitions(node)
	if err != nil {
		return nil, err
	}
	d := &Disk{}
	for _, p := range parts {
		v, where, err := mountPart(p, dir)
		if err != nil {
			log.Info("not looked into", "dev", p.node, "err", err)
			continue
		}
		d.Volumes = append(d.Volumes, v)
		d.mounts = append(d.mounts, where)
	}
	return d, nil
}

func mountPart(p partition, dir string) (Volume, string, error) {
	f, err := os.Open(p.node)
	if err != nil {
		return Volume{}, "", err
	}
	found, err := usedmap.Identify(f, math.MaxInt64)
	f.Close()
	if err != nil {
		return Volume{}, "", err
	}
	options, ok := mountOptions[found.Content]
	if !ok {
		return Volume{}, "", fmt.Errorf("bootos: no filesystem known here, but %q", found.Content)
	}
	where := filepath.Join(dir, filepath.Base(p.node))
	if err := os.MkdirAll(where, 0o755); err != nil {
		return Volume{}, "", err
	}
	flags := uintptr(unix.MS_RDONLY | unix.MS_NOEXEC | unix.MS_NODEV | unix.MS_NOSUID)
	if err := unix.Mount(p.node, where, found.Content, flags, options); err != nil {
		return Volume{}, "", fmt.Errorf("mount %s: %w", found.Content, err)
	}
	root, err := os.OpenRoot(where)
	if err != nil {
		return Volume{}, "", errors.Join(err, unix.Unmount(where, unix.MNT_DETACH))
	}
	// The root keeps its folder open: FS outlives it only as far as the file descriptor does.
	return Volume{Partition: p.number, UUID: strings.ToLower(found.UUID), Label: found.Label, FS: rootfs.FS{Root: root}}, where, nil
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

// Filesystems lists those of a disk that Mount would mount.
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

// Close unmounts everything.
func (d *Disk) Close() error {
	var errs []error
	for i, v := range d.Volumes {
		errs = append(errs, v.FS.(rootfs.FS).Root.Close())
		if err := unix.Unmount(d.mounts[i], 0); err != nil {
			errs = append(errs, fmt.Errorf("bootos: unmount %s: %w", d.mounts[i], err))
		}
	}
	return errors.Join(errs...)
}

// partition is a device node and its number.
type partition struct {
	node   string
	number int
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
		parts = append(parts, partition{filepath.Join(filepath.Dir(node), e.Name()), n})
	}
	slices.SortFunc(parts, func(a, b partition) int { return cmp.Compare(a.number, b.number) })
	if len(parts) == 0 {
		parts = []partition{{node, 0}}
	}
	return parts, nil
}
