package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"huck/imager/disk"
	"huck/imager/disk/disktest"
)

// TestMain lets the mounts of the tests be nobody else's.
func TestMain(m *testing.M) {
	disktest.OwnMounts()
	os.Exit(m.Run())
}

// TestAttach makes a block device of the middle of a file and of a block
// device, while that is open for writing.
func TestAttach(t *testing.T) {
	const off, n = 1<<20 + 512, 2<<20 + 1024
	dev, _ := loop(t, 8<<20)
	file := filepath.Join(t.TempDir(), "disk")
	ok(t, os.WriteFile(file, make([]byte, 8<<20), 0o600))
	for _, path := range []string{file, dev} {
		d := must[disk.Device](t)(disk.Open(path, true))
		before := bytes.Repeat([]byte{5}, 4096)
		_, err := d.WriteV(off, before)
		ok(t, err)
		l := must[*disk.Loop](t)(d.(disk.Attacher).Attach(off, n, 512))
		at := must[disk.Device](t)(disk.Open(l.Path(), true)) // nobody is in the way
		if at.Size() != n || at.SectorSize() != 512 {
			t.Errorf("%d bytes, sectors of %d", at.Size(), at.SectorSize())
		}
		got := make([]byte, 4096)
		_, err = at.ReadAt(got, 0)
		ok(t, err)
		if !bytes.Equal(got, before) {
			t.Error("what was written to the device is not there")
		}
		after := bytes.Repeat([]byte{6}, 512)
		_, err = at.WriteV(n-512, after)
		ok(t, err)
		ok(t, at.Close())
		ok(t, l.Close())
		ok(t, d.Sync())
		_, err = d.ReadAt(got[:512], off+n-512)
		ok(t, err)
		if !bytes.Equal(got[:512], after) {
			t.Error("what was written to the attached device has not reached the device")
		}
		// Another test may have the number by now, but not for our file. Whoever
		// looks at all block devices, as udev, may have it open for a moment.
		behind := func() string {
			b, _ := os.ReadFile(filepath.Join("/sys/block", filepath.Base(l.Path()), "loop", "backing_file"))
			return strings.TrimSpace(string(b))
		}
		for end := time.Now().Add(5 * time.Second); behind() == path; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("%s is still there", l.Path())
			}
		}
		if _, err := d.(disk.Attacher).Attach(off, 8<<20, 512); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("attached past the end: %v", err)
		}
		ok(t, d.Close())
	}
}

// TestWriteErrors: a disk that takes no more says so with the offset where the
// page cache is not used, and at the latest when synced where it is.
func TestWriteErrors(t *testing.T) {
	dir := t.TempDir()
	run(t, "mount", "-t", "tmpfs", "-o", "size=3M", "tmpfs", dir)
	t.Cleanup(func() { ok(t, unix.Unmount(dir, 0)) })
	file := filepath.Join(dir, "file")
	ok(t, os.WriteFile(file, nil, 0o600))
	ok(t, os.Truncate(file, 8<<20))
	dev := run(t, "losetup", "-f", "--show", file)
	t.Cleanup(func() { run(t, "losetup", "-d", dev) })

	d := must[disk.Device](t)(disk.Open(dev, true))
	defer d.Close() // it fails, as all else
	buf := disk.Buffer(1 << 20)
	for i := range buf {
		buf[i] = 1
	}
	var err error
	at := int64(0)
	for ; at < 8<<20 && err == nil; at += 1 << 20 {
		_, err = d.WriteV(at, buf[:1<<19], buf[1<<19:])
	}
	// The kernel tells what it has written: the error may be anywhere in the last.
	if err == nil || at > 4<<20 || !strings.Contains(err.Error(), "write "+dev+" at ") {
		t.Errorf("past the page cache, at %d: %v", at, err)
	}
	_, err = d.WriteV(5<<20+512, buf[:1<<20-512]) // goes to the page cache
	ok(t, err)
	if err := d.Sync(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("sync %s", dev)) {
		t.Errorf("late: %v", err)
	}
}

// TestReserveFull: a filesystem that has too little room says so before anything
// is written, and a write that finds no more in the middle of a buffer where.
func TestReserveFull(t *testing.T) {
	dir := t.TempDir()
	run(t, "mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", dir)
	t.Cleanup(func() { ok(t, unix.Unmount(dir, 0)) })
	file := filepath.Join(dir, "file")
	d := must[disk.Device](t)(disk.Create(file, 8<<20))
	defer d.Close() // all is lost anyway
	r := d.(disk.Reserver)
	ok(t, r.Reserve(4<<20, 512<<10))
	if err := r.Reserve(0, 1<<20); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), file+" at 0, 1048576 bytes") {
		t.Errorf("%v", err)
	}
	if !d.(disk.Blank).Blank() {
		t.Error("not blank before it is written to")
	}
	buf := disk.Buffer(256 << 10)
	n, err := d.WriteV(1<<20, buf, buf[:128<<10], buf)
	if n != 512<<10 || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), fmt.Sprintf("write %s at %d", file, 1<<20+512<<10)) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestClaimed: a device that somebody writes to is in use, until he has closed it.
