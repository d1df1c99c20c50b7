package xfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
)

// Version and feature bits (Linux, fs/xfs/libxfs/xfs_format.h).
const (
	versionMoreBits = 0x8000

	features2LazyCount = 0x2
	// features2Known: lazy counters, attr2, 32-bit project numbers, CRC, file
	// types in directories. None changes where free space is listed.
	features2Known = features2LazyCount | 0x8 | 0x80 | 0x100 | 0x200

	// roCompatKnown: the btrees of free inodes, of owners and of shared blocks,
	// and the counters of inode btree blocks.
	roCompatKnown = 0x1 | 0x2 | 0x4 | 0x8

	incompatMetaUUID    = 0x4
	incompatNeedsRepair = 0x10
	// incompatKnown: file types, sparse inode chunks, meta_uuid, bigtime,
	// needs_repair, large extent counts, exchange of ranges, parent pointers and
	// the tree of metadata files. Zoned devices are not among them.
	incompatKnown = 0x1 | 0x2 | incompatMetaUUID | 0x8 | incompatNeedsRepair | 0x20 | 0x40 | 0x80 | 0x100
)

const (
	superMagic   = 0x58465342 // "XFSB"
	superCRC     = 224
	minSector    = 512
	minAGBlocks  = 64
	maxAGBytes   = 1 << 40
	inodesAChunk = 64
)

// super is the superblock: the first sector of the filesystem.
type super []byte

func (s super) u16(at int) int64  { return int64(binary.BigEndian.Uint16(s[at:])) }
func (s super) u32(at int) uint32 { return binary.BigEndian.Uint32(s[at:]) }
func (s super) u64(at int) uint64 { return binary.BigEndian.Uint64(s[at:]) }

func (s super) blockSize() int64   { return int64(s.u32(4)) }
func (s super) blocks() uint64     { return s.u64(8) }
func (s super) realtime() uint64   { return s.u64(16) } // blocks
func (s super) uuid() []byte       { return s[32:48] }
func (s super) logStart() uint64   { return s.u64(48) }
func (s super) rootInode() uint64  { return s.u64(56) }
func (s super) agBlocks() int64    { return int64(s.u32(84)) }
func (s super) agCount() int64     { return int64(s.u32(88)) }
func (s super) logBlocks() int64   { return int64(s.u32(96)) }
func (s super) versionBits() int64 { return s.u16(100) }
func (s super) version() int64     { return s.versionBits() & 0xf }
func (s super) sectorSize() int64  { return s.u16(102) }
func (s super) inodeSize() int64   { return s.u16(104) }
func (s super) label() string      { b, _, _ := bytes.Cut(s[108:120], []byte{0}); return string(b) }
func (s super) blockLog() byte     { return s[120] }
func (s super) sectorLog() byte    { return s[121] }
func (s super) inodesLog() byte    { return s[123] } // of the inodes in a block
func (s super) agBlockLog() byte   { return s[124] } // of agBlocks, rounded up
func (s super) inProgress() bool   { return s[126] != 0 }
func (s super) freeBlocks() uint64 { return s.u64(144) }
func (s super) features2() uint32  { return s.u32(200) }
func (s super) roCompat() uint32   { return s.u32(212) }
func (s super) incompat() uint32   { return s.u32(216) }
func (s super) hasChecksums() bool { return s.version() == 5 }
func (s super) hasFeatures2() bool { return s.hasChecksums() || s.versionBits()&versionMoreBits != 0 }
func (s super) hasLazyCount() bool {
	return s.hasChecksums() || s.hasFeatures2() && s.features2()&features2LazyCount != 0
}

// metaUUID is the UUID that metadata carry.
func (s super) metaUUID() []byte {
	if s.incompat()&incompatMetaUUID != 0 {
		return s[248:264]
	}
	return s.uuid()
}

