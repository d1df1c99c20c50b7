//go:build slow

package qemutests_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"huck/qemu-tests/disks"
)

// refusesUsed tries to install on disks that are in use by way of what stands on
// them or is made of them: that is said, and nothing is written.
func (g *deviceGuest) refusesUsed() {
	nvme := g.find("nvme")
	g.sh("blockdev --rereadpt %s; mount -t ext4 -o ro %sp2 /mnt/b", nvme, nvme)
	defer g.sh("umount /mnt/b")
	for _, c := range []struct{ disk, part, use string }{
		{"nvme", "", nvme + "p2 is mounted on /mnt/b"},
		{"nvme", "p2 --partition 2", nvme + "p2 is mounted on /mnt/b"},
		{"pv-linear", "", `\S+ is part of /dev/dm-\d+ \(linear-a\)`},
		{"pv-thin", "", `\S+ is part of /dev/dm-\d+ \(thin-pool_t(meta|data)\)`},
		{"raid-a", "", `\S+ is part of /dev/md0`},
		{"raid-b", "", `\S+ is part of /dev/md0`},
		{"luks", "", `\S+ is part of /dev/dm-\d+ \(secret\)`},
	} {
		dev := g.find(c.disk)
		const writes = `awk '{print $5}' /sys/block/$(basename %s)/stat`
		g.sh("sync")
		before := g.sh(writes, dev)
		said := g.ends(3, "imager --json --quiet install golden --store /store --to %s%s", dev, c.part)
		if !regexp.MustCompile(dev + `\S* refused: ` + c.use).MatchString(said) {
			g.t.Errorf("%s: %s", c.disk, said)
		}
		if after := g.sh(writes, dev); after != before {
			g.t.Errorf("%s: %s writes before, %s after", c.disk, before, after)
		}
	}
}

// takesPartition puts one partition of the image into one of a disk.
func (g *deviceGuest) takesPartition() {
	part := g.find("nvme") + "p2"
	g.sh("tr '\\0' '\\252' </dev/zero | dd of=%s bs=1M count=%d iflag=fullblock", part, rootSize)
	g.install("golden", part, "--partition 2 --unused zero")
	g.sh("echo 3 >/proc/sys/vm/drop_caches; sha256sum <%s | grep -q $(sha256sum </dev/vdb2); e2fsck -f -n %s", part, part)
	g.install("golden", g.find("nvme")+"p1", "--partition 1")
	g.sh("mount -t vfat -o ro %sp1 /mnt/a; mount -t vfat -o ro /dev/vdb1 /mnt/b; cmp /mnt/a/vmlinuz /mnt/b/vmlinuz; umount /mnt/a /mnt/b", g.find("nvme"))
	g.sh("imager verify golden --store /store --against %s", g.find("nvme"))
}

// table makes /dev/mapper/bad the disk named dev but for the mebibyte at, which
// is of the given kind.
func (g *deviceGuest) table(dev string, at int, kind string) {
	g.t.Helper()
	const s = 2048 // sectors of a MiB
	g.sh(`dmsetup remove --noudevsync bad 2>/dev/null || true; blockdev --flushbufs %s;
		printf '0 %d linear %s 0\n%d %d %s\n%d %d linear %s %d\n' | dmsetup create --noudevsync bad; dmsetup mknodes`,
		dev, at*s, dev, at*s, s, kind, (at+1)*s, (disks.TinySize/mib-at-1)*s, dev, (at+1)*s)
}

// offset finds the offset that an error names.
func (g *deviceGuest) offset(said, pattern string) int64 {
	g.t.Helper()
	m := regexp.MustCompile(pattern + ` at (\d+)`).FindStringSubmatch(said)
	if m == nil {
		g.t.Fatalf("no %s in %s", pattern, said)
	}
	n, err := strconv.ParseInt(m[len(m)-1], 10, 64)
	g.must(err)
	return n
}

