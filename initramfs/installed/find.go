package installed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"strings"

	hw "huck/imager/disk"
	"huck/imager/image"
	"huck/imager/personal"
	"huck/imager/ptable"
	"huck/initramfs/bootos"
)

// disk is what stands on a disk.
type disk struct {
	filesystems []bootos.Filesystem
	parts       map[int]names // by number
	// roots are the filesystems that look like a system's root.
	roots []volume
	// cmdline is the command line of the kernel that the boot loader would start.
	cmdline string
}

// names are a partition's own UUID and name, in lower case where case is none.
type names struct{ uuid, name string }

// look finds out what is on the disk. Its filesystems are mounted below dir for
// that, for reading only.
func look(node, dir string, log *slog.Logger) (_ *disk, err error) {
	d := &disk{}
	if d.filesystems, err = bootos.Filesystems(node); err != nil {
		return nil, err
	}
	if d.parts, err = partNames(node); err != nil {
		return nil, err
	}
	mounted, err := bootos.Mount(node, dir, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mounted.Close()) }()
	for _, v := range mounted.Volumes {
		d.addRoots(v)
	}
	if e, err := bootos.Find(mounted.Volumes); err == nil {
		d.cmdline = e.Cmdline
	}
	return d, nil
}

// subvolumes are where distributions put their root on Btrfs, where it is not
// the default subvolume.
var subvolumes = []string{"@", "root", "@rootfs"}

func (d *disk) addRoots(v bootos.Volume) {
	f, ok := d.numbered(v.Partition)
	if !ok {
		return
	}
	if isRoot(v.FS, ".") {
		// Btrfs' default subvolume comes behind all of them, and it is the one.
		d.roots = slices.DeleteFunc(d.roots, func(r volume) bool { return r.Partition == v.Partition })
		d.roots = append(d.roots, volume{f, ""})
		return
	}
	for _, s := range subvolumes {
		if f.Kind == "btrfs" && isRoot(v.FS, s) {
			d.roots = append(d.roots, volume{f, s})
		}
	}
}

// isRoot tells whether a folder looks like the root of a Linux system.
func isRoot(fsys fs.FS, dir string) bool {
	for _, name := range []string{"etc", "sbin"} {
		if info, err := fs.Stat(fsys, path.Join(dir, name)); err != nil || !info.IsDir() {
			return false
		}
	}
	return true
}

func (d *disk) numbered(n int) (bootos.Filesystem, bool) {
	for _, f := range d.filesystems {
		if f.Partition == n {
			return f, true
		}
	}
	return bootos.Filesystem{}, false
}

// root chooses the root: as told, or as the boot loader would tell the kernel,
// or the only one that there is.
func (d *disk) root(hint *personal.Root) (volume, error) {
	if hint != nil {
		f, ok := d.numbered(hint.Partition)
		if !ok {
			return volume{}, fmt.Errorf("root: partition %d has no filesystem that can be mounted", hint.Partition)
		}
		return volume{f, hint.Subvolume}, nil
	}
	var told, flags string
	for word := range strings.FieldsSeq(d.cmdline) {
		if v, ok := strings.CutPrefix(word, "root="); ok {
			told = v
		}
		if v, ok := strings.CutPrefix(word, "rootflags="); ok {
			flags = v
		}
	}
	if v, ok := d.find(told); ok {
		v.subvolume = subvolumeOf(flags)
		if v.Kind == "btrfs" && v.subvolume == "" {
			for _, r := range d.roots {
				if r.Partition == v.Partition {
					v = r
				}
			}
		}
		return v, nil
	}
	switch len(d.roots) {
	case 1:
		return d.roots[0], nil
	case 0:
		if told != "" {
			return volume{}, fmt.Errorf("its boot loader names the root %s, which is no ext4, XFS or Btrfs partition of it; no other filesystem looks like a root", told)
		}
		return volume{}, errors.New("no ext4, XFS or Btrfs filesystem of it looks like a system's root; \"root\" of the document can name it")
	}
	return volume{}, fmt.Errorf("it has %d filesystems that look like a system's root: %v; \"root\" of the document can name one", len(d.roots), d.roots)
}

