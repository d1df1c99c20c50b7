//go:build slow

package qemutests_test

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"huck/qemu-tests/disks"
	"huck/qemu-tests/proc"
	"huck/qemu-tests/vm"
)

// TestOSDisks captures real systems and installs them in two ways: with imager
// on a disk full of random bytes, which the BIOS then boots by the system's own
// GRUB, and with the appliance, which starts the system by kexec. Both end at
// the login prompt of a system that can write, and with a sound filesystem.
func TestOSDisks(t *testing.T) {
	for _, layout := range []disks.Layout{disks.Ext4(), disks.XFSOnLVM(), disks.Btrfs()} {
		t.Run(layout.Hostname, func(t *testing.T) {
			for _, tool := range []string{"mkfs.xfs", "mkfs.btrfs", "lvm", "losetup", "mount"} {
				if _, err := proc.Run(t.Context(), proc.Command{Args: []string{"which", tool}}); err != nil {
					t.Fatalf("%s is required: %v", tool, err)
				}
			}
			s := newSite(t, 40*time.Minute)
			source, err := disks.Debian(s.ctx, disks.CacheDir(), layout, slog.New(slog.NewTextHandler(t.Output(), nil)))
			s.must(err)
			img := s.capture(source, "golden")
			if img.ImageBytes > disks.DebianSize*3/4 {
				t.Errorf("%d bytes used of a disk with %d: some of it was taken whole", img.ImageBytes, disks.DebianSize)
			}
			t.Run("BIOS", func(t *testing.T) { s.fromDisk(t, layout, img.Ref) })
			t.Run("kexec", func(t *testing.T) { s.byKexec(t, layout, img.Ref) })
		})
	}
}

// fromDisk installs with imager and boots the disk.
func (s *labSite) fromDisk(t *testing.T, layout disks.Layout, ref string) {
	disk := s.Path("random.raw")
	if err := randomFile(disk, disks.DebianSize+32*mib); err != nil { // the backup GPT has to move
		t.Fatal(err)
	}
	if _, err := s.Imager(s.ctx, "install", ref, "--store", s.Store(), "--to", disk, "--verify"); err != nil {
		t.Fatal(err)
	}
	if err := layout.Check(s.ctx, disk); err != nil {
		t.Fatal(err)
	}
	m, err := vm.New(s.ctx, 200, vm.Config{Name: "from-disk", Disks: []string{disk}, LogDir: filepath.Dir(s.Path("")), Boot: vm.Disk, Memory: 512})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.PowerOn(); err != nil {
		t.Fatal(err)
	}
	defer m.Cut()
	s.used(t, m, layout)
}

// byKexec has a machine boot the appliance, install and kexec.
func (s *labSite) byKexec(t *testing.T, layout disks.Layout, ref string) {
	if err := s.StartServer(s.ctx, rate); err != nil {
		t.Fatal(err)
	}
	m, err := s.AddMachine(s.ctx, "kexec", disks.DebianSize+32*mib, 512)
	if err != nil {
		t.Fatal(err)
	}
	if err := randomFile(m.Disk(0), disks.DebianSize+32*mib); err != nil {
		t.Fatal(err)
	}
	if err := m.PowerOn(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Assign(s.ctx, m, ref, "only", "--once", "--then", "kexec"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Expect(s.ctx, `kexec`, 0); err != nil {
		t.Fatal(err)
	}
	s.used(t, m, layout)
}

// used logs in, writes, switches off and has the filesystem checked.
func (s *labSite) used(t *testing.T, m *vm.Machine, layout disks.Layout) {
	t.Helper()
	at := 0
	for _, turn := range []struct{ answer, typed string }{
		{layout.Hostname + " login: ", disks.DebianUser},
		{"Password: ", disks.DebianPassword},
		{`# `, `findmnt -n -o FSTYPE,OPTIONS /`},
		{`(ext4|xfs|btrfs) +rw`, `swapon --show=SIZE --noheadings`},
		{`64M`, "echo kept > /root/written && sync && echo can-$((1+1))-write"},
		{`can-2-write`, "systemctl poweroff"},
	} {
		var err error
		if _, at, err = m.Expect(s.ctx, turn.answer, at); err != nil {
			t.Fatal(err)
		}
		t.Logf("%q %v after power-on", turn.answer, time.Since(m.OnAt()).Round(time.Second))
		if err := m.Type(turn.typed); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.WaitOff(s.ctx); err != nil {
		t.Fatal(err)
	}
	if err := layout.Check(s.ctx, m.Disk(0)); err != nil {
		t.Error(err)
	}
}
