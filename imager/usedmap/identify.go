package usedmap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"huck/imager/usedmap/internal/probe"
	"huck/imager/usedmap/lvm"
)

// Identity is what superblocks tell of themselves.
type Identity struct {
	// Content names what was found as Result.Content does; ext2 and ext3 are
	// "ext4", as the kernel's driver is for all three. It is empty if nothing
	// known is there.
	Content string
	// UUID and Label are the content's own, as Probe and blkid print them; of an
	// LVM2 physical volume the label is its volume group's name. Both may be
	// empty: Identify follows no tables to find a label.
	UUID, Label string
	// MaxSector is the largest logical sector, in bytes, of a device that the
	// content can be used on: no filesystem is mounted whose own blocks or
	// sectors are smaller. 0 is not known.
	MaxSector int
}

// identifyBytes reaches over the superblocks that stand farthest from the
// start, at 64 KiB: of Btrfs' the label ends at 0x22b, UFS' has its magic number
// at 0x55c.
const identifyBytes = 0x10000 + 0x600

// Identify recognises content by its superblock, in one or two reads of a few
// KiB: what is on a disk, told before it is overwritten. Unlike Probe it
// checks no more than the magic numbers. Errors are those of reading.
func Identify(r io.ReaderAt, size int64) (Identity, error) {
	b := make([]byte, identifyBytes)
	n, err := r.ReadAt(b[:min(size, identifyBytes)], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Identity{}, fmt.Errorf("usedmap: read superblocks: %w", err)
	}
	clear(b[n:])
	if id, err := identifyLVM(r, size); err != nil || id.Content != "" {
		return id, err
	}
	for _, s := range signatures() {
		if at(b, s.at, s.magic) {
			return s.identity(b), nil
		}
	}
	return identifyFS(b), nil
}

func (s signature) identity(b []byte) Identity {
	id := Identity{Content: s.content}
	if s.uuid != 0 {
		id.UUID = probe.UUID(field(b, s.at+s.uuid, 16))
	}
	if s.label != 0 {
		id.Label = text(field(b, s.at+s.label, s.labelLen))
	}
	if s.content == luks {
		id.UUID = text(field(b, luksUUIDAt, luksUUIDLen))
	}
	return id
}

func identifyLVM(r io.ReaderAt, size int64) (id Identity, err error) {
	// Without a look inside, a physical volume is only named.
	res, err := lvm.Name(r, size)
	if err != nil || res == nil {
		return id, err
	}
	return Identity{Content: res.Content, UUID: res.UUID, Label: res.Label}, nil
}

// identifyFS knows the filesystems whose used blocks Probe reads. Offsets are
// those of the formats' own descriptions, which their packages name.
func identifyFS(b []byte) Identity {
	le := binary.LittleEndian
	switch {
	case le.Uint16(b[0x438:]) == 0xef53:
		return Identity{"ext4", probe.UUID(b[0x468:][:16]), text(b[0x478:0x488]), shift(1024, b[0x418])}
	case string(b[:4]) == "XFSB":
		return Identity{"xfs", probe.UUID(b[32:][:16]), text(b[108:120]), int(binary.BigEndian.Uint16(b[102:]))}
	case string(b[0x10040:0x10048]) == "_BHRfS_M":
		return Identity{"btrfs", probe.UUID(b[0x10020:][:16]), text(b[0x1012b:0x1022b]), int(le.Uint32(b[0x10090:]))}
	case le.Uint32(b[0x400:]) == 0xf2f52010:
		return Identity{Content: "f2fs", UUID: probe.UUID(b[0x400+108:][:16]), MaxSector: shift(1, b[0x400+16])}
	case string(b[3:11]) == "NTFS    ":
		return Identity{Content: "ntfs", UUID: fmt.Sprintf("%016X", le.Uint64(b[72:])), MaxSector: int(le.Uint16(b[11:]))}
	case string(b[3:11]) == "EXFAT   ":
		return Identity{Content: "exfat", UUID: serial(b[100:]), MaxSector: shift(1, b[108])}
	case le.Uint16(b[510:]) == 0xaa55 && string(b[0x52:0x57]) == "FAT32":
		return Identity{"vfat", serial(b[0x43:]), fatLabel(b[0x47:0x52]), int(le.Uint16(b[11:]))}
	case le.Uint16(b[510:]) == 0xaa55 && string(b[0x36:0x39]) == "FAT":
		return Identity{"vfat", serial(b[0x27:]), fatLabel(b[0x2b:0x36]), int(le.Uint16(b[11:]))}
	}
	for page := 4 << 10; page <= 64<<10; page *= 2 {
		if string(b[page-10:page]) == "SWAPSPACE2" {
			return Identity{"swap", probe.UUID(b[0x40c:][:16]), text(b[0x41c:0x42c]), page}
		}
	}
	return Identity{}
}

// shift returns n shifted left by a field of a superblock, 0 where that makes
// no sense.
func shift(n int, by byte) int {
	if by > 16 {
		return 0
	}
	return n << by
}

// serial is how blkid and GRUB write the ID of a FAT volume.
func serial(b []byte) string {
	n := binary.LittleEndian.Uint32(b)
	return fmt.Sprintf("%04X-%04X", n>>16, n&0xffff)
}

func fatLabel(b []byte) string {
	if s := text(b); s != "NO NAME" {
		return s
	}
	return ""
}
