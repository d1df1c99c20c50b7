package tree_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"huck/imager/disk/disktest"
	"huck/imager/tree"
)

// small makes a tree and a disk of it.
func small(t *testing.T) (dir, out string) {
	t.Helper()
	dir, out = t.TempDir(), filepath.Join(t.TempDir(), "disk")
	for _, name := range []string{"boot", "dir/deep"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"boot/vmlinuz", "file", "changed", "dir/deep/file"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("before"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Make(t.Context(), tree.Config{Tree: dir, Layout: layout(t)}, out); err != nil {
		t.Fatal(err)
	}
	return dir, out
}

// mark sets flags of linux/fs.h, as chattr(1) does.
func mark(path string, flags int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	was, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, was|flags)
	}
	return errors.Join(err, f.Close())
}

// TestUpdateMarks: what a machine that was captured keeps even root from changing
// is changed and removed, and what its fsck has found is not in the tree.
func TestUpdateMarks(t *testing.T) {
	disktest.NeedRoot(t)
	dir, out := small(t)
	mounted(t, out, func(root string) error {
		const immutable, appendOnly = 0x10, 0x20
		return errors.Join(os.WriteFile(root+"lost+found/#12", []byte("found"), 0o600), mark(root+"lost+found", appendOnly), mark(root+"file", immutable), mark(root+"changed", appendOnly),
			mark(root+"dir/deep/file", immutable), mark(root+"dir/deep", immutable), mark(root+"boot", appendOnly), mark(root, immutable))
	})
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "dir")), os.WriteFile(filepath.Join(dir, "changed"), []byte("after"), 0o600), os.Chown(filepath.Join(dir, "file"), 1, 2)); err != nil {
		t.Fatal(err)
	}
	if err := tree.Make(t.Context(), tree.Config{Tree: dir, Layout: layout(t), Parent: parentOf(t, out)}, out); err != nil {
		t.Fatal(err)
	}
	sound(t, out)
	if got := content(t, out, "/changed"); got != "after" {
		t.Errorf("changed has %q", got)
	}
	if got := inode(t, out, "/file"); !strings.Contains(got, "User:     1   Group:     2") {
		t.Errorf("file is %s", got)
	}
	for dir, gone := range map[string]string{"/": "dir", "/lost+found": "#12"} {
		if got := judge(t, "debugfs", "-R", "ls "+dir, fmt.Sprintf("%s?offset=%d", out, offset)); strings.Contains(got, gone) {
			t.Errorf("%s of %s is still there: %s", gone, dir, got)
		}
	}
}

// TestUpdateDamaged: a parent that e2fsck can repair by itself is repaired, another
// refused before the kernel sees it.
func TestUpdateDamaged(t *testing.T) {
	disktest.NeedRoot(t)
	for name, c := range map[string]struct{ damage, want string }{
		"blocks marked": {"setb 3000 9000", ""},
		"file lost":     {"clri /changed", ""},
		"no root":       {"set_inode_field <2> mode 0100644", "the parent's root filesystem is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, out := small(t)
			judge(t, "debugfs", "-w", "-R", c.damage, fmt.Sprintf("%s?offset=%d", out, offset))
			err := os.WriteFile(filepath.Join(dir, "more"), make([]byte, mib), 0o644)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, "changed"), []byte("after"), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
			err = tree.Make(t.Context(), tree.Config{Tree: dir, Layout: layout(t), Parent: parentOf(t, out)}, out)
			if refused := (*tree.Refused)(nil); c.want != "" {
				if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			sound(t, out)
		})
	}
}

