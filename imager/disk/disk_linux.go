package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dirtyLimit is how many bytes may go to the page cache before they are pushed
// to the device: enough to keep it busy, little beside a small node's memory.
const dirtyLimit = 32 << 20

// zeroPiece is how much is written at a time where zeros must be written.
const zeroPiece = 1 << 20

// device is a block device or a file.
type device struct {
	path   string
	size   int64
	sector int // 0 for a file
	f      *os.File
	// direct bypasses the page cache; nil if that is not possible or not wanted.
	direct *os.File

	blank  atomic.Bool  // created and not written to
	cached atomic.Int64 // bytes written through f since the last push
}

func open(path string, write bool) (Device, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("disk: open %s: %w", path, err)
	}
	d := &device{path: path}
	switch {
	case st.Mode().Type() == fs.ModeDevice:
		err = d.openBlock(write)
	case st.Mode().IsRegular():
		err = d.openFile(write)
	default:
		return nil, &Refused{path, "it is neither a block device nor a regular file"}
	}
	if err != nil {
		d.Close() // the error that matters is the one at hand
		return nil, err
	}
	return d, nil
}

func checkNew(path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil // what it is relative to is gone; creating it fails, too
	}
	if !strings.HasPrefix(abs, "/dev/") || strings.HasPrefix(abs, "/dev/shm/") {
		return nil
	}
	return &Refused{path, "there is no such device, and an image's file does not go among the devices, which are kept in memory; lsblk lists the disks"}
}

func create(path string, size int64) (_ Device, err error) {
	d := &device{path: path, size: size}
	if err := checkNew(path); err != nil {
		return nil, err
	}
	if d.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666); err != nil {
		return nil, fmt.Errorf("disk: create %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			d.Close()
			os.Remove(path) // of no use to anyone; the error says why
		}
	}()
	if err := d.lock(unix.LOCK_EX); err != nil {
		return nil, err
	}
	if err := d.f.Truncate(size); err != nil {
		return nil, fmt.Errorf("disk: create %s with %d bytes: %w", path, size, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("disk: create %s: %v", path, err)
	}
	defer dir.Close() // opened for reading
	// Some network filesystems cannot sync a folder and need not.
	if err := dir.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("disk: create %s: %v", path, err)
	}
	d.openDirect()
	d.blank.Store(true)
	return d, nil
}

func (d *device) openFile(write bool) error {
	flag, lock := os.O_RDONLY, unix.LOCK_SH
	if write {
		flag, lock = os.O_RDWR, unix.LOCK_EX
		if err := refuseUsed(d.path); err != nil {
			return err
		}
		if inMachine(d.path, permRead) {
			return &Refused{d.path, "a virtual machine reads it"}
		}
	}
	var err error
	if d.f, err = os.OpenFile(d.path, flag, 0); err != nil {
		return fmt.Errorf("disk: open %s: %w", d.path, err)
	}
	if err := d.lock(lock); err != nil {
		return err
	}
	st, err := d.f.Stat()
	if err != nil {
		return fmt.Errorf("disk: open %s: %w", d.path, err)
	}
	d.size = st.Size()
	if write {
		d.openDirect()
	}
	return nil
}

// refuseUsed refuses what the kernel or a virtual machine uses.
func refuseUsed(path string) error {
	use, err := inUse(path)
	if err == nil && use != "" {
		err = &Refused{path, use}
	}
	return err
}

// lock keeps others of us from writing while we read or from using what we
// write. Filesystems without locks go without.
func (d *device) lock(how int) error {
	err := unix.Flock(int(d.f.Fd()), how|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return &Refused{d.path, "another program is using it as a disk"}
	case err != nil && !errors.Is(err, unix.ENOLCK) && !errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("disk: lock %s: %v", d.path, err)
	}
	return nil
}

