//go:build slow

package qemutests_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"huck/imager/api"
	"huck/qemu-tests/disks"
	"huck/qemu-tests/proc"
	"huck/qemu-tests/vm"
)

// Where the root of the image's disk is, in MiB, and what is in it: the inode
// tables, all zeros but for the first of them, the files' content, and free blocks.
const (
	rootAt   = 1 + disks.TinyESPSize/mib
	rootSize = disks.TinySize/mib - 1 - rootAt
	tablesAt = rootAt + 4
	filesAt  = rootAt + 20
	freeAt   = rootAt + rootSize - 1
)

// device is something that an image is put on.
type device struct {
	name string
	// disks are what it is made of, and setUp, given them, says how; the last
	// that is said is its name. Empty is the one disk.
	disks []bare
	setUp string
	// part is what stands between the name of a disk and the number of a
	// partition, on what takes whole disks; "-" is for a filesystem only.
	part string
	// size of the device in MiB; as large as the image's it is captured again.
	size int64
	// enlarge makes one that is larger of it.
	enlarge string
	// faults are what its disks are bad at: the configuration of QEMU's blkdebug.
	faults string
}

// bare is a disk: its size is in MiB, its sectors' in bytes.
type bare struct {
	bus    vm.Bus
	serial string
	size   int64
	sector int
}

func devices() []device {
	const exact, more = disks.TinySize / mib, 2 * disks.TinySize / mib
	one := func(bus vm.Bus, name, part string, size int64, sector int) device {
		return device{name: name, disks: []bare{{bus, name, size, sector}}, part: part, size: size}
	}
	return []device{
		one(vm.NVMe, "nvme", "p", exact, 512),
		one(vm.NVMe, "nvme-4k", "p", more, 4096),
		one(vm.VirtioSCSI, "scsi", "", more, 512),
		one(vm.SATA, "sata", "", exact, 512),
		one(vm.USBStorage, "usb", "", more, 512),
		// It has commands for both, and says "illegal request" when they come.
		{name: "liar", disks: []bare{{vm.VirtioSCSI, "liar", exact, 512}}, size: exact, faults: `
[inject-error]
event = "none"
iotype = "discard"
errno = "22"
[inject-error]
event = "none"
iotype = "write-zeroes"
errno = "22"
`},
		{name: "linear", disks: []bare{{vm.VirtioSCSI, "pv-linear", 160, 512}}, part: "-", size: rootSize,
			setUp:   `lvm pvcreate -q $1; lvm vgcreate -q -s 1m linear $1; lvm lvcreate -q -n a -l 62 -Zn -Wn linear; echo /dev/mapper/linear-a`,
			enlarge: `lvm lvextend -q -L +40m linear/a`},
		{name: "thin", disks: []bare{{vm.VirtioSCSI, "pv-thin", 224, 512}}, part: "-", size: rootSize,
			setUp:   `lvm pvcreate -q $1; lvm vgcreate -q -s 1m thin $1; lvm lvcreate -q --type thin-pool -n pool -L 160m thin; lvm lvcreate -q -V 62m -n a --thinpool pool thin; tr '\0' '\252' </dev/zero | dd of=/dev/mapper/thin-a bs=1M count=62 iflag=fullblock; echo /dev/mapper/thin-a`,
			enlarge: `lvm lvextend -q -L +40m thin/a`},
		{name: "raid1", disks: []bare{{vm.VirtioSCSI, "raid-a", 112, 512}, {vm.SATA, "raid-b", 112, 512}}, part: "p", size: exact,
			setUp: `mdadm -q --create /dev/md0 --run --level=1 --assume-clean --size=96M --raid-devices=2 $1 $2; echo /dev/md0`},
		{name: "crypt", disks: []bare{{vm.SATA, "luks", rootSize, 512}}, part: "-", size: rootSize,
			setUp: `echo word | cryptsetup open --type plain -c aes-xts-plain64 -s 512 -h sha512 $1 secret; echo /dev/mapper/secret`},
	}
}

