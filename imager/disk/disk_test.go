package disk_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"huck/imager/disk"
	"huck/imager/disk/disktest"
)

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// exercise writes to a device in all the ways there are and compares with what
// must stand there then. size is the device's, a multiple of 512.
func exercise(t *testing.T, d disk.Device) {
	t.Helper()
	size := d.Size()
	want := make([]byte, size)
	ok(t, d.Zero(0, size))
	buf := disk.Buffer(2 << 20)
	for i := range buf {
		buf[i] = byte(i*7 + i>>9)
	}
	for _, w := range []struct{ off, n, skew int64 }{
		{0, 1 << 20, 0},                                // aligned
		{2<<20 + 512, 512, 0},                          // one sector
		{3 << 20, 8192, 512},                           // memory not aligned
		{4<<20 + 4096, 12288, 0},                       // aligned again
		{size - size%4096 - 4096, 4096 + size%4096, 0}, // the end
		{5, 3, 1}, // not even sectors
	} {
		p := buf[w.skew : w.skew+w.n]
		if n, err := d.WriteV(w.off, p); err != nil || n != len(p) {
			t.Errorf("write %+v: %d, %v", w, n, err)
		}
		copy(want[w.off:], p)
	}
	for _, w := range []struct{ off, first, n int64 }{
		{5 << 20, 8192, 1 << 20},             // aligned
		{6<<20 + 4096, 4096 + 512, 96 << 10}, // the second not
	} {
		p := buf[:w.n]
		if n, err := d.WriteV(w.off, p[:w.first], p[w.first:w.n/2], p[w.n/2:]); err != nil || n != len(p) {
			t.Errorf("write %+v: %d, %v", w, n, err)
		}
		copy(want[w.off:], p)
	}
	ok(t, d.Zero(64<<10, 128<<10))
	clear(want[64<<10 : 192<<10])
	check := func() {
		t.Helper()
		got := disk.Buffer(int(size))
		for at := int64(0); at < size; at += 1 << 20 {
			if _, err := d.ReadAt(got[at:min(at+1<<20, size)], at); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, want) {
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("byte %d is %#x, want %#x", i, got[i], want[i])
				}
			}
		}
	}
	check()
	ok(t, d.Sync())
	check()
	if err := d.Discard(256<<10, 256<<10); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"write past the end":    second(d.WriteV(size-512, buf[:1024])),
		"write before the disk": second(d.WriteV(-512, buf[:512])),
		"second past the end":   second(d.WriteV(size-512, buf[:512], buf[:512])),
		"zero past the end":     d.Zero(size-512, 1024),
		"discard past the end":  d.Discard(size, 512),
		"read past the end":     second(d.ReadAt(buf[:1024], size-512)),
	} {
		if err == nil || !strings.Contains(err.Error(), d.Name()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if d.Size() != size {
		t.Errorf("size is %d now", d.Size())
	}
}

func second(_ int, err error) error { return err }

func TestFile(t *testing.T) {
	for _, size := range []int64{8 << 20, 8<<20 + 512*3} {
		path := filepath.Join(t.TempDir(), "disk")
		d := must[disk.Device](t)(disk.Create(path, size))
		if b, ok := d.(disk.Blank); !ok || !b.Blank() {
			t.Error("a new file is not blank")
		}
		if d.Name() != path || d.Size() != size || d.SectorSize() != 0 {
			t.Errorf("%s, %d bytes, sectors of %d", d.Name(), d.Size(), d.SectorSize())
		}
		if _, err := disk.Create(path, size); !errors.Is(err, fs.ErrExist) {
			t.Errorf("created twice: %v", err)
		}
		exercise(t, d)
		if d.(disk.Blank).Blank() {
			t.Error("blank after writing")
		}
		ok(t, d.Close())
		st := must[os.FileInfo](t)(os.Stat(path))
		if st.Size() != size {
			t.Errorf("file has %d bytes", st.Size())
		}
		d = must[disk.Device](t)(disk.Open(path, true))
		exercise(t, d)
		ok(t, d.Close())
	}
}

func TestCreateIsSparse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	d := must[disk.Device](t)(disk.Create(path, 1<<40))
	defer d.Close() // nothing is written
	used := func() int64 {
		st := must[os.FileInfo](t)(os.Stat(path))
		if st.Size() != 1<<40 {
			t.Errorf("%d bytes", st.Size())
		}
		return st.Sys().(*syscall.Stat_t).Blocks * 512
	}
	if n := used(); n > 1<<20 {
		t.Errorf("%d bytes on the disk", n)
	}
	ok(t, d.(disk.Reserver).Reserve(1<<39, 4<<20))
	if n := used(); n < 4<<20 || n > 5<<20 {
		t.Errorf("%d bytes on the disk after some were reserved", n)
	}
}

