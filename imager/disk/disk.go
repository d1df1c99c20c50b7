// Package disk opens whole disks, partitions and files that stand for disks,
// and lists the disks of this machine. It owns everything that tells a block
// device from a file: sizes, exclusive use, O_DIRECT, discarding, zeroing. It
// does not know what stands on a disk.
package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"unsafe"
)

// Device is a disk, a partition or a file that stands for a disk. Its methods
// but Close may be called from several goroutines.
type Device interface {
	// ReadAt and WriteV read and write at any offset; offsets, lengths and
	// memory that are multiples of Align spare the kernel a copy. Their errors
	// name device and offset.
	io.ReaderAt
	// WriteV writes bufs one behind the other from off on, as one write where it
	// can, and returns how many bytes it wrote: all of them, or fewer and an
	// error. It never makes the device longer.
	WriteV(off int64, bufs ...[]byte) (int, error)
	// Name is how people call the device: its path.
	Name() string
	// Size is the device's length in bytes.
	Size() int64
	// SectorSize is the logical sector size in bytes: 512 or 4096, or 0 for a
	// file, which goes with either.
	SectorSize() int
	// Sync returns when everything written is durable, and makes later reads
	// come from the device rather than from memory. Writes are only known to
	// have succeeded if the Sync after them has.
	Sync() error
	// Discard tells the device that n bytes at off are no longer needed; what
	// they read as afterwards is undefined. The error wraps
	// errors.ErrUnsupported if the device does not do that, whatever it promised.
	Discard(off, n int64) error
	// Zero makes n bytes at off read as zeros, as cheaply as the device can.
	Zero(off, n int64) error
	// Close releases the device. It does not imply Sync.
	Close() error
}

// Blank is implemented by devices that may know that they are all zeros, as a
// file just created.
type Blank interface {
	// Blank reports that no byte has been written yet.
	Blank() bool
}

// Reserver is implemented by devices that may have no room yet for what is to be
// written to them, as sparse files.
type Reserver interface {
	// Reserve finds room for n bytes at off, which keep their content. Where it
	// was reserved, writes are faster and several may be under way at a time. It
	// is an error only if there is no such room; where the device cannot reserve,
	// it does nothing.
	Reserve(off, n int64) error
}

// Align is the alignment in bytes of offset, length and memory that lets the
// package bypass the page cache, whatever the device's sector size.
const Align = 4096

// LargePage is the length in bytes of the memory that the kernel may have in one
// piece (transparent huge pages). A disk takes that as one segment, where it takes
// hundreds of single pages, and not all of them in one request.
const LargePage = 2 << 20

// Buffer returns n bytes of zeroed memory that start at a multiple of Align. From
// LargePage on it is in large pages where the kernel has them: buffers are best
// cut from one such.
func Buffer(n int) []byte {
	align := Align
	if n >= LargePage {
		align = LargePage
	}
	b := make([]byte, n+align)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & uintptr(align-1))
	b = b[skip : skip+n : skip+n]
	if n >= LargePage {
		useLargePages(b)
	}
	return b
}

// IsZero reports whether b is all zeros.
func IsZero(b []byte) bool {
	// Each byte equals the one before: a comparison as fast as memory.
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

// Refused tells why a device is not used for what was asked. Nothing has been
// written to it.
type Refused struct {
	// Device is the device's name, Why the cause.
	Device, Why string
}

func (e *Refused) Error() string { return fmt.Sprintf("disk: %s refused: %s", e.Device, e.Why) }

// Open opens a block device or a regular file; it never creates one. For
// writing it takes the device for itself: a block device that is mounted, used
// by the kernel in another way (swap, RAID, device mapper) or read-only, itself
// or a partition of it or, as a file may be, by way of a loop device, is a
// *Refused that says where it is used, as is a file that another process of ours
// has open for writing, or QEMU at all. For reading it takes a device as it is,
// mounted or not: see InUse.
func Open(path string, write bool) (Device, error) { return open(path, write) }

// Create creates a sparse file of size bytes, readable as zeros, and opens it
// for writing. It is an error, wrapping fs.ErrExist, if something is there, and
// a *Refused where CheckNew says so.
func Create(path string, size int64) (Device, error) { return create(path, size) }

// CheckNew refuses a path where no new file belongs: in /dev, where it is a
// mistyped disk and would fill the memory, except in /dev/shm.
func CheckNew(path string) error { return checkNew(path) }

// InUse tells how the kernel uses the block device at path or one of its
// partitions, or a loop device of it or of the file at path, for example
// "/dev/sda1 is mounted on /boot", that a program has the device for itself, or
// that QEMU writes to that file; it is empty if there is no such use.
func InUse(path string) (string, error) { return inUse(path) }

// Reread makes the kernel read the partition table of the block device at path
// anew. It waits a few seconds for others, such as udev, to let go of it.
func Reread(path string) error { return reread(path) }

// Discarder returns a device of size bytes that throws writes away and reads as
// zeros.
func Discarder(size int64, sectorSize int) Device { return &discarder{size, sectorSize} }

// KeepsNothing reports that dev is a Discarder.
func KeepsNothing(dev Device) bool { _, is := dev.(*discarder); return is }

// ErrGone is wrapped by errors of a block device that is no longer there, as one
// that was pulled out, or has become shorter. Nothing else of it can be had.
var ErrGone = errors.New("the device is gone")

// errRange is about offsets and lengths outside the device.
var errRange = errors.New("outside the device")

// checkRange refuses n bytes at off if they are not all within size.
func checkRange(op, name string, off, n, size int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("disk: %s %s at %d, %d bytes of %d: %w", op, name, off, n, size, errRange)
	}
	return nil
}