// TestDevices has Debian's kernel install images on what the appliance's and the
// host's own do not have or cannot use, and capture them again: disks on all
// buses, LVM, MD and dm-crypt.
func TestDevices(t *testing.T) {
	require(t, "cpio", "apt-get", "dpkg-deb", "ldd", "busybox", "lvm", "dmsetup", "cryptsetup")
	s := newSite(t, 30*time.Minute)
	g := s.deviceGuest()
	for _, d := range devices() {
		t.Run(d.name, func(t *testing.T) { g.on(t).takesImage(d) })
	}
	t.Run("partition", func(t *testing.T) { g.on(t).takesPartition() })
	t.Run("used", func(t *testing.T) { g.on(t).refusesUsed() })
	t.Run("faults", func(t *testing.T) { g.on(t).failsSafely() })
	t.Run("full", func(t *testing.T) { g.on(t).runsFull() })
	t.Run("gone", func(t *testing.T) { g.on(t).goes() })
	s.must(g.m.Type("poweroff"))
	s.must(g.m.WaitOff(s.ctx))
}

// deviceGuest is a machine with all devices, two images in /store, and the disk
// that they are of at /dev/vdb.
type deviceGuest struct {
	*labSite
	m            *vm.Machine
	golden, root captured
	serials      string // lines: name of a disk, =, serial number
}

// on has another test fail.
func (g *deviceGuest) on(t *testing.T) *deviceGuest {
	s, c := *g.labSite, *g
	s.t, c.labSite = t, &s
	return &c
}

func (s *labSite) deviceGuest() *deviceGuest {
	s.t.Helper()
	g := &deviceGuest{labSite: s}
	source, root, store := s.Path("source.raw"), s.Path("root.raw"), s.Path("store.raw")
	s.must(disks.Tiny{Init: s.Programs.TinyInit, Kernel: s.Programs.Kernel(), Payload: 16 * mib, Seed: 3, Inodes: 65536, FATSector: 4096}.WriteUEFI(s.ctx, source))
	s.must(piece(root, source, rootAt*mib, rootSize*mib))
	g.golden, g.root = s.capture(source, "golden"), s.capture(root, "root")
	s.disk("store", 256*mib)
	_, err := proc.Run(s.ctx, proc.Command{Args: []string{"mkfs.ext4", "-q", "-d", s.Store(), store}})
	s.must(err)

	kernel := s.kernel()
	cfg := s.guest(kernel, []string{s.Programs.Imager, kernel.Mdadm, "/bin/busybox", "/sbin/lvm", "/sbin/dmsetup", "/sbin/cryptsetup", "/sbin/e2fsck"},
		"crc32_generic", "crc32c_generic", "crct10dif_generic", "crc64_rocksoft_generic", "xts", "ecb", "sha512_generic", "algif_skcipher", "algif_hash", "nls_cp437", "nls_ascii", "virtio_pci", "virtio_blk",
		"nvme", "virtio_scsi", "sd_mod", "ahci", "xhci_pci", "usb_storage", "dm_thin_pool", "dm_crypt", "dm_flakey", "raid1", "loop", "ext4", "vfat")
	cfg.Name, cfg.Disks, cfg.Memory = "devices", []string{store, source}, 512
	cfg.Trace = []string{"pci_nvme_write", "pci_nvme_dsm_deallocate", "scsi_disk_emulate_command_UNMAP", "scsi_disk_emulate_command_WRITE_SAME"}
	g.m, err = s.Plug(s.ctx, cfg)
	s.must(err)
	var all []vm.Attached
	for _, d := range devices() {
		for _, a := range d.disks {
			file := s.Path(a.serial + ".raw")
			s.must(cmp.Or(aaFile(file, a.size*mib), os.WriteFile(file+".faults", []byte(d.faults), 0o600)))
			if d.faults != "" {
				file = "blkdebug:" + file + ".faults:" + file
			}
			all = append(all, vm.Attached{File: file, Bus: a.bus, Serial: a.serial, SectorSize: a.sector})
		}
	}
	g.m.Attach(all...)
	s.must(g.m.PowerOn())
	s.expect(g.m, `fsguest: ready`)
	g.sh(`/bin/busybox mkdir -p /applets /store /mnt/a /mnt/b /tmp /run /etc/lvm; /bin/busybox --install -s /applets; ln -s /proc/mounts /etc/mtab;
		printf 'global { thin_check_executable="" }\nactivation { udev_sync=0 udev_rules=0 monitoring=0 }\ndevices { obtain_device_list_from_udev=0 }\n' >/etc/lvm/lvm.conf;
		mount /dev/vda /store; dmesg -n 1`)
	g.serials = g.sh(`cd /sys/block; until ls -l | grep -q /usb; do usleep 50000; done;
		for d in nvme* sd*; do if readlink -f $d | grep -q /usb; then echo $d=usb; continue; fi;
		echo $d=$(cat $d/device/serial $d/device/vpd_pg80 2>/dev/null | tr -dc 'a-z0-9-'); done`)
	return g
}

