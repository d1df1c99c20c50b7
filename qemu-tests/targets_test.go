package qemutests_test

import (
	"os"
	"testing"
	"time"

	"huck/qemu-tests/disks"
	"huck/qemu-tests/vm"
)

// A machine with four disks on three buses, which it finds in another order
// each time: the one that is named gets the image, though its sectors have 4096
// bytes and it is larger, and the others are left alone. While another disk
// holds the same system, the image is refused where that was asked for.
func TestTargets(t *testing.T) {
	s := newSite(t, 8*time.Minute)
	source := s.tinyDisk("tiny-source", 8*mib, 1)
	img := s.capture(source, "golden")
	s.must(s.StartServer(s.ctx, rate))
	m := s.machine("many", 16*mib, 0)

	twin, err := os.ReadFile(source)
	s.must(err)
	a := vm.Attached{File: s.Path("a.raw"), Bus: vm.NVMe, Serial: "NV-A"}
	s.must(os.WriteFile(a.File, twin, 0o600))
	b := vm.Attached{File: s.disk("b", disks.TinySize+64*mib), Bus: vm.NVMe, Serial: "NV-B", SectorSize: 4096}
	stick := vm.Attached{File: s.disk("stick", 32*mib), Bus: vm.USBStorage, Serial: "STICK"}

	m.Attach(a, b, stick)
	untouched := diskHash(t, b.File)
	s.must(m.PowerOn())
	_, err = s.Assign(s.ctx, m, img.Ref, "serial=NV-B", "--once", "--grow", "--duplicates", "refuse")
	s.must(err)
	s.expect(m, `huck: step receive: FAILED: .*refused: the image brings what another disk has already: filesystem UUID \S+ is on /dev/nvme\dn1 partition 1`)
	m.Cut()
	if diskHash(t, b.File) != untouched {
		t.Error("refused, and yet written to")
	}

	// The other system is gone, and all is found the other way round.
	s.must(os.Truncate(a.File, 0))
	s.must(os.Truncate(a.File, disks.TinySize))
	before := [][32]byte{diskHash(t, a.File), diskHash(t, stick.File), diskHash(t, m.Disk(0))}
	m.Attach(stick, b, a)
	node, from := s.started(m, img.Ref, "transport=nvme,largest", "--once", "--grow")
	s.verified(node, from, img)
	r := s.installed(node, from, img)
	if r.Grown == nil || r.Grown.To <= r.Grown.From || r.Grown.Filesystem <= disks.TinyRootSize {
		t.Errorf("grown %+v", r.Grown)
	}
	s.login(m, tiny)
	m.Cut()
	for i, file := range []string{a.File, stick.File, m.Disk(0)} {
		if diskHash(t, file) != before[i] {
			t.Errorf("%s was written to", file)
		}
	}
}

// disk makes an empty disk.
func (s *labSite) disk(name string, size int64) string {
	s.t.Helper()
	path, err := s.Disk(name, size)
	s.must(err)
	return path
}

// A machine with UEFI that starts from the network first comes from the reset
// after an installation to its disk: it has an entry of its own, which goes
// next, once.
func TestRareBootEntry(t *testing.T) {
	s := newSite(t, 6*time.Minute)
	disk := s.Path("uefi-source.raw")
	s.must(disks.Tiny{Init: s.Programs.TinyInit, Kernel: s.Programs.Kernel(), Payload: 8 * mib, Seed: 5}.WriteUEFI(s.ctx, disk))
	img := s.capture(disk, "golden")
	s.must(s.StartServer(s.ctx, rate))
	m, err := s.Plug(s.ctx, vm.Config{Name: "uefi", Network: s.Network, Disks: []string{s.disk("uefi", disks.TinySize)}, Firmware: vm.UEFI, NIC: vm.BareHTTP})
	s.must(err)
	s.must(m.PowerOn())
	_, err = s.Assign(s.ctx, m, img.Ref, "only", "--once", "--then", "reboot")
	s.must(err)
	s.expect(m, `huck: step firmware: done in \S+ \(Boot[0-9A-F]{4}, \\EFI\\BOOT\\BOOTX64\.EFI\)`)
	s.expect(m, `BdsDxe: starting Boot[0-9A-F]{4} "Huck: installed system" from HD\(1,GPT,`)
}
