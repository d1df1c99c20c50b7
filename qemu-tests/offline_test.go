package qemutests_test

import (
	"strings"
	"testing"
	"time"

	"huck/qemu-tests/disks"
	"huck/qemu-tests/proc"
	"huck/qemu-tests/vm"
)

// A stick that carries an image installs it on a machine that is on no
// network, and asks nobody if it was made so. The machine has UEFI, and so has
// the disk.
func TestOfflineStick(t *testing.T) {
	s := newSite(t, 8*time.Minute)
	disk := s.Path("uefi-source.raw")
	s.must(disks.Tiny{Init: s.Programs.TinyInit, Kernel: s.Programs.Kernel(), Payload: 8 * mib, Seed: 5}.WriteUEFI(s.ctx, disk))
	m := s.offline(disk, vm.UEFI, "--unattended")
	s.must(m.PowerOn())
	s.expect(m, `huck: step medium: done .*/dev/sd\w, with golden:1`)
	s.expect(m, `huck: step verify: done`)
	s.login(m, tiny)
	if strings.Contains(m.Console().String(), "step network") {
		t.Error("the network was waited for")
	}
	m.Cut()
	if differ, _ := s.difference("golden", m.Disk(0)); differ > 1 { // the system that was started has written a word into its root
		t.Errorf("%d regions of the disk are not the image's", differ)
	}
}

// offline plugs in a machine without a network, with an empty disk and a stick
// that carries what is on the disk source.
func (s *labSite) offline(source string, firmware vm.Firmware, options ...string) *vm.Machine {
	s.t.Helper()
	img := s.capture(source, "golden")
	file := s.Path("golden.huck")
	_, err := s.Imager(s.ctx, "export", img.Ref, file, "--store", s.Store())
	s.must(err)
	iso, err := s.Programs.MediumWith(s.ctx, append([]string{"--image", file, "--then", "kexec"}, options...)...)
	s.must(err)
	target, err := s.Disk("offline", disks.TinySize+16*mib)
	s.must(err)
	m, err := s.Plug(s.ctx, vm.Config{Name: "offline", Disks: []string{target}, Firmware: firmware, Boot: vm.USB,
		Medium: iso})
	s.must(err)
	return m
}

// A stick that was not told to go ahead does nothing until somebody at the
// console has named the disk.
func TestOfflineStickAsks(t *testing.T) {
	s := newSite(t, 8*time.Minute)
	m := s.offline(s.tinyDisk("source", 8*mib, 5), vm.BIOS)
	hash := diskHash(t, m.Disk(0))
	s.must(m.PowerOn())
	s.expect(m, `step confirm: running`)
	s.must(pause(s.ctx, 3*time.Second))
	s.must(m.Type("yes"))
	s.must(pause(s.ctx, 2*time.Second))
	if diskHash(t, m.Disk(0)) != hash {
		t.Fatal("the disk was written to before its serial number was typed")
	}
	s.must(m.Type("offline-disk0"))
	s.login(m, tiny)
}

// The rescue shell of a stick has the imager.
func TestRescueStick(t *testing.T) {
	s := newSite(t, 6*time.Minute)
	source := s.tinyDisk("rescue", 8*mib, 6)
	medium, err := plainMedium()
	s.must(err)
	store := s.Path("backup.raw") // a disk to keep the image on
	_, err = proc.Run(s.ctx, proc.Command{Args: []string{"mkfs.ext4", "-q", "-F", store, "64M"}})
	s.must(err)
	m, err := s.Plug(s.ctx, vm.Config{Name: "rescue", Disks: []string{source, store}, Boot: vm.USB, Medium: medium})
	s.must(err)
	s.must(m.PowerOn())
	s.expect(m, `huck: step network: FAILED`)
	s.expect(m, `huck: keys: s or Enter opens a shell`)
	s.must(m.Type(""))
	s.expect(m, `a shell on`)
	s.must(m.Type("mkdir -p /mnt/b && mount -t ext4 /dev/vdb /mnt/b && imager capture /dev/vda --store /mnt/b/store --name kept && umount /mnt/b && echo rescue''d"))
	s.expect(m, `rescued`)
	m.Cut()
}