// failsSafely installs on a disk that fails in one place, and captures it.
func (g *deviceGuest) failsSafely() {
	disk := g.find("sata")
	dead := func() {
		g.t.Helper()
		said := g.sh("dd if=%s bs=64k count=1 2>/dev/null | tr -d '\\0' | wc -c; dd if=%s bs=512 skip=%d 2>/dev/null | tr -d '\\0' | wc -c", disk, disk, disks.TinySize/512-1)
		if said != "0\n0" {
			g.t.Errorf("what a firmware looks at is still there: %s", said)
		}
	}
	for _, at := range []int{tablesAt, filesAt} {
		g.table(disk, at, "error")
		said := g.ends(1, "imager --json --quiet install golden --store /store --to /dev/mapper/bad --verify")
		if off := g.offset(said, `(write|zero) /dev/mapper/bad`); off >= int64(at+1)*mib || off < int64(at-64)*mib {
			g.t.Errorf("the error at %d MiB is said to be at %d", at, off)
		}
		g.sh("dmsetup remove --noudevsync bad")
		dead()
	}
	g.install("golden", disk, "")
	g.table(disk, filesAt, "error")
	said := g.ends(1, "imager --json --quiet capture /dev/mapper/bad --store /store --name bad")
	if off := g.offset(said, `read /dev/mapper/bad`); off < filesAt*mib || off >= (filesAt+1)*mib {
		g.t.Errorf("what cannot be read at %d MiB is said to be at %d", filesAt, off)
	}
	said = g.sh("imager --json --quiet capture /dev/mapper/bad --store /store --name bad --skip-bad 2>/dev/null")
	var got struct {
		BadBytes int64 `json:"bad_bytes"`
	}
	g.must(json.Unmarshal([]byte(said), &got))
	if got.BadBytes != mib {
		g.t.Errorf("%d bytes are bad: %s", got.BadBytes, said)
	}

	g.sh("dmsetup remove --noudevsync bad; tr '\\0' '\\252' </dev/zero | dd of=%s seek=%d bs=1M count=1 iflag=fullblock", disk, filesAt)
	g.table(disk, filesAt, fmt.Sprintf("flakey %s %d 0 1000 1 drop_writes", disk, filesAt*2048))
	said = g.ends(5, "imager --json --quiet install golden --store /store --to /dev/mapper/bad --verify")
	if !strings.Contains(said, "/dev/mapper/bad after writing: 4 of ") || !strings.Contains(said, "in partition 2 (ext4)") {
		g.t.Error(said)
	}
	g.sh("dmsetup remove --noudevsync bad")
	dead()
}

// runsFull installs on a volume of a thin pool that has too little room left.
func (g *deviceGuest) runsFull() {
	g.sh(`lvm lvchange -q --errorwhenfull y thin/pool; lvm lvcreate -q -V 96m -n b --thinpool pool thin; lvm lvcreate -q -V 32m -n c --thinpool pool thin;
		for v in a c; do tr '\0' '\252' </dev/zero | dd of=/dev/mapper/thin-$v bs=1M count=$(($(blockdev --getsz /dev/mapper/thin-$v)/2048)) iflag=fullblock; done`)
	said := g.ends(1, "imager --json --quiet install golden --store /store --to /dev/mapper/thin-b")
	if !regexp.MustCompile(`(write|zero) /dev/mapper/thin-b at \d+.*: no space left on device`).MatchString(said) {
		g.t.Error(said)
	}
	if head := g.sh("dd if=/dev/mapper/thin-b bs=64k count=1 2>/dev/null | tr -d '\\0' | wc -c"); head != "0" {
		g.t.Errorf("%s bytes at the beginning are not zeros", head)
	}
}

// goes takes a disk away once it is written to, and another once it is read.
func (g *deviceGuest) goes() {
	for _, c := range []struct {
		disk, what string
		column     int // of its statistics
		said       string
	}{
		{"liar", "install golden --no-plan --to", 5, `(read|write|zero|sync) %s\b.*: the device is gone`},
		{"usb", "capture --skip-bad --name gone", 1, `read %s\b.*: the device is gone`},
	} {
		dev := g.find(c.disk)
		said := g.ends(1, `cd /sys/block/$(basename %s); n() { awk '{print $%d}' stat; }; sync; before=$(n); imager --json --quiet %s %s --store /store & job=$!;
			until test $(n) -gt $before || ! kill -0 $job; do :; done; echo 1 >device/delete; wait $job`, dev, c.column, c.what, dev)
		if !regexp.MustCompile(fmt.Sprintf(c.said, dev)).MatchString(said) {
			g.t.Error(said)
		}
	}
}