// TestCreateNotAmongDevices has a disk's name with a typing error.
func TestCreateNotAmongDevices(t *testing.T) {
	for _, path := range []string{"/dev/huck-no-such-disk", "/dev/shm/../huck-no-such-disk"} {
		var refused *disk.Refused
		if d, err := disk.Create(path, 1<<20); !errors.As(err, &refused) || refused.Device != path {
			t.Errorf("%s: %v, want it refused", path, err)
			if err == nil {
				d.Close()
				os.Remove(path)
			}
		}
	}
}

func TestFileIsHeldAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	w := must[disk.Device](t)(disk.Create(path, 1<<20))
	for _, write := range []bool{true, false} {
		var refused *disk.Refused
		if _, err := disk.Open(path, write); !errors.As(err, &refused) || refused.Device != path {
			t.Errorf("open beside a writer, write=%t: %v", write, err)
		}
	}
	ok(t, w.Close())
	r1 := must[disk.Device](t)(disk.Open(path, false))
	r2 := must[disk.Device](t)(disk.Open(path, false))
	if _, err := disk.Open(path, true); err == nil {
		t.Error("opened for writing beside readers")
	}
	if _, err := r1.WriteV(0, []byte{1}); err == nil {
		t.Error("wrote to a device opened for reading")
	}
	ok(t, r1.Close())
	ok(t, r2.Close())
}

