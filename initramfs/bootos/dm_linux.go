package bootos

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"huck/imager/usedmap/lvm"
)

// The device-mapper's interface is Linux's, include/uapi/linux/dm-ioctl.h,
// version 4: a struct dm_ioctl of 312 bytes, then what belongs to the command.
const (
	dmControl    = "/dev/mapper/control"
	dmHeader     = 312
	dmTarget     = 40 // struct dm_target_spec
	dmSector     = 512
	dmCreate     = 3
	dmRemove     = 4
	dmSuspend    = 6 // without its flag: resume
	dmLoad       = 9
	dmReadOnly   = 1
	dmFlagsAt    = 28
	dmDeviceAt   = 40
	dmNameAt     = 48
	dmNameLen    = 128
	dmIoctlBase  = 3<<30 | dmHeader<<16 | 0xfd<<8
	dmNamePrefix = "huck-"
)

// mapper makes block devices of logical volumes.
type mapper struct{ control *os.File }

// openMapper opens the device-mapper, which a kernel need not have.
func openMapper() (*mapper, error) {
	f, err := os.OpenFile(dmControl, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("bootos: device-mapper: %w", err)
	}
	return &mapper{f}, nil
}

func (m *mapper) close() { m.control.Close() } // nothing is written to it

// add makes a device of v, which lies on the block device dev, that can only be
// read. It returns its node.
func (m *mapper) add(name string, v lvm.Volume, dev uint64) (node string, err error) {
	b := dmRequest(name, 0, nil)
	if err := m.call(dmCreate, b); err != nil {
		return "", fmt.Errorf("bootos: make a device of %s/%s: %w", v.Group, v.Name, err)
	}
	table := dmTable(v, dev)
	load := dmRequest(name, dmReadOnly, table)
	binary.NativeEndian.PutUint32(load[20:], uint32(len(v.Pieces)))
	err = m.call(dmLoad, load)
	if err == nil {
		err = m.call(dmSuspend, dmRequest(name, 0, nil))
	}
	if err != nil {
		_ = m.remove(name)
		return "", fmt.Errorf("bootos: make a device of %s/%s: %w", v.Group, v.Name, err)
	}
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(binary.NativeEndian.Uint64(b[dmDeviceAt:]))), nil
}

func (m *mapper) remove(name string) error {
	if err := m.call(dmRemove, dmRequest(name, 0, nil)); err != nil {
		return fmt.Errorf("bootos: remove device %s: %w", name, err)
	}
	return nil
}

func (m *mapper) call(command uintptr, b []byte) error {
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, m.control.Fd(), dmIoctlBase|command, uintptr(unsafe.Pointer(&b[0]))); no != 0 {
		return no
	}
	return nil
}

// dmRequest makes a struct dm_ioctl about the device of the given name, and
// payload behind it.
func dmRequest(name string, flags uint32, payload []byte) []byte {
	b := append(make([]byte, dmHeader), payload...)
	ne := binary.NativeEndian
	ne.PutUint32(b, 4) // version 4.0.0
	ne.PutUint32(b[12:], uint32(len(b)))
	ne.PutUint32(b[16:], dmHeader)
	ne.PutUint32(b[dmFlagsAt:], flags)
	copy(b[dmNameAt:dmNameAt+dmNameLen-1], name)
	return b
}

// dmTable makes the linear targets of v's pieces: for each a struct
// dm_target_spec and "MAJOR:MINOR SECTOR", padded to eight bytes.
func dmTable(v lvm.Volume, dev uint64) []byte {
	var table []byte
	ne, at := binary.NativeEndian, int64(0)
	for _, p := range v.Pieces {
		params := fmt.Sprintf("%d:%d %d", unix.Major(dev), unix.Minor(dev), p.Offset/dmSector)
		params += strings.Repeat("\x00", 8-len(params)%8) // one at least
		spec := make([]byte, dmTarget)
		ne.PutUint64(spec, uint64(at/dmSector))
		ne.PutUint64(spec[8:], uint64(p.Size/dmSector))
		ne.PutUint32(spec[20:], uint32(dmTarget+len(params)))
		copy(spec[24:], "linear")
		table = append(append(table, spec...), params...)
		at += p.Size
	}
	return table
}
