package bootos_test

import (
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/disk/disktest"
	"huck/initramfs/bootos"
)

// TestMain lets the mounts of the tests be nobody else's.
func TestMain(m *testing.M) {
	disktest.OwnMounts()
	os.Exit(m.Run())
}

func tool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	tool(t, name)
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestMount: a real filesystem with links, on a loop device, which is left as
// it was.
func TestMount(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	for _, name := range []string{"mkfs.ext4", "losetup"} {
		tool(t, name)
	}
	dir := t.TempDir()
	tree, img := filepath.Join(dir, "tree"), filepath.Join(dir, "img")
	for name, text := range map[string]string{
		"boot/grub/grub.cfg": "menuentry L {\nlinux /vmlinuz root=/dev/sda1\ninitrd /initrd.img\n}\n",
		"boot/vmlinuz-6":     "kernel", "boot/initrd-6": "initrd",
	} {
		p := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"vmlinuz": "boot/vmlinuz-6", "initrd.img": "/boot/initrd-6", "out": "../../../../etc/passwd", "loop": "loop",
	} {
		if err := os.Symlink(to, filepath.Join(tree, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, 8<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-d", tree, img)
	before, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "losetup", "-f", "--show", img).CombinedOutput()
	if err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatalf("no loop device: %s", out)
		}
		t.Skipf("no loop device: %s", out)
	}
	dev := strings.TrimSpace(string(out))
	detached := false
	defer func() {
		if !detached {
			_ = exec.Command("losetup", "-d", dev).Run()
		}
	}()

	d, err := bootos.Mount(dev, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if d != nil {
			_ = d.Close()
		}
	}()
	e, err := bootos.Find(d.Volumes)
	if err != nil || e.Cmdline != "root=/dev/sda1" {
		t.Fatalf("got %+v, %v", e, err)
	}
	for name, want := range map[string]string{e.Kernel.Path: "kernel", e.Initrds[0].Path: "initrd"} {
		if b, err := fs.ReadFile(d.Volumes[0].FS, name); err != nil || string(b) != want {
			t.Errorf("%s is %q, %v", name, b, err)
		}
	}
	for _, name := range []string{"out", "loop"} {
		if b, err := fs.ReadFile(d.Volumes[0].FS, name); err == nil {
			t.Errorf("%s leads to %.20q", name, b)
		}
	}
	err = d.Close()
	d = nil
	if err != nil {
		t.Error(err)
	}
	run(t, "losetup", "-d", dev)
	detached = true
	after, err := os.ReadFile(img)
	if err != nil || string(before) != string(after) {
		t.Errorf("the filesystem has changed (%v)", err)
	}
}
