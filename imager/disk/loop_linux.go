package disk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Attacher is implemented by devices of which a stretch can be made a block
// device of its own, for the kernel to mount what stands there.
type Attacher interface {
	// Attach makes a block device of n bytes at off with sectors of sector
	// bytes. The device may be open for writing meanwhile. It takes root.
	Attach(off, n int64, sector int) (*Loop, error)
}

// Loop is a block device that stands for a stretch of another device or file:
// one of the kernel's loop devices (loop(4)).
type Loop struct {
	path string
	f    *os.File
}

// Path is the block device's node.
func (l *Loop) Path() string { return l.path }

// Close brings what was written to the device behind it and lets go of the loop
// device, which the kernel takes away once nobody else has it open or mounted.
func (l *Loop) Close() error {
	if err := errors.Join(l.f.Sync(), l.f.Close()); err != nil {
		return fmt.Errorf("disk: detach %s: %w", l.path, err)
	}
	return nil
}

// Attach implements Attacher. A partition's own node would not do: nobody can
// have it while the whole disk is taken, and it is as long as the partition was
// when the kernel last read the table.
func (d *device) Attach(off, n int64, sector int) (*Loop, error) {
	if err := checkRange("attach", d.path, off, n, d.size); err != nil {
		return nil, err
	}
	if d.sector != 0 {
		sector = d.sector
	}
	back, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", d.f.Fd()), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("disk: attach %s: %w", d.path, cause(err))
	}
	defer back.Close() // the loop device has it open itself
	config := unix.LoopConfig{
		Fd:   uint32(back.Fd()),
		Size: uint32(sector),
		// AUTOCLEAR: it goes with us, however we end.
		Info: unix.LoopInfo64{Offset: uint64(off), Sizelimit: uint64(n), Flags: unix.LO_FLAGS_AUTOCLEAR},
	}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], d.path)
	l, err := configure(&config)
	if err != nil {
		return nil, fmt.Errorf("disk: attach %s at %d, %d bytes: %w", d.path, off, n, err)
	}
	return l, nil
}

// freeTries is how often a free loop device is looked for: somebody else may be
// faster to use it.
const freeTries = 16

func configure(config *unix.LoopConfig) (*Loop, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close() // nothing is written to it
	for try := 1; ; try++ {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("free loop device: %w", err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		l, err := setUp(path, config)
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, unix.EBUSY) || try == freeTries {
			return nil, fmt.Errorf("set up %s: %w", path, err)
		}
	}
}

// setUp makes the loop device at path what config says.
func setUp(path string, config *unix.LoopConfig) (*Loop, error) {
	// Opened for reading only it would be a read-only device.
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing is written to it
	if err := unix.IoctlLoopConfigure(int(f.Fd()), config); err != nil {
		return nil, err
	}
	// A kernel without BLK_DEV_WRITE_MOUNTED mounts nothing that is open for
	// writing.
	keep, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &Loop{path, keep}, nil
}
