package disks_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"huck/qemu-tests/disks"
	"huck/qemu-tests/vm"
)

// kernel is what `go run ./build netboot` leaves.
const kernel = "../../build/out/netboot/vmlinuz"

func requireTools(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("REQUIRE_TOOLS") == "1" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

// The tiny system boots from its disk without any of the code under test, and
// what is typed at it changes the disk.
func TestTinyBoots(t *testing.T) {
	requireTools(t, "qemu-system-x86_64", "mkfs.ext4", "sfdisk", "e2fsck")
	if _, err := os.Stat(kernel); err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatalf("no kernel yet: %v", err)
		}
		t.Skipf("no kernel yet: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	dir := t.TempDir()
	disk := filepath.Join(dir, "tiny.raw")
	start := time.Now()
	tiny := disks.Tiny{Init: buildInit(t, dir), Kernel: kernel, Payload: 4 << 20}
	if err := tiny.Write(ctx, disk); err != nil {
		t.Fatal(err)
	}
	t.Logf("made in %v", time.Since(start))
	if err := disks.CheckExt4(ctx, disk, disks.TinyRootStart, disks.TinyRootSize); err != nil {
		t.Fatal(err)
	}
	machine, err := vm.New(ctx, 1, vm.Config{
		Name: "tiny", Disks: []string{disk}, LogDir: dir,
		Kernel: kernel, Append: "root=/dev/vda1 rootwait ro console=ttyS0 quiet panic=5 init=/sbin/init",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := machine.PowerOn(); err != nil {
		t.Fatal(err)
	}
	defer machine.Cut()
	at := 0
	for _, turn := range []struct{ typed, answer string }{
		{"", disks.TinyHostname + " login:"}, {"rewrite 3 7", "ok rewrite"}, {"rewrite 10000 1", "failed rewrite"}, {"poweroff", "ok poweroff"},
	} {
		if turn.typed != "" {
			if err := machine.Type(turn.typed); err != nil {
				t.Fatal(err)
			}
		}
		if _, at, err = machine.Expect(ctx, turn.answer, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := machine.WaitOff(ctx); err != nil {
		t.Fatal(err)
	}
	if err := disks.CheckExt4(ctx, disk, disks.TinyRootStart, disks.TinyRootSize); err != nil {
		t.Fatal(err)
	}
}

func buildInit(t *testing.T, dir string) string {
	t.Helper()
	out := filepath.Join(dir, "init")
	cmd := exec.Command("go", "build", "-o", out, "huck/qemu-tests/tinyos/init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return out
}