// unknown names the features this package does not know, "" if there are none.
func (s super) unknown() string {
	switch {
	case s.version() != 4 && s.version() != 5:
		return fmt.Sprintf("version %d", s.version())
	case s.hasFeatures2() && s.features2()&^features2Known != 0:
		return fmt.Sprintf("features2 %#x", s.features2()&^features2Known)
	case s.version() == 5 && s.roCompat()&^roCompatKnown|s.incompat()&^incompatKnown != 0:
		return fmt.Sprintf("incompat %#x, ro_compat %#x", s.incompat()&^incompatKnown, s.roCompat()&^roCompatKnown)
	}
	return ""
}

// checksum is the CRC32c of b, in which the four bytes at the offset given,
// where it is stored, count as zeros.
func checksum(b []byte, at int) uint32 {
	t := crc32.MakeTable(crc32.Castagnoli)
	c := crc32.Update(0, t, b[:at])
	c = crc32.Update(c, t, make([]byte, 4))
	return crc32.Update(c, t, b[at+4:])
}

// checkSum compares the checksum stored in b, which is little-endian where all
// else is big-endian.
func checkSum(b []byte, at int) error {
	if want, got := binary.LittleEndian.Uint32(b[at:]), checksum(b, at); want != got {
		return fmt.Errorf("has checksum %08x, its bytes give %08x", want, got)
	}
	return nil
}

// geometry is what the superblock says of the filesystem's shape, checked.
type geometry struct {
	super
	count   int64 // blocks
	headers int64 // blocks at the start of an allocation group that hold its headers
}

// newGeometry checks the superblock of a filesystem in size bytes.
func newGeometry(s super, size int64) (*geometry, error) {
	bs, per, ags := s.blockSize(), s.agBlocks(), s.agCount()
	switch {
	case s.blockLog() < 9 || s.blockLog() > 16 || bs != 1<<s.blockLog():
		return nil, fmt.Errorf("blocks of %d bytes, 2^%d", bs, s.blockLog())
	case s.sectorLog() > 15 || s.sectorSize() != 1<<s.sectorLog() || s.sectorSize() > bs:
		return nil, fmt.Errorf("sectors of %d bytes, 2^%d, in blocks of %d", s.sectorSize(), s.sectorLog(), bs)
	case s.blocks() > uint64(size/bs):
		return nil, fmt.Errorf("%d blocks of %d bytes, the partition has %d bytes", s.blocks(), bs, size)
	case per < minAGBlocks || per > maxAGBytes/bs || int(s.agBlockLog()) != bits.Len64(uint64(per-1)):
		return nil, fmt.Errorf("allocation groups of %d blocks, at most 2^%d", per, s.agBlockLog())
	case s.inodeSize() < 256 || s.inodeSize() > 2048 || s.inodeSize()<<s.inodesLog() != bs:
		return nil, fmt.Errorf("2^%d inodes of %d bytes in a block of %d", s.inodesLog(), s.inodeSize(), bs)
	}
	g := &geometry{super: s, count: int64(s.blocks()), headers: ceil(4*s.sectorSize(), bs)}
	if ags == 0 || g.count < (ags-1)*per+minAGBlocks || g.count > ags*per {
		return nil, fmt.Errorf("%d blocks in %d allocation groups of %d", g.count, ags, per)
	}
	return g, nil
}

func ceil(a, b int64) int64 { return (a + b - 1) / b }

// length returns how many blocks allocation group n has: the last one may be
// short.
func (g *geometry) length(n int64) int64 { return min(g.agBlocks(), g.count-n*g.agBlocks()) }

// offset returns the byte offset of a block of allocation group n.
func (g *geometry) offset(n, block int64) int64 { return (n*g.agBlocks() + block) * g.blockSize() }

// place takes a block number of the filesystem apart, which has the number of
// the allocation group in its upper bits. It is an error if len blocks from
// there on are not within that group.
func (g *geometry) place(b uint64, len int64) (group, block int64, err error) {
	log := g.agBlockLog()
	group, block = int64(b>>log), int64(b&(1<<log-1))
	if group >= g.agCount() || block < g.headers || len > g.length(group)-block {
		return 0, 0, fmt.Errorf("block %d of allocation group %d", block, group)
	}
	return group, block, nil
}
