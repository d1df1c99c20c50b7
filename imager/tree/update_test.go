package tree_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"huck/imager/disk"
	"huck/imager/disk/disktest"
	"huck/imager/image"
	"huck/imager/install/prooftest"
	"huck/imager/tree"
)

const mib = 1 << 20

// parent is the manifest of an image of a disk made like that of layout, of size
// bytes.
func parent(size int64) *image.Manifest {
	return &image.Manifest{DiskSize: size, SectorSize: 512, Table: "gpt", Partitions: []image.Partition{
		{Number: 1, Start: mib, Size: 16 * mib, Content: "vfat"},
		{Number: 2, Start: offset, Size: size - offset - mib, Content: "ext4", FSUUID: rootUUID, FSLabel: "golden"},
	}}
}

// parentOf is the manifest of an image of the disk at path.
func parentOf(t *testing.T, path string) *image.Manifest {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	m := parent(st.Size())
	m.Partitions[1].UUID = strings.TrimSpace(judge(t, "sfdisk", "--part-uuid", path, "2"))
	return m
}

// state tells all of a tree but what depends on the filesystem it is on: the
// blocks files take, and the root itself.
func state(t *testing.T, dir string) string {
	t.Helper()
	s, err := prooftest.State(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, s, _ = strings.Cut(s, "\n")
	s = regexp.MustCompile(` \d+ blocks`).ReplaceAllString(s, "")
	return regexp.MustCompile(`(?m)^/lost\+found .*\n`).ReplaceAllString(s, "")
}

// rootState is the state of the root filesystem on a disk.
func rootState(t *testing.T, path string) (s string) {
	t.Helper()
	mounted(t, path, func(root string) error {
		s = state(t, root+".")
		return nil
	})
	return s
}

// mounted has f do something to the root filesystem on a disk.
func mounted(t *testing.T, path string, f func(root string) error) {
	t.Helper()
	dev, err := disk.Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	loop, err := dev.(disk.Attacher).Attach(offset, dev.Size()-offset-mib, 512)
	if err != nil {
		t.Fatal(err)
	}
	err = disk.OnMount(loop.Path(), "ext4", nil, func(root *os.File) error {
		return f(fmt.Sprintf("/proc/self/fd/%d/", root.Fd()))
	})
	if err := errors.Join(err, loop.Close(), dev.Close()); err != nil {
		t.Fatal(err)
	}
}

// edit is what happens to a tree between two images of it.
func edit(t *testing.T, dir string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(dir, name) }
	stamp := time.Unix(1700000000, 123456789)
	do := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	do(prooftest.RemoveGone(dir), unix.Lsetxattr(dir, "user.tree", []byte("changed"), 0))
	do(os.WriteFile(in("aaa"), []byte("first of all"), 0o600), os.WriteFile(in("same size"), []byte("after "), 0o644), os.Chtimes(in("same size"), stamp, stamp))
	do(os.Remove(in("file to folder")), os.MkdirAll(in("file to folder/deep/er"), 0o2755))
	do(os.RemoveAll(in("folder to link")), os.Symlink("aaa", in("folder to link")))
	do(os.Remove(in("link")), os.Symlink("elsewhere", in("link")))
	do(os.Remove(in("two")), os.Link(in("one"), in("two")))                                 // are one file now
	do(os.Remove(in("both b")), os.WriteFile(in("both b"), []byte("both"), 0o4711))         // are two now
	do(os.Chmod(in("both b"), 0o4711), os.Chown(in("one"), 12, 34), os.Chmod(in("one"), 0)) // and nobody may read one
	do(os.Remove(in("fifo")), unix.Mknod(in("fifo"), unix.S_IFCHR|0o620, 0x103))
	do(os.Remove(in("zero")), unix.Mknod(in("zero"), unix.S_IFCHR|0o600, 0x105))
	do(os.Chown(in("setuid"), 5, 5), os.Chmod(in("setuid"), fs.ModeSetuid|0o755))
	do(unix.Lremovexattr(in("attributes"), "user.old"), unix.Lsetxattr(in("attributes"), "user.kept", []byte("new"), 0))
	do(unix.Lsetxattr(in("attributes"), "user.empty", nil, 0), unix.Lsetxattr(in("attributes"), "trusted.large", bytes.Repeat([]byte("x"), 2000), 0))
	do(unix.Lsetxattr(in("attributes"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	f, err := os.Create(in("holes"))
	do(err)
	_, err = f.WriteAt([]byte("middle"), 40*mib)
	do(err, f.Truncate(200*mib), f.Close())
}

// before makes a tree of all that edit changes.
func before(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := prooftest.Populate(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"boot/grub", "folder to link/sub"} {
		if err := os.MkdirAll(in(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"boot/vmlinuz", "boot/grub/grub.cfg", "same size", "file to folder", "folder to link/sub/file", "one", "two", "both a", "attributes", "setuid"} {
		if err := os.WriteFile(in(name), []byte("before"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stamp := time.Unix(1700000000, 123456789)
	for _, err := range []error{
		os.WriteFile(in("both a"), []byte("both"), 0o600), os.Link(in("both a"), in("both b")), os.Symlink("somewhere", in("link")),
		unix.Mknod(in("fifo"), unix.S_IFIFO|0o600, 0),
		unix.Mknod(in("zero"), unix.S_IFCHR|0o600, 0x103), os.Chmod(in("setuid"), fs.ModeSetuid|0o755), os.Chtimes(in("same size"), stamp, stamp),
		unix.Lsetxattr(in("attributes"), "user.old", []byte("x"), 0), unix.Lsetxattr(in("attributes"), "user.kept", []byte("old"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestUpdate has a disk become that of a changed tree: it is as the tree says,
// and what has not changed stands where it stood.
func TestUpdate(t *testing.T) {
	disktest.NeedRoot(t)
	dir := before(t)
	big := make([]byte, 20*mib)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range big {
		big[i] = byte(rng.Uint32())
	}
	if err := os.WriteFile(filepath.Join(dir, "zzz"), big, 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "disk")
	if err := tree.Make(t.Context(), tree.Config{Tree: dir, Layout: parse(t, `{"disk_size":268435456,"esp_size":16777216,"root_label":"golden","root_uuid":"`+rootUUID+`"}`)}, out); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	edit(t, dir)
	open := parse(t, `{"disk_size":268435456,"esp_size":16777216,"root_label":"golden"}`)
	for range 2 { // and once more, when there is nothing to do
		socket, err := net.Listen("unix", filepath.Join(dir, "socket"))
		if err != nil {
			t.Fatal(err)
		}
		err = tree.Make(t.Context(), tree.Config{Tree: dir, Layout: open, Parent: parentOf(t, out)}, out)
		if err := errors.Join(err, socket.Close()); err != nil {
			t.Fatal(err)
		}
		sound(t, out)
		if err := prooftest.Same(state(t, dir), rootState(t, out)); err != nil {
			t.Error(err)
		}
	}
	if got := judge(t, "debugfs", "-R", "ea_get / user.tree", fmt.Sprintf("%s?offset=%d", out, offset)); !strings.Contains(got, "changed") {
		t.Errorf("the attribute of the root: %s", got)
	}
	if got := judge(t, "debugfs", "-R", "ls /", fmt.Sprintf("%s?offset=%d", out, offset)); !strings.Contains(got, "lost+found") {
		t.Errorf("lost+found is gone: %s", got)
	}
	updated, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if at := bytes.Index(old, big[:4096]); at < 0 || !bytes.Equal(old[at:at+len(big)], updated[at:at+len(big)]) {
		t.Error("a file that is the same has been moved")
	}
}

// TestUpdateArchive: owners, modes, devices and attributes that only the archive
// has are there after an update, too.
func TestUpdateArchive(t *testing.T) {
	disktest.NeedRoot(t)
	out := filepath.Join(t.TempDir(), "disk")
	old := header("etc/old", tar.TypeReg, 0o644, 0)
	if err := tree.Make(t.Context(), tree.Config{Tree: writeFile(t, "a.tar", archive(t, old)), Layout: layout(t)}, out); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := tree.Make(t.Context(), tree.Config{Tree: writeFile(t, "b.tar", archive(t)), Layout: layout(t), Parent: parentOf(t, out)}, out); err != nil {
			t.Fatal(err)
		}
		checkTar(t, out)
	}
	if got := judge(t, "debugfs", "-R", "ls /", fmt.Sprintf("%s?offset=%d", out, offset)); strings.Contains(got, "etc") {
		t.Errorf("what the archive has no more is still there: %s", got)
	}
}

// TestUpdateRefused: a parent of another layout is told, before it is unpacked
// or written to.
func TestUpdateRefused(t *testing.T) {
	disktest.NeedRoot(t)
	for name, c := range map[string]struct {
		change func(m *image.Manifest)
		want   string
	}{
		"table":      {func(m *image.Manifest) { m.Table = "mbr" }, "2 partitions (mbr"},
		"partitions": {func(m *image.Manifest) { m.Partitions = m.Partitions[:1] }, "1 partitions"},
		"disk":       {func(m *image.Manifest) { m.DiskSize *= 2 }, "disk_size is 134217728 there, 67108864 here"},
		"ESP":        {func(m *image.Manifest) { m.Partitions[0].Size = 8 * mib }, "8388608 bytes at 1048576"},
		"kind":       {func(m *image.Manifest) { m.Partitions[1].Content = "xfs" }, "its root filesystem is xfs"},
		"UUID":       {func(m *image.Manifest) { m.Partitions[1].FSUUID = "x" }, "root_uuid is x there"},
		"label":      {func(m *image.Manifest) { m.Partitions[1].FSLabel = "x" }, `root_label is "x" there`},
	} {
		t.Run(name, func(t *testing.T) {
			m := parent(64 * mib)
			c.change(m)
			out := writeFile(t, "disk", nil)
			cfg := tree.Config{Tree: writeFile(t, "a.tar", archive(t)), Layout: layout(t), Parent: m}
			for _, err := range []error{tree.CheckParent(cfg), tree.Make(t.Context(), cfg, out)} {
				if err == nil || !strings.Contains(err.Error(), "not of this layout") || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want %q", err, c.want)
				}
			}
		})
	}
}

// TestUpdateFull names the file that there is no room for, and where it was to
// be; a disk like that is not left behind.
func TestUpdateFull(t *testing.T) {
	disktest.NeedRoot(t)
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	write := func(name string, size int) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("x"), size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "boot"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("boot/vmlinuz", 10)
	if err := tree.Make(t.Context(), tree.Config{Tree: dir, Layout: layout(t)}, out); err != nil {
		t.Fatal(err)
	}
	write("large", 60*mib)
	err := tree.Make(t.Context(), tree.Config{Tree: dir, Layout: layout(t), Parent: parentOf(t, out)}, out)
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), " /large: no space left") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the disk: %v", err)
	}
}
