package usedmap_test

import (
	"os"
	"strings"
	"testing"
)

// TestExtKernel probes filesystems that the kernel wrote to: it fills groups,
// sets checksums and grows files in ways of its own. It needs root.
func TestExtKernel(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		name, content, args string
		grow                bool
	}{
		{"ext4", "ext4", "-t ext4 -b 4096 -E lazy_itable_init=1", false},
		{"ext4 1k", "ext4", "-t ext4 -b 1024", true},
		{"ext4 no resize_inode", "ext4", "-t ext4 -b 1024 -O ^resize_inode", true},
		{"ext4 gdt_csum", "ext4", "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^64bit", true},
		{"ext4 bigalloc", "ext4", "-t ext4 -b 1024 -O bigalloc -C 8192", false},
		{"ext3", "ext3", "-t ext3 -b 1024", false},
		{"ext2", "ext2", "-t ext2 -b 4096", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := newFile(t, 400*mib)
			args := append(strings.Fields(c.args), "-q", "-F", path)
			if c.grow {
				args = append(args, "100M")
			}
			run(t, "mke2fs", args...)
			files, busy := tree(t, 8*mib), newFile(t, 0)
			mounted(t, path, `cp -a "$1/." . && sync -f . && cp --sparse=always "$2" "$3"`, files, path, busy)
			wantRefused(t, busy, "unmounted cleanly")
			if c.grow {
				run(t, "e2fsck", "-fy", path)
				run(t, "resize2fs", path)
				mounted(t, path, `cp -a "$1" again`, files)
			}
			mounted(t, path, "rm -r d0 d1; rm -rf again/d3")
			used := mustProbe(t, path, c.content)
			compareDumpe2fs(t, path, used)
			copied := garbageCopy(t, path, used)
			run(t, "e2fsck", "-fn", copied)
			a, b := tempDir(t), tempDir(t)
			run(t, "debugfs", "-R", "rdump / "+a, path)
			run(t, "debugfs", "-R", "rdump / "+b, copied)
			sameTree(t, a, b)
		})
	}
}

// mounted runs a shell script in the mounted filesystem of the file at path. The
// mount is in a namespace of its own: whoever copies that of the test meanwhile
// would keep it mounted.
func mounted(t *testing.T, path, script string, args ...string) {
	t.Helper()
	at := t.TempDir()
	mount := `mount -o loop "$1" "$2" || exit 77; cd "$2"; shift 2; set -e; `
	out, code := try(t, "unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c",
		mount + script + "\ncd /; umount " + at, "sh", path, at}, args...)...)
	switch {
	case code == 77:
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatalf("mount -o loop does not work here: %s", out)
		}
		t.Skipf("mount -o loop does not work here: %s", out)
	case code != 0:
		t.Fatalf("%s: exit code %d\n%s", script, code, out)
	}
}
