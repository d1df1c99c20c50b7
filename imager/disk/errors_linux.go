package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cause strips what os adds to an error, operation and path: we name them.
func cause(err error) error {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// cause is cause, and ErrGone where a block device is shorter than it was. The
// kernel makes one that was taken away 0 bytes long: reading it ends with EOF and
// writing to it with ENOSPC, which would speak of something else.
func (d *device) cause(err error) error {
	err = cause(err)
	if d.sector == 0 {
		return err
	}
	var size uint64
	if serr := d.ioctl(unix.BLKGETSIZE64, unsafe.Pointer(&size)); serr == nil && int64(size) >= d.size {
		return err
	}
	return fmt.Errorf("%w (%v)", ErrGone, err)
}

// discardError makes the kernel's error of a disk that has promised to discard and
// refuses the command when it comes (BLK_STS_TARGET, as for SCSI's "illegal
// request") the one of those that do not: not a byte is the worse for it. Some
// bridges between USB and SATA are like that.
func discardError(err error) error {
	if errors.Is(err, unix.EREMOTEIO) {
		return fmt.Errorf("%w: the disk refuses the command: %w", errors.ErrUnsupported, err)
	}
	return err
}