// find returns the filesystem that a root= or an fstab means.
func (d *disk) find(what string) (volume, bool) {
	kind, value, ok := strings.Cut(what, "=")
	if rest, isPath := strings.CutPrefix(what, "/dev/disk/by-"); isPath {
		kind, value, ok = strings.Cut(rest, "/")
	}
	value = strings.Trim(value, `"`)
	for _, f := range d.filesystems {
		p := d.parts[f.Partition]
		var same bool
		switch strings.ToUpper(kind) {
		case "UUID":
			same = strings.EqualFold(f.UUID, value)
		case "LABEL":
			same = f.Label == value
		case "PARTUUID":
			same = strings.EqualFold(p.uuid, value)
		case "PARTLABEL":
			same = p.name == value
		default:
			same = !ok && f.Partition > 0 && plainPartition(what) == f.Partition
		}
		if same && (value != "" || !ok) {
			return volume{f, ""}, true
		}
	}
	return volume{}, false
}

// plainPartition returns the number at the end of a name such as /dev/sda2 or
// /dev/nvme0n1p2. The disk in it may have another name here.
func plainPartition(what string) int {
	name, ok := strings.CutPrefix(what, "/dev/")
	for _, kind := range []string{"sd", "vd", "hd", "xvd", "nvme", "mmcblk"} {
		if rest, has := strings.CutPrefix(name, kind); has && ok {
			if at := strings.LastIndexByte(rest, 'p'); at >= 0 && strings.ContainsAny(kind, "nm") {
				rest = rest[at+1:]
			} else {
				rest = strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyz")
			}
			n, err := strconv.Atoi(rest)
			if err != nil {
				return -1
			}
			return n
		}
	}
	return -1
}

// partNames reads the partitions' own UUIDs and names. An MBR's are made of the
// disk's signature, as the kernel does (block/partitions/msdos.c).
func partNames(node string) (map[int]names, error) {
	dev, err := hw.Open(node, false)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	t, err := ptable.Read(dev, dev.Size(), max(dev.SectorSize(), 512))
	if err != nil {
		return nil, err
	}
	list := make(map[int]names, len(t.Parts))
	var mbr [image.BlockSize]byte
	if t.Kind == "mbr" {
		if _, err := dev.ReadAt(mbr[:], 0); err != nil {
			return nil, err
		}
	}
	for _, p := range t.Parts {
		n := names{strings.ToLower(p.UUID), p.Name}
		if t.Kind == "mbr" {
			n.uuid = fmt.Sprintf("%08x-%02x", binary.LittleEndian.Uint32(mbr[440:]), p.Number)
		}
		list[p.Number] = n
	}
	return list, nil
}

// tableLine is what an fstab says of one folder.
type tableLine struct{ what, on, subvolume string }

// parseTable reads an fstab (fstab(5)) and returns what is on a disk and has a
// place in the tree. Lines that make no sense are left out, as mount(8) does.
func parseTable(text string) []tableLine {
	var list []tableLine
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[0], "#") || !path.IsAbs(f[1]) || f[2] == "swap" || !onDisk(f[0]) {
			continue
		}
		l := tableLine{what: f[0], on: path.Clean(unescape(f[1]))}
		if len(f) > 3 {
			l.subvolume = subvolumeOf(f[3])
		}
		list = append(list, l)
	}
	return list
}

// onDisk tells apart disks from tmpfs, NFS and the like.
func onDisk(what string) bool {
	return strings.HasPrefix(what, "/dev/") || strings.Contains(what, "=")
}

// subvolumeOf returns the subvolume among mount options.
func subvolumeOf(options string) string {
	for o := range strings.SplitSeq(options, ",") {
		if s, ok := strings.CutPrefix(o, "subvol="); ok {
			return strings.TrimPrefix(s, "/")
		}
	}
	return ""
}

// unescape reads \040 and the like.
func unescape(s string) string {
	for _, c := range []string{" ", "\t", "\n", `\`} {
		s = strings.ReplaceAll(s, fmt.Sprintf(`\%03o`, c[0]), c)
	}
	return s
}