// TestUpdateSparse: what is mostly holes or zeros takes neither room nor time.
func TestUpdateSparse(t *testing.T) {
	disktest.NeedRoot(t)
	dir, out := small(t)
	log := filepath.Join(dir, "lastlog")
	for _, err := range []error{os.WriteFile(log, []byte("begin"), 0o644), os.Truncate(log, 4<<40), os.WriteFile(filepath.Join(dir, "zeros"), make([]byte, 80*mib), 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 2 { // made, then compared
		if err := tree.Make(ctx, tree.Config{Tree: dir, Layout: layout(t), Parent: parentOf(t, out)}, out); err != nil {
			t.Fatal(err)
		}
	}
	sound(t, out)
	if got := inode(t, out, "/lastlog"); !strings.Contains(got, "Size: 4398046511104") {
		t.Errorf("lastlog is %s", got)
	}
	if got := inode(t, out, "/zeros"); !strings.Contains(got, "Size: 83886080") {
		t.Errorf("zeros is %s", got)
	}
}

// TestUpdateNoRoom: where the disk's file cannot grow, that is told, and where.
func TestUpdateNoRoom(t *testing.T) {
	disktest.NeedRoot(t)
	dir, disk := small(t)
	mem := t.TempDir()
	judge(t, "mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", mem)
	t.Cleanup(func() {
		if err := unix.Unmount(mem, 0); err != nil {
			t.Error(err)
		}
	})
	out := filepath.Join(mem, "disk")
	judge(t, "cp", "--sparse=always", disk, out)
	b := make([]byte, 30*mib)
	for i := range b {
		b[i] = byte(i>>12) | 1
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	err := tree.Make(t.Context(), tree.Config{Tree: dir, Layout: layout(t), Parent: parentOf(t, out)}, out)
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), mem+": no space left") {
		t.Errorf("error %v", err)
	}
}

// TestUpdateNothing: a folder that has not changed is not written to. Its inode is
// one of many in a chunk, all of which would be new in the store.
func TestUpdateNothing(t *testing.T) {
	disktest.NeedRoot(t)
	dir, out := small(t)
	changed := regexp.MustCompile(`ctime: \S+`)
	var last string
	for i := range 3 { // mkfs.ext4 knows no nanoseconds: the first gives them to all
		if err := tree.Make(t.Context(), tree.Config{Tree: dir, Layout: layout(t), Parent: parentOf(t, out)}, out); err != nil {
			t.Fatal(err)
		}
		got := changed.FindString(inode(t, out, "/dir/deep")) + changed.FindString(inode(t, out, "/dir/deep/file"))
		if i == 2 && (got != last || got == "") {
			t.Errorf("changed at %q, before at %q", got, last)
		}
		last = got
	}
}

// TestUpdateLinkOut: a link that was copied, and is a file in the tree by now, does
// not have what it names on this machine changed.
func TestUpdateLinkOut(t *testing.T) {
	from, to, outside := writeFile(t, "from", nil), filepath.Join(t.TempDir(), "link"), writeFile(t, "outside", nil)
	if err := errors.Join(os.Chmod(from, 0o666), os.Chmod(outside, 0o600), os.Symlink(outside, to)); err != nil {
		t.Fatal(err)
	}
	if err := tree.CopyAttributes(from, to); err == nil || !strings.Contains(err.Error(), "another kind of file") {
		t.Errorf("error %v", err)
	}
	if st, err := os.Stat(outside); err != nil || st.Mode() != 0o600 {
		t.Errorf("outside is %v, %v", st.Mode(), err)
	}
}

func syncfs(root string) error {
	f, err := os.Open(root)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// TestUpdateDirty: what a parent's journal has, captured from a running machine, is
// not lost and not in the way.
func TestUpdateDirty(t *testing.T) {
	disktest.NeedRoot(t)
	dir, disk := small(t)
	out := filepath.Join(t.TempDir(), "disk")
	mounted(t, disk, func(root string) error {
		err := errors.Join(os.WriteFile(root+"more", []byte("of the machine"), 0o600), os.Remove(root+"changed"), syncfs(root))
		judge(t, "cp", "--sparse=always", disk, out)
		return err
	})
	if got := judge(t, "dumpe2fs", "-h", fmt.Sprintf("%s?offset=%d", out, offset)); !strings.Contains(got, "needs_recovery") {
		t.Fatalf("the parent is clean: %s", got)
	}
	if err := tree.Make(t.Context(), tree.Config{Tree: dir, Layout: layout(t), Parent: parentOf(t, out)}, out); err != nil {
		t.Fatal(err)
	}
	sound(t, out)
	if got := content(t, out, "/changed"); got != "before" {
		t.Errorf("changed has %q", got)
	}
}
