package disks_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"huck/qemu-tests/disks"
	"huck/qemu-tests/proc"
	"huck/qemu-tests/vm"
)

// The Debian disk boots by BIOS and GRUB, as the machine would that it was
// captured from.
func TestDebianBoots(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a disk for two minutes")
	}
	requireTools(t, "qemu-system-x86_64", "debootstrap", "mkfs.ext4", "mkfs.vfat", "mcopy", "mkswap", "sfdisk", "e2fsck")
	if os.Getuid() != 0 {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	cached, err := disks.Debian(ctx, disks.CacheDir(), disks.Ext4(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	disk := filepath.Join(dir, "debian.raw")
	if _, err := proc.Run(ctx, proc.Command{Args: []string{"cp", "--sparse=always", cached, disk}}); err != nil {
		t.Fatal(err)
	}
	machine, err := vm.New(ctx, 1, vm.Config{Name: "debian", Disks: []string{disk}, LogDir: dir, Boot: vm.Disk, Memory: 384})
	if err != nil {
		t.Fatal(err)
	}
	if err := machine.PowerOn(); err != nil {
		t.Fatal(err)
	}
	defer machine.Cut()
	start := time.Now()
	at := 0
	for _, turn := range []struct{ answer, typed string }{
		{disks.DebianHostname + " login: ", disks.DebianUser},
		{"Password: ", disks.DebianPassword},
		{`# `, "touch /root/written && echo can-$((1+1))-write"},
		{`can-2-write`, "systemctl poweroff"},
	} {
		if _, at, err = machine.Expect(ctx, turn.answer, at); err != nil {
			t.Fatal(err)
		}
		t.Logf("%q after %v", turn.answer, time.Since(start))
		if err := machine.Type(turn.typed); err != nil {
			t.Fatal(err)
		}
	}
	if err := machine.WaitOff(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("off after %v", time.Since(start))
	if err := disks.Ext4().Check(ctx, disk); err != nil {
		t.Fatal(err)
	}
}
