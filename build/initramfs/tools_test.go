package initramfs_test

import (
	"os"
	"path/filepath"
	"testing"

	"huck/build/initramfs"
)

// The kernel takes two archives one behind the other: the second puts the
// imager where the shell of the first looks for it, and nothing else.
func TestBuildTools(t *testing.T) {
	root := checkout(t, program, 0)
	write(t, filepath.Join(root, "imager", "main.go"), program, 0o644)
	out := filepath.Join(t.TempDir(), "tools.cpio.zst")
	if err := initramfs.BuildTools(t.Context(), initramfs.Options{Root: root, Out: out, Log: t.Logf}); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	base := build(t, initramfs.Options{Root: root})
	found := map[string]uint64{}
	for _, r := range records(t, archive) {
		found[r.Name] = r.Mode
	}
	if found["bbin/imager"] != 0o100755 {
		t.Errorf("the archive has %v", found)
	}
	for _, r := range records(t, base) {
		if mode, both := found[r.Name]; both && mode != r.Mode {
			t.Errorf("%s is %o in one and %o in the other", r.Name, r.Mode, mode)
		}
	}
}