// piece copies a piece of a file.
func piece(to, from string, at, n int64) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, io.NewSectionReader(f, at, n))
	return cmp.Or(err, w.Close())
}

// aaFile makes a file of bytes that no image has.
func aaFile(path string, size int64) error {
	return os.WriteFile(path, []byte(strings.Repeat("\xaa", int(size))), 0o600)
}

// sh has the machine's shell do something that is to succeed.
func (g *deviceGuest) sh(format string, args ...any) (said string) {
	g.t.Helper()
	return g.ends(0, "set -e; "+format, args...)
}

// ends has the machine's shell do something that is to end with a code.
func (g *deviceGuest) ends(code int, format string, args ...any) (said string) {
	g.t.Helper()
	start := time.Now()
	line := strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")
	answer := g.obeyed(g.m, "sh %s", line)
	number, quoted, _ := strings.Cut(answer, " ")
	said, err := strconv.Unquote(quoted)
	if err != nil || number != fmt.Sprint(code) {
		g.t.Fatalf("%s\nended with %s, not %d, %v:\n%s", line, number, code, err, said)
	}
	g.t.Logf("%v %s\n%s", time.Since(start).Round(time.Millisecond), line, said)
	return strings.TrimSpace(said)
}

// install installs and returns the result.
func (g *deviceGuest) install(ref, to, options string) (r api.Result) {
	g.t.Helper()
	said := g.ends(0, "imager --json --quiet install %s --store /store --to %s --verify %s", ref, to, options)
	g.must(json.Unmarshal([]byte(said[strings.LastIndex(said, "\n")+1:]), &r))
	return r
}

var commands = regexp.MustCompile(`pci_nvme_write cid \d+ opname '(\w+)' nsid \d+ nlb \d+ count (\d+)`)

// nvme tells how many bytes NVMe disks were sent since position from of what QEMU
// said, and how many they were told to make zeros.
func (g *deviceGuest) nvme(from int) (sent, zeroed int64) {
	for _, c := range commands.FindAllStringSubmatch(g.m.Said().String()[from:], -1) {
		n, _ := strconv.ParseInt(c[2], 10, 64) // digits
		if strings.HasSuffix(c[1], "WRITE_ZEROES") {
			zeroed += n
		} else {
			sent += n
		}
	}
	return sent, zeroed
}

// takesImage puts an image on a device in all ways, and captures it.
func (g *deviceGuest) takesImage(d device) {
	c := &copied{deviceGuest: g, device: d, img: g.golden, dev: g.setUp(d)}
	c.root = c.dev + d.part + "2"
	if d.part == "-" {
		c.img, c.root, c.free = g.root, c.dev, freeAt-rootAt
	} else {
		c.free = freeAt
	}
	c.installed()
	c.cleared()
	c.same()
	said := g.sh("imager --json --quiet capture %s --store /store --name %s", c.dev, d.name)
	if exact := d.size == rootSize || d.size == disks.TinySize/mib; exact && !strings.Contains(said, c.img.Digest) {
		g.t.Errorf("captured %s, not %s", said, c.img.Digest)
	}
	if d.enlarge != "" {
		g.sh(d.enlarge)
	}
	if d.enlarge != "" || d.size > disks.TinySize/mib {
		c.grown()
	}
	if d.enlarge != "" {
		g.install(g.golden.Ref, c.dev, "")
	}
}

// copied is a device with an image on it.
type copied struct {
	*deviceGuest
	device
	img captured
	// dev is its name, root that of what the filesystem is on.
	dev, root string
	// free is where a free MiB of it is.
	free int
}