func (d *device) openBlock(write bool) error {
	var err error
	if d.f, err = os.OpenFile(d.path, os.O_RDONLY, 0); err != nil {
		return fmt.Errorf("disk: open %s: %w", d.path, err)
	}
	if write {
		if err := d.takeBlock(); err != nil {
			return err
		}
	}
	var size uint64
	if err := d.ioctl(unix.BLKGETSIZE64, unsafe.Pointer(&size)); err != nil {
		return fmt.Errorf("disk: size of %s: %v", d.path, err)
	}
	sector, err := unix.IoctlGetUint32(int(d.f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("disk: sector size of %s: %v", d.path, err)
	}
	d.size, d.sector = int64(size), int(sector)
	d.dropCache()
	if write {
		d.openDirect()
	}
	return nil
}

// dropCache makes reads come from the device. A block device has a page cache of
// its own, which stays as long as anybody has it open, and does not see what is
// written to a partition of it or by a filesystem to its files: with that, the
// free blocks of a disk would be of today and the files of yesterday.
func (d *device) dropCache() {
	// A write error of others, long ago, is not for us to tell.
	_ = d.f.Sync()
	_ = unix.Fadvise(int(d.f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// takeBlock reopens the device for writing, for us alone.
func (d *device) takeBlock() error {
	ro, err := unix.IoctlGetUint32(int(d.f.Fd()), unix.BLKROGET)
	if err != nil {
		return fmt.Errorf("disk: read-only state of %s: %v", d.path, err)
	}
	if ro != 0 {
		return &Refused{d.path, "it is read-only"}
	}
	if err := refuseUsed(d.path); err != nil {
		return err
	}
	if err := d.f.Close(); err != nil {
		return fmt.Errorf("disk: open %s: %w", d.path, err)
	}
	// On a block device O_EXCL without O_CREAT claims it, partitions included,
	// against mounts and all else in the kernel that claims devices.
	d.f, err = os.OpenFile(d.path, os.O_RDWR|os.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return &Refused{d.path, otherUse}
	}
	if err != nil {
		return fmt.Errorf("disk: open %s for writing: %w", d.path, err)
	}
	return nil
}

// openDirect opens the file a second time without the page cache. Where that
// does not work we do without.
func (d *device) openDirect() { d.direct, _ = OpenDirect(d.f) }

// OpenDirect opens a file that is open a second time, for reading and writing
// without the page cache: offset, length and memory must be multiples of Align.
// It is an error where the filesystem cannot do that, as some in memory.
func OpenDirect(f *os.File) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR|unix.O_DIRECT, 0)
}

func (d *device) ioctl(req uint, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.f.Fd(), uintptr(req), uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

func (d *device) Name() string    { return d.path }
func (d *device) Size() int64     { return d.size }
func (d *device) SectorSize() int { return d.sector }
func (d *device) Blank() bool     { return d.blank.Load() }

func aligned(p []byte, off int64) bool {
	return len(p) > 0 && (uint64(off)|uint64(len(p))|uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))))&(Align-1) == 0
}

// ReadAt names where reading failed.
func (d *device) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.read(p, off)
	if err != nil {
		return n, fmt.Errorf("disk: read %s at %d: %w", d.path, off+int64(n), d.cause(err))
	}
	return n, nil
}

// read reads a device that is written to past the page cache, if that is
// possible: planning is not to fill the memory, and to copy all that is read
// takes longer than reading it from many a disk.
func (d *device) read(p []byte, off int64) (int, error) {
	if d.direct != nil && aligned(p, off) && off+int64(len(p)) <= d.size {
		n, err := d.direct.ReadAt(p, off)
		if err == nil || !errors.Is(err, unix.EINVAL) { // see write
			return n, err
		}
	}
	return d.f.ReadAt(p, off)
}

// WriteV gives all buffers to the kernel at once if it can write them past the
// page cache. What that leaves, as it fails or the kernel stops in between, is
// written buffer by buffer, and the error, if it is one, met again.
func (d *device) WriteV(off int64, bufs ...[]byte) (int, error) {
	var size int64
	direct := d.direct != nil
	for _, b := range bufs {
		direct = direct && aligned(b, off+size)
		size += int64(len(b))
	}
	if err := checkRange("write", d.path, off, size, d.size); err != nil {
		return 0, err
	}
	d.blank.Store(false)
	written := 0
	if direct && len(bufs) > 1 {
		n, _ := unix.Pwritev(int(d.direct.Fd()), bufs, off)
		written = max(n, 0)
	}
	skip := written
	for _, b := range bufs {
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		n, err := d.write(b[skip:], off+int64(written))
		written, skip = written+n, 0
		if err != nil {
			return written, fmt.Errorf("disk: write %s at %d: %w", d.path, off+int64(written), d.cause(err))
		}
	}
	return written, nil
}

