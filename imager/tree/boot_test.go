package tree_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/tree"
)

// TestNoLinkOut: a link of a tree from a stranger does not bring a file of this
// machine into the image.
func TestNoLinkOut(t *testing.T) {
	secret := writeFile(t, "secret", []byte("of this machine"))
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	for _, name := range []string{"boot", "usr/lib/systemd/boot/efi"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{os.WriteFile(filepath.Join(dir, "boot/vmlinuz-1"), []byte("kernel"), 0o644), os.Symlink(secret, filepath.Join(dir, "boot/initrd.img-1")),
		os.WriteFile(filepath.Join(dir, "usr/lib/systemd/boot/efi/systemd-bootx64.efi"), []byte("loader"), 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Make(t.Context(), tree.Config{Tree: dir, Layout: layout(t)}, out); err != nil {
		t.Fatal(err)
	}
	if got := judge(t, "mdir", "-b", "-i", out+"@@1M", "::/boot"); !strings.Contains(got, "vmlinuz-1") || strings.Contains(got, "initrd") {
		t.Errorf("the ESP has %s", got)
	}
}