func TestNoDisk(t *testing.T) {
	dir := t.TempDir()
	if _, err := disk.Open(filepath.Join(dir, "none"), true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	ok(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	for _, path := range []string{dir, "/dev/null", filepath.Join(dir, "fifo")} {
		var refused *disk.Refused
		if _, err := disk.Open(path, false); !errors.As(err, &refused) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := disk.Create(filepath.Join(dir, "x", "y"), 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing folder: %v", err)
	}
	if err := disk.Reread(filepath.Join(dir, "none")); err == nil {
		t.Error("reread of nothing")
	}
}

func TestBuffer(t *testing.T) {
	for _, n := range []int{0, 1, 4096, 100000, disk.LargePage, 5<<20 + 1} {
		b := disk.Buffer(n)
		if len(b) != n || cap(b) != n || uintptr(unsafe.Pointer(unsafe.SliceData(b)))%disk.Align != 0 {
			t.Errorf("%d: %d bytes, capacity %d, at %p", n, len(b), cap(b), b)
		}
		if !disk.IsZero(b) {
			t.Errorf("%d: not zeros", n)
		}
	}
}

func TestDiscarder(t *testing.T) {
	d := disk.Discarder(10<<20, 512)
	p := bytes.Repeat([]byte{7}, 2<<20)
	if _, err := d.WriteV(512, p); err != nil {
		t.Fatal(err)
	}
	ok(t, d.Zero(1024, 512))
	got := bytes.Clone(p)
	if _, err := d.ReadAt(got, 0); err != nil || !disk.IsZero(got) {
		t.Errorf("read back: %v, zeros: %t", err, disk.IsZero(got))
	}
	if n, err := d.ReadAt(got, 9<<20); n != 1<<20 || !errors.Is(err, io.EOF) {
		t.Errorf("read over the end: %d, %v", n, err)
	}
	if _, err := d.WriteV(9<<20, p); err == nil {
		t.Error("wrote over the end")
	}
	if !disk.KeepsNothing(d) {
		t.Error("it keeps something")
	}
}

// run runs a program and returns its output; without the program, or the right
// to use it, the test is skipped.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	disktest.NeedRoot(t)
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// loop attaches a loop device to a file of size bytes.
func loop(t *testing.T, size int64, args ...string) (dev, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "file")
	ok(t, os.WriteFile(file, nil, 0o600))
	ok(t, os.Truncate(file, size))
	dev = run(t, "losetup", append(append([]string{"-f", "--show"}, args...), file)...)
	t.Cleanup(func() { run(t, "losetup", "-d", dev) })
	return dev, file
}

func TestBlockDevice(t *testing.T) {
	for _, sector := range []string{"512", "4096"} {
		dev, _ := loop(t, 8<<20, "-b", sector)
		d := must[disk.Device](t)(disk.Open(dev, true))
		if d.Size() != 8<<20 || sector != map[int]string{512: "512", 4096: "4096"}[d.SectorSize()] {
			t.Errorf("%d bytes, sectors of %d", d.Size(), d.SectorSize())
		}
		var refused *disk.Refused
		if _, err := disk.Open(dev, true); !errors.As(err, &refused) {
			t.Errorf("opened for writing twice: %v", err)
		}
		exercise(t, d)
		ok(t, d.Close())
		r := must[disk.Device](t)(disk.Open(dev, false))
		ok(t, r.Close())
	}
}

// TestOddBlockDevice has an end that is no multiple of 4096.
func TestOddBlockDevice(t *testing.T) {
	dev, file := loop(t, 8<<20+1536)
	d := must[disk.Device](t)(disk.Open(dev, true))
	exercise(t, d)
	ok(t, d.Sync())
	b := must[[]byte](t)(os.ReadFile(file))
	if len(b) != 8<<20+1536 || bytes.Equal(b[len(b)-512:], make([]byte, 512)) {
		t.Error("the end has not reached the device")
	}
	ok(t, d.Close())
}

func TestBlockDeviceRefused(t *testing.T) {
	var refused *disk.Refused
	ro, _ := loop(t, 1<<20, "-r")
	if _, err := disk.Open(ro, true); !errors.As(err, &refused) || !strings.Contains(err.Error(), ro) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("read-only: %v", err)
	}
	ok(t, must[disk.Device](t)(disk.Open(ro, false)).Close())

	dev, _ := loop(t, 8<<20)
	run(t, "mkfs.ext4", "-q", dev)
	at := t.TempDir()
	run(t, "mount", dev, at)
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
	})
	if _, err := disk.Open(dev, true); !errors.As(err, &refused) || !strings.Contains(err.Error(), dev+" is mounted on "+at) {
		t.Errorf("mounted: %v", err)
	}
	if use, err := disk.InUse(dev); err != nil || use != dev+" is mounted on "+at {
		t.Errorf("use %q, %v", use, err)
	}
	ok(t, must[disk.Device](t)(disk.Open(dev, false)).Close())
	ok(t, unix.Unmount(at, 0))
	d := must[disk.Device](t)(disk.Open(dev, true))
	ok(t, d.Close())
}

func TestIsZero(t *testing.T) {
	for n := range 130 {
		b := make([]byte, n)
		if !disk.IsZero(b) {
			t.Errorf("%d zeros are said to be none", n)
		}
		for i := range b {
			b[i] = 1
			if disk.IsZero(b) {
				t.Errorf("the 1 at %d of %d is missed", i, n)
			}
			b[i] = 0
		}
		for i := range b {
			b[i] = 7
		}
		if n > 0 && disk.IsZero(b) {
			t.Errorf("%d sevens are said to be zeros", n)
		}
	}
}