// write writes one buffer, past the page cache if that is possible.
func (d *device) write(p []byte, off int64) (int, error) {
	if d.direct != nil && aligned(p, off) {
		n, err := d.direct.WriteAt(p, off)
		// EINVAL: a filesystem whose blocks are larger than Align.
		if err == nil || !errors.Is(err, unix.EINVAL) {
			return n, err
		}
	}
	n, err := d.f.WriteAt(p, off)
	if err == nil && d.cached.Add(int64(n)) >= dirtyLimit {
		d.cached.Store(0)
		err = unix.SyncFileRange(int(d.f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE)
	}
	return n, err
}

func (d *device) Sync() error {
	if err := d.f.Sync(); err != nil {
		return fmt.Errorf("disk: sync %s: %w", d.path, d.cause(err))
	}
	// A hint; where it is not taken, reads may come from memory.
	_ = unix.Fadvise(int(d.f.Fd()), 0, 0, unix.FADV_DONTNEED)
	return nil
}

// Reserve spares direct writes to a file the holes: to fill one is to change the
// file's map, and filesystems do that one write at a time (ext4_dio_write_checks).
func (d *device) Reserve(off, n int64) error {
	if err := checkRange("reserve", d.path, off, n, d.size); err != nil || n == 0 || d.sector != 0 {
		return err
	}
	err := unix.Fallocate(int(d.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, n)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("disk: reserve %s at %d, %d bytes: %w", d.path, off, n, err)
	}
	return nil
}

func (d *device) Discard(off, n int64) error {
	if err := checkRange("discard", d.path, off, n, d.size); err != nil || n == 0 {
		return err
	}
	var err error
	if d.sector != 0 {
		err = d.ioctl(unix.BLKDISCARD, unsafe.Pointer(&[2]uint64{uint64(off), uint64(n)}))
	} else {
		err = unix.Fallocate(int(d.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	}
	if err != nil {
		return fmt.Errorf("disk: discard %s at %d, %d bytes: %w", d.path, off, n, discardError(d.cause(err)))
	}
	return nil
}

func (d *device) Zero(off, n int64) error {
	if err := checkRange("zero", d.path, off, n, d.size); err != nil || n == 0 {
		return err
	}
	var err error
	if d.sector != 0 {
		// The kernel writes zeros itself where the disk has no command for it.
		err = d.ioctl(unix.BLKZEROOUT, unsafe.Pointer(&[2]uint64{uint64(off), uint64(n)}))
	} else {
		err = unix.Fallocate(int(d.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, unix.EINVAL): // EINVAL: not whole sectors
		return d.writeZeros(off, n)
	}
	return fmt.Errorf("disk: zero %s at %d, %d bytes: %w", d.path, off, n, err)
}

func (d *device) writeZeros(off, n int64) error {
	zeros := Buffer(int(min(n, zeroPiece)))
	for n > 0 {
		p := zeros[:min(n, int64(len(zeros)))]
		if _, err := d.WriteV(off, p); err != nil {
			return err
		}
		off, n = off+int64(len(p)), n-int64(len(p))
	}
	return nil
}

func (d *device) Close() error {
	var errs []error
	for _, f := range []*os.File{d.direct, d.f} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("disk: close %s: %w", d.path, err)
	}
	return nil
}

// rereadWait is how long others get to let go of a disk: udev looks at a disk
// for a moment whenever somebody has closed it after writing.
const rereadWait = 5 * time.Second

func reread(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("disk: reread partitions: %w", err)
	}
	defer f.Close() // opened for reading
	for end := time.Now().Add(rereadWait); ; {
		_, err := unix.IoctlRetInt(int(f.Fd()), unix.BLKRRPART)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return fmt.Errorf("disk: reread partitions of %s: %w", path, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// useLargePages asks for large pages for memory that starts at one's boundary and
// has not been used. A hint: without them all goes as well, only slower.
func useLargePages(b []byte) { _ = unix.Madvise(b[:len(b)&^(Align-1)], unix.MADV_HUGEPAGE) }
