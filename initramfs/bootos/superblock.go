package bootos

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// filesystem is what a superblock tells.
type filesystem struct {
	// kind is the kernel's name for it.
	kind        string
	uuid, label string
}

// identify recognises the filesystems that boot loaders read and this kernel
// has. The error is of reading, or says that there is none.
func identify(r io.ReaderAt) (filesystem, error) {
	// Btrfs has its superblock at 64 KiB, and nothing beyond its first sector matters here.
	buf := make([]byte, 0x10000+512)
	n, err := r.ReadAt(buf, 0)
	if err != nil && err != io.EOF {
		return filesystem{}, fmt.Errorf("bootos: read superblock: %w", err)
	}
	clear(buf[n:])
	le16 := func(at int) uint16 { return binary.LittleEndian.Uint16(buf[at:]) }
	switch {
	case le16(0x438) == 0xEF53: // s_magic; ext2 and ext3 mount as ext4, too
		return filesystem{"ext4", uuid(buf[0x468:]), text(buf[0x478:0x488])}, nil
	case string(buf[:4]) == "XFSB":
		return filesystem{"xfs", uuid(buf[32:]), text(buf[108:120])}, nil
	case string(buf[0x10040:0x10048]) == "_BHRfS_M":
		return filesystem{"btrfs", uuid(buf[0x10020:]), text(buf[0x1012b : 0x1012b+100])}, nil
	case le16(510) != 0xAA55:
	case string(buf[0x52:0x57]) == "FAT32":
		return filesystem{"vfat", fatSerial(buf[0x43:]), text(buf[0x47:0x52])}, nil
	case string(buf[0x36:0x39]) == "FAT":
		return filesystem{"vfat", fatSerial(buf[0x27:]), text(buf[0x2B:0x36])}, nil
	}
	return filesystem{}, fmt.Errorf("bootos: no filesystem known here")
}

func uuid(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// fatSerial is how blkid and GRUB write a FAT volume's ID.
func fatSerial(b []byte) string {
	s := binary.LittleEndian.Uint32(b)
	return fmt.Sprintf("%04x-%04x", s>>16, s&0xffff)
}

func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return strings.TrimRight(s, " ")
}