// installed installs on what has other bytes everywhere.
func (c *copied) installed() {
	from := c.m.Said().Len()
	c.install(c.img.Ref, c.dev, "--unused leave")
	if c.disks[0].bus == vm.NVMe {
		sent, zeroed := c.nvme(from)
		c.t.Logf("%d bytes sent, %d made zeros by the disk", sent, zeroed)
		if zeroed < 12*mib || sent+zeroed > c.img.ImageBytes+2*mib {
			c.t.Error("that is too few zeros, or too much in all")
		}
	}
	left := c.sh("dd if=%s bs=1M skip=%d count=1 2>/dev/null | tr -d '\\252' | wc -c", c.dev, c.free)
	if left != "0" && c.name != "crypt" { // to which they are other ones
		c.t.Errorf("%s bytes of a free MiB are not left as they were", left)
	}
}

// cleared installs again and does away with unused blocks.
func (c *copied) cleared() {
	for _, unused := range []string{"leave", "discard", "zero"} {
		from := c.m.Said().Len()
		if r := c.install(c.img.Ref, c.dev, "--unused "+unused); r.WrittenBytes != 0 {
			c.t.Errorf("again, --unused %s: %+v", unused, r)
		}
		told := strings.Count(c.m.Said().String()[from:], "_dsm_deallocate ") + strings.Count(c.m.Said().String()[from:], "_UNMAP ")
		if bus := c.disks[0].bus; unused == "discard" && told == 0 && (bus == vm.NVMe || bus == vm.VirtioSCSI) {
			c.t.Error("the disk was not told to discard anything")
		}
	}
}

// same checks that the device has what the image's disk has.
func (c *copied) same() {
	c.sh("echo 3 >/proc/sys/vm/drop_caches; imager verify %s --store /store --against %s", c.img.Ref, c.dev)
	if c.root != c.dev {
		c.sh("blockdev --rereadpt %s", c.dev)
	}
	c.sh("e2fsck -f -n %s", c.root)
	c.sh("sha256sum <%s | grep -q $(sha256sum </dev/vdb2)", c.root)
}

// grown has the filesystem grow with the device, by the kernel: there is no
// resize2fs.
func (c *copied) grown() {
	files := func(dev string) string {
		return c.sh("mount -t ext4 -o ro %s /mnt/a; cd /mnt/a; find . -type f | sort | xargs sha256sum | sha256sum; cd /; umount /mnt/a", dev)
	}
	c.sh("dmesg -c >/dev/null")
	r := c.install(c.img.Ref, c.dev, "--grow")
	if r.Grown == nil || r.Grown.Filesystem != r.Grown.To || r.Grown.Filesystem < (rootSize+38)*mib {
		c.t.Errorf("grown %+v", r.Grown)
	}
	c.sh(`dmesg | grep 'EXT4-fs (loop[0-9]*): resized filesystem to'`)
	if c.root != c.dev {
		c.sh("blockdev --rereadpt %s", c.dev)
	}
	c.sh("echo 3 >/proc/sys/vm/drop_caches; e2fsck -f -n %s", c.root)
	if want, got := files("/dev/vdb2"), files(c.root); got != want {
		c.t.Errorf("the files are %s, not %s", got, want)
	}
}

// setUp makes a device of its disks and returns its name.
func (g *deviceGuest) setUp(d device) string {
	g.t.Helper()
	var names []string
	for _, a := range d.disks {
		names = append(names, g.find(a.serial))
	}
	if d.setUp == "" {
		return names[0]
	}
	said := g.sh("set -- %s; %s", strings.Join(names, " "), d.setUp)
	return said[strings.LastIndex(said, "\n")+1:]
}

// find returns the name of the disk with a serial number, all of which SCSI and
// NVMe tell in different places, some padded. USB's tell none of their own.
func (g *deviceGuest) find(serial string) string {
	g.t.Helper()
	for line := range strings.Lines(g.serials) {
		if name, has, _ := strings.Cut(strings.TrimSpace(line), "="); has == serial {
			return "/dev/" + name
		}
	}
	g.t.Fatalf("no disk %s among\n%s", serial, g.serials)
	return ""
}