func TestClaimed(t *testing.T) {
	dev, _ := loop(t, 4<<20)
	d := must[disk.Device](t)(disk.Open(dev, true))
	if use := must[string](t)(disk.InUse(dev)); use == "" {
		t.Error("nobody uses it")
	}
	var refused *disk.Refused
	if _, err := disk.Open(dev, true); !errors.As(err, &refused) {
		t.Errorf("opened twice for writing: %v", err)
	}
	ok(t, d.Close())
	if use := must[string](t)(disk.InUse(dev)); use != "" {
		t.Error(use)
	}
}

// TestStaleCache: what was written to a block device behind its page cache, as
// by a filesystem on it, is read, although somebody had it open all the time.
func TestStaleCache(t *testing.T) {
	dev, file := loop(t, 4<<20)
	held := must[*os.File](t)(os.Open(dev))
	defer held.Close()
	got, want := make([]byte, 4096), bytes.Repeat([]byte{7}, 4096)
	_, err := held.ReadAt(got, 1<<20)
	ok(t, err)
	f := must[*os.File](t)(os.OpenFile(file, os.O_WRONLY, 0))
	_, err = f.WriteAt(want, 1<<20)
	ok(t, err)
	ok(t, f.Sync())
	ok(t, f.Close())
	if _, err := held.ReadAt(got, 1<<20); err != nil || bytes.Equal(got, want) {
		t.Fatalf("the kernel has no cache here, error %v", err)
	}
	d := must[disk.Device](t)(disk.Open(dev, false))
	defer d.Close()
	_, err = d.ReadAt(got, 1<<20)
	ok(t, err)
	if !bytes.Equal(got, want) {
		t.Error("what was read is not what the device holds")
	}
}

// TestGone: errors of a device that has become shorter say so, those of one that
// has not do not.
func TestGone(t *testing.T) {
	dev, file := loop(t, 8<<20)
	d := must[disk.Device](t)(disk.Open(dev, true))
	defer d.Close() // nothing is to be kept
	buf := disk.Buffer(4096)
	if _, err := d.ReadAt(buf, 8<<20); !errors.Is(err, io.EOF) || errors.Is(err, disk.ErrGone) {
		t.Errorf("read at the end: %v", err)
	}
	ok(t, os.Truncate(file, 4<<20))
	run(t, "losetup", "-c", dev)
	_, err := d.ReadAt(buf, 6<<20)
	_, werr := d.WriteV(6<<20, buf)
	for _, err := range []error{err, werr} {
		if !errors.Is(err, disk.ErrGone) || !strings.Contains(err.Error(), dev+" at 6291456") {
			t.Errorf("%v", err)
		}
	}
	_, err = d.ReadAt(buf, 0)
	ok(t, err)
}

// TestLoopInUse: a file that is mounted by way of a loop device is in use.
func TestLoopInUse(t *testing.T) {
	dev, file := loop(t, 8<<20)
	for _, path := range []string{file, dev} {
		if use, err := disk.InUse(path); use != "" || err != nil {
			t.Errorf("%s: %q, %v", path, use, err)
		}
	}
	run(t, "mke2fs", "-q", "-t", "ext4", dev)
	dir := t.TempDir()
	run(t, "mount", dev, dir)
	t.Cleanup(func() { ok(t, unix.Unmount(dir, 0)) })
	if use, err := disk.InUse(file); !strings.Contains(use, dev+" is mounted on "+dir) || err != nil {
		t.Errorf("%q, %v", use, err)
	}
	var refused *disk.Refused
	if d, err := disk.Open(file, true); !errors.As(err, &refused) {
		t.Errorf("opened for writing: %v", err)
		d.Close()
	}
	d := must[disk.Device](t)(disk.Open(file, false)) // at the reader's risk, as a block device
	ok(t, d.Close())
}

// TestInMachine: a file to which QEMU writes is in use, and one that it reads is
// not overwritten, until QEMU has ended.
func TestInMachine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	ok(t, os.WriteFile(file, make([]byte, 1<<20), 0o600))
	qemu, err := exec.LookPath("qemu-io")
	if err != nil && os.Getenv("REQUIRE_TOOLS") != "1" {
		t.Skip(err)
	}
	ok(t, err)
	for _, c := range []struct{ option, want string }{{"-r", ""}, {"-n", "a virtual machine writes to it"}} {
		cmd := exec.CommandContext(t.Context(), qemu, c.option, "-f", "raw", file)
		in := must[io.WriteCloser](t)(cmd.StdinPipe())
		out := must[io.ReadCloser](t)(cmd.StdoutPipe())
		ok(t, cmd.Start())
		must[int](t)(io.ReadFull(out, make([]byte, len("qemu-io>")))) // it has opened the file
		if use, err := disk.InUse(file); use != c.want || err != nil {
			t.Errorf("qemu-io %s: %q, %v", c.option, use, err)
		}
		var refused *disk.Refused
		if _, err := disk.Open(file, true); !errors.As(err, &refused) {
			t.Errorf("qemu-io %s, opened for writing: %v", c.option, err)
		}
		ok(t, in.Close())
		must[[]byte](t)(io.ReadAll(out))
		ok(t, cmd.Wait())
	}
	if use, err := disk.InUse(file); use != "" || err != nil {
		t.Errorf("after it has ended: %q, %v", use, err)
	}
	ok(t, must[disk.Device](t)(disk.Open(file, true)).Close())
}
