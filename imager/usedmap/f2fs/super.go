package f2fs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"unicode/utf16"
)

const (
	superOffset = 1024
	superSize   = 3072
	superMagic  = 0xf2f52010
	superCRC    = superSize - 4

	blockSize  = 4096
	segBlocks  = 512 // blocks in a segment
	sitEntry   = 74  // bytes that describe a segment
	sitPerBlck = blockSize / sitEntry

	featureSuperCRC = 0x800
	featureReadOnly = 0x4000
	// featureKnown: encryption, larger inodes, project quota, inode checksums,
	// flexible inline xattr, quota inodes, creation times, lost+found, verity,
	// superblock checksum, case folding, compression and read-only images. Zoned
	// devices, aliases of further devices and other layouts are not among them.
	featureKnown = 0x1 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | featureSuperCRC |
		0x1000 | 0x2000 | featureReadOnly

	// maxPayload bounds the blocks of a checkpoint that hold its bitmaps: 16 TiB,
	// the most there can be, need 5.
	maxPayload = 16
)

// super is a superblock (Linux, include/linux/f2fs_fs.h).
type super []byte

func (s super) u32(at int) int64 { return int64(binary.LittleEndian.Uint32(s[at:])) }

func (s super) blocks() uint64    { return binary.LittleEndian.Uint64(s[36:]) }
func (s super) cpSegs() int64     { return s.u32(52) }
func (s super) sitSegs() int64    { return s.u32(56) }
func (s super) natSegs() int64    { return s.u32(60) }
func (s super) ssaSegs() int64    { return s.u32(64) }
func (s super) mainSegs() int64   { return s.u32(68) }
func (s super) segment0() int64   { return s.u32(72) }
func (s super) cp() int64         { return s.u32(76) } // this and the next four are block numbers
func (s super) sit() int64        { return s.u32(80) }
func (s super) nat() int64        { return s.u32(84) }
func (s super) ssa() int64        { return s.u32(88) }
func (s super) main() int64       { return s.u32(92) }
func (s super) uuid() []byte      { return s[108:124] }
func (s super) payload() int64    { return s.u32(1664) }
func (s super) features() int64   { return s.u32(2180) }
func (s super) severalDevs() bool { return s[2201] != 0 } // the path of the first

// readOnly tells of a filesystem that is never mounted to be written: it has no
// summaries of its segments and nothing to recover.
func (s super) readOnly() bool { return s.features()&featureReadOnly != 0 }

func (s super) label() string {
	var name []uint16
	for at := 124; at < 124+2*512; at += 2 {
		c := binary.LittleEndian.Uint16(s[at:])
		if c == 0 {
			break
		}
		name = append(name, c)
	}
	return string(utf16.Decode(name))
}

// crc is the CRC-32 of b as f2fs uses it: continued from c, without the
// inversions around it.
func crc(c uint32, b []byte) uint32 { return ^crc32.Update(^c, crc32.IEEETable, b) }

// check checks the superblock of a filesystem in size bytes.
func (s super) check(size int64) error {
	if s.features()&featureSuperCRC != 0 {
		want, got := uint32(s.u32(superCRC)), crc(superMagic, s[:superCRC])
		if s.u32(32) != superCRC || want != got {
			return fmt.Errorf("checksum %08x, its bytes give %08x", want, got)
		}
	}
	if s.u32(16) != 12 || s.u32(20) != 9 {
		return fmt.Errorf("blocks of 2^%d bytes, segments of 2^%d blocks", s.u32(16), s.u32(20))
	}
	if s.blocks() > uint64(size/blockSize) {
		return fmt.Errorf("%d blocks of %d bytes, the partition has %d bytes", s.blocks(), blockSize, size)
	}
	at := s.segment0()
	if at < 2 {
		return fmt.Errorf("its first segment is in block %d", at)
	}
	for _, a := range []struct {
		name     string
		at, segs int64
	}{{"checkpoints", s.cp(), s.cpSegs()}, {"SIT", s.sit(), s.sitSegs()}, {"NAT", s.nat(), s.natSegs()}, {"SSA", s.ssa(), s.ssaSegs()}, {"main area", s.main(), s.mainSegs()}} {
		if a.at != at || a.segs == 0 && !s.readOnly() || a.segs > (int64(s.blocks())-at)/segBlocks {
			return fmt.Errorf("its %s, %d segments, in block %d of %d", a.name, a.segs, a.at, s.blocks())
		}
		at += a.segs * segBlocks
	}
	switch {
	case s.cpSegs() != 2:
		return fmt.Errorf("%d segments of checkpoints", s.cpSegs())
	case s.sitSegs()%2 != 0 || s.sitBlocks() > s.sitSegs()/2*segBlocks:
		return fmt.Errorf("%d segments of SIT for %d segments", s.sitSegs(), s.mainSegs())
	case s.payload() > maxPayload:
		return fmt.Errorf("checkpoints of %d blocks", s.payload())
	}
	return nil
}

// sitBlocks returns how many blocks describe the segments of the main area.
func (s super) sitBlocks() int64 { return (s.mainSegs() + sitPerBlck - 1) / sitPerBlck }
