package disks

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"huck/qemu-tests/proc"
)

// Layout is how a Debian lies on its disk behind the BIOS boot partition and
// the ESP.
type Layout struct {
	// Hostname tells the systems apart.
	Hostname string

	name     string // of the file in the cache
	packages string // beside debianPackages
	fstab    string // its lines for /
	root     string // the kernel's root= and what goes with it, at the first boot
	fill     string // a script
	lvm      bool
	// rootAt is where the filesystem with / stands on the disk, and check what
	// judges a copy of it.
	rootAt, rootSize int64
	check            []string
}

// Ext4 has swap and / in partitions 3 and 4.
func Ext4() Layout {
	return Layout{
		Hostname: DebianHostname, name: "debian", packages: "e2fsprogs", fill: ext4Script,
		fstab: "UUID=" + rootUUID + " / ext4 errors=remount-ro 0 1\n", root: "/dev/vda4",
		rootAt: DebianRootStart, rootSize: DebianRootSize, check: []string{"e2fsck", "-f", "-n"},
	}
}

// Btrfs has swap in partition 3 and the subvolumes @ and @home in 4, as
// Debian's installer makes the first and most people the second.
func Btrfs() Layout {
	return Layout{
		Hostname: "huck-btrfs", name: "debian-btrfs", packages: "btrfs-progs", fill: btrfsScript,
		fstab: "UUID=" + rootUUID + " / btrfs subvol=@ 0 0\nUUID=" + rootUUID + " /home btrfs subvol=@home 0 0\n", root: "/dev/vda4 rootflags=subvol=@",
		rootAt: DebianRootStart, rootSize: DebianRootSize, check: []string{"btrfs", "check"},
	}
}

// The physical volume of XFSOnLVM begins where the swap partition of the others
// does, and its extents of 4 MiB 1 MiB behind that.
const (
	pvStart, pvSize   = swapStart, DebianSize - swapStart - 1*mib
	lvSwap, lvExtents = 64 * mib, pvStart + 1*mib
	lvRoot            = 880 * mib
)

// XFSOnLVM has all in partition 3, a physical volume of the volume group huck:
// swap and / with /boot in it.
func XFSOnLVM() Layout {
	return Layout{
		Hostname: "huck-lvm", name: "debian-lvm", packages: "xfsprogs,lvm2", fill: xfsScript, lvm: true,
		fstab: "/dev/mapper/huck-root / xfs defaults 0 0\n", root: "/dev/mapper/huck-root",
		rootAt: lvExtents + lvSwap, rootSize: lvRoot, check: []string{"xfs_repair", "-n"},
	}
}

// Check has the filesystem's own checker judge the / of a disk that is off.
func (l Layout) Check(ctx context.Context, disk string) error {
	return checkPart(ctx, disk, l.rootAt, l.rootSize, l.check)
}

// assemble makes the filesystems and puts them on the disk.
func (d *debian) assemble(ctx context.Context) error {
	d.log.Info("making filesystems")
	esp, swap, root := filepath.Join(d.work, "esp"), filepath.Join(d.work, "swap"), filepath.Join(d.work, "root")
	for path, size := range map[string]int64{esp: espSize, swap: swapSize, root: d.rootSize} {
		if err := blank(path, size); err != nil {
			return err
		}
	}
	readme := filepath.Join(d.work, "readme.txt")
	if err := os.WriteFile(readme, []byte("the ESP of "+d.Hostname+"\n"), 0o644); err != nil {
		return err
	}
	err := runAll(ctx,
		[]string{"mkfs.vfat", "-F", "32", "-n", "ESP", "-i", strings.ReplaceAll(espUUID, "-", ""), esp},
		[]string{"mcopy", "-i", esp, readme, "::README.TXT"},
		[]string{"mkswap", "-q", "-U", swapUUID, swap},
	)
	if err != nil {
		return err
	}
	if err := d.unshared(ctx, "", "sh", "-ec", d.fill, "sh", d.tree, root); err != nil {
		return err
	}
	part := func(n int) string { return fmt.Sprintf("64656269-616e-4000-8000-%012d", n) }
	parts := []partition{
		{start: 1 * mib, size: 1 * mib, kind: "21686148-6449-6E6F-744E-656564454649", name: "bios", uuid: part(1)},
		{start: espStart, size: espSize, kind: "U", name: "esp", uuid: part(2), content: esp},
	}
	if d.lvm {
		parts = append(parts, partition{start: pvStart, size: pvSize, kind: "E6D6D379-F507-44C2-A23C-238F2A3DF928", name: "lvm", uuid: part(3)})
		if err := writeDisk(ctx, d.disk, DebianSize, part(0), parts); err != nil {
			return err
		}
		return d.volumes(ctx, swap, root)
	}
	return writeDisk(ctx, d.disk, DebianSize, part(0), append(parts,
		partition{start: swapStart, size: swapSize, kind: "S", name: "swap", uuid: part(3), content: swap},
		partition{start: DebianRootStart, size: DebianRootSize, kind: "L", name: "root", uuid: part(4), content: root},
	))
}

// The scripts that fill the file $2 with a filesystem of the tree $1. What they
// mount is gone with the mount namespace they run in.
const (
	mountScript = `m=$(mktemp -d); trap 'cd /; umount "$m"; rmdir "$m"' EXIT; mount -o loop "$2" "$m"; `
	ext4Script  = `mkfs.ext4 -q -F -U ` + rootUUID + ` -d "$1" "$2"`
	xfsScript   = `mkfs.xfs -q -m uuid=` + rootUUID + ` "$2"; ` + mountScript + `cp -a "$1/." "$m"`
	btrfsScript = `mkfs.btrfs -q -U ` + rootUUID + ` "$2"; ` + mountScript +
		`btrfs subvolume create "$m/@"; btrfs subvolume create "$m/@home"; cp -a "$1/." "$m/@"; echo kept >"$m/@home/file"`
)

// lvmScript makes logical volumes of $3 and $4 bytes on the loop device $1, with
// LVM's own files in $2. There is no device-mapper in it: nothing is activated.
const lvmScript = `
export LVM_SYSTEM_DIR="$2" LVM_SUPPRESS_FD_WARNINGS=1
conf="devices { dir=\"$2\" scan=[\"/dev\"] use_devicesfile=0 hints=\"none\" filter=[\"a|^$1\$|\",\"r|.*|\"] obtain_device_list_from_udev=0 external_device_info_source=\"none\" }
  global { activation=0 use_lvmpolld=0 locking_dir=\"$2\" } backup { backup=0 archive=0 }"
lvm pvcreate --config "$conf" --dataalignment 1m "$1"
lvm vgcreate --config "$conf" huck "$1"
lvm lvcreate --config "$conf" -an -Zn -Wn -L "$3b" -n swap huck
lvm lvcreate --config "$conf" -an -Zn -Wn -L "$4b" -n root huck
`

// volumes makes the logical volumes and copies their contents to where the
// metadata say they begin: one behind the other, as on an empty volume.
func (d *debian) volumes(ctx context.Context, swap, root string) error {
	out, err := proc.Run(ctx, proc.Command{Args: []string{"losetup", "--find", "--show", "--offset", fmt.Sprint(pvStart), "--sizelimit", fmt.Sprint(pvSize), d.disk}})
	if err != nil {
		return err
	}
	dev := strings.TrimSpace(string(out))
	files := filepath.Join(d.work, "lvm")
	if err = os.Mkdir(files, 0o700); err == nil {
		err = d.unshared(ctx, "", "sh", "-ec", lvmScript, "sh", dev, files, fmt.Sprint(lvSwap), fmt.Sprint(lvRoot))
	}
	if derr := runAll(context.WithoutCancel(ctx), []string{"losetup", "--detach", dev}); err == nil {
		err = derr
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(d.disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for _, p := range []partition{{start: lvExtents, size: lvSwap, content: swap}, {start: d.rootAt, size: lvRoot, content: root}} {
		if err := copyInto(f, p); err != nil {
			f.Close()
			return err
		}
	}
	return f.Close()
}

// CheckExt4 has e2fsck look at the ext4 filesystem at a disk's byte offset.
func CheckExt4(ctx context.Context, disk string, offset, size int64) error {
	return checkPart(ctx, disk, offset, size, []string{"e2fsck", "-f", "-n"})
}

// checkPart copies what stands at a disk's byte offset to a file beside it and
// has a checker look at it. An error says what is wrong with it.
func checkPart(ctx context.Context, disk string, offset, size int64, check []string) error {
	src, err := os.Open(disk)
	if err != nil {
		return fmt.Errorf("disks: %v", err)
	}
	defer src.Close()
	part := disk + ".fsck"
	defer os.Remove(part)
	if err := extract(part, io.NewSectionReader(src, offset, size)); err != nil {
		return fmt.Errorf("disks: extract filesystem: %v", err)
	}
	return runAll(ctx, append(check[:len(check):len(check)], part))
}
