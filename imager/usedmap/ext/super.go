package ext

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// Feature bits (Linux, Documentation/filesystems/ext4/super.rst).
const (
	compatHasJournal   = 0x4
	compatSparseSuper2 = 0x200

	incompatRecover    = 0x4
	incompatJournalDev = 0x8
	incompatMetaBG     = 0x10
	incompat64Bit      = 0x80
	incompatMMP        = 0x100
	incompatCsumSeed   = 0x2000
	// incompatKnown are the features that leave the meaning of bitmaps and the
	// places of metadata alone or that this package knows: filetype, meta_bg,
	// extents, 64bit, mmp, flex_bg, ea_inode, dirdata, csum_seed, largedir,
	// inline_data, encrypt, casefold.
	incompatKnown = 0x2 | incompatMetaBG | 0x40 | incompat64Bit | incompatMMP | 0x200 | 0x400 | 0x1000 |
		incompatCsumSeed | 0x4000 | 0x8000 | 0x10000 | 0x20000
	// incompatExt3 and roCompatExt3 are what ext3 may have.
	incompatExt3 = 0x2 | incompatRecover | incompatMetaBG

	roCompatSparseSuper   = 0x1
	roCompatGDTCsum       = 0x10
	roCompatBigalloc      = 0x200
	roCompatMetadataCsum  = 0x400
	roCompatOrphanPresent = 0x10000
	// roCompatKnown likewise: sparse_super, large_file, btree_dir, huge_file,
	// gdt_csum, dir_nlink, extra_isize, quota, bigalloc, metadata_csum,
	// readonly, project, verity, orphan_present.
	roCompatKnown = roCompatSparseSuper | 0x2 | 0x4 | 0x8 | roCompatGDTCsum | 0x20 | 0x40 | 0x100 |
		roCompatBigalloc | roCompatMetadataCsum | 0x1000 | 0x2000 | 0x8000 | roCompatOrphanPresent
	roCompatExt3 = 0x1 | 0x2 | 0x4
)

const (
	superOffset = 1024
	superSize   = 1024
	superMagic  = 0xef53

	stateClean = 1
	stateError = 2

	// maxGroups bounds what is kept in memory of the groups to some 60 MiB; as
	// many of the usual 128 MiB make 64 TiB.
	maxGroups = 1 << 19
)

// super is a superblock.
type super []byte

func (s super) u16(at int) uint16 { return binary.LittleEndian.Uint16(s[at:]) }
func (s super) u32(at int) uint32 { return binary.LittleEndian.Uint32(s[at:]) }

func (s super) inodesPerGroup() int64 { return int64(s.u32(0x28)) }
func (s super) blocksPerGroup() int64 { return int64(s.u32(0x20)) }
func (s super) firstDataBlock() int64 { return int64(s.u32(0x14)) }
func (s super) state() uint16         { return s.u16(0x3a) }
func (s super) compat() uint32        { return s.u32(0x5c) }
func (s super) incompat() uint32      { return s.u32(0x60) }
func (s super) roCompat() uint32      { return s.u32(0x64) }
func (s super) uuid() []byte          { return s[0x68:0x78] }
func (s super) label() string         { b, _, _ := bytes.Cut(s[0x78:0x88], []byte{0}); return string(b) }
func (s super) reservedGDT() int64    { return int64(s.u16(0xce)) }
func (s super) journalInode() uint32  { return s.u32(0xe0) }
func (s super) lastOrphan() uint32    { return s.u32(0xe8) }
func (s super) firstMetaBG() int64    { return int64(s.u32(0x104)) }
func (s super) mmpBlock() uint64      { return binary.LittleEndian.Uint64(s[0x168:]) }
func (s super) checksum() uint32      { return s.u32(0x3fc) }

// backupGroups are the two groups with a backup under sparse_super2.
func (s super) backupGroups() (int64, int64) { return int64(s.u32(0x24c)), int64(s.u32(0x250)) }

func (s super) inodeSize() int64 {
	if s.u32(0x4c) == 0 { // revision 0 has no such field
		return 128
	}
	return int64(s.u16(0x58))
}

func (s super) blocks() uint64 {
	n := uint64(s.u32(4))
	if s.incompat()&incompat64Bit != 0 {
		n |= uint64(s.u32(0x150)) << 32
	}
	return n
}

func (s super) descSize() int64 {
	if s.incompat()&incompat64Bit != 0 {
		return int64(s.u16(0xfe))
	}
	return 32
}

// content names the filesystem as blkid does: by the features it has.
func (s super) content() string {
	switch {
	case s.incompat()&incompatJournalDev != 0:
		return "jbd"
	case s.incompat()&^incompatExt3 != 0 || s.roCompat()&^roCompatExt3 != 0:
		return "ext4"
	case s.compat()&compatHasJournal != 0:
		return "ext3"
	}
	return "ext2"
}

// unrest tells why the filesystem is not at rest; empty if it is.
func (s super) unrest() string {
	switch {
	case s.incompat()&incompatRecover != 0:
		return "its journal needs recovery: it is mounted or was not unmounted cleanly"
	case s.state()&stateError != 0:
		return "errors are recorded in it: run e2fsck"
	case s.state()&stateClean == 0:
		return "it is mounted or was not unmounted cleanly: run e2fsck"
	case s.compat()&compatHasJournal != 0 && s.journalInode() == 0:
		return "its journal is on another device"
	case s.lastOrphan() != 0 || s.roCompat()&roCompatOrphanPresent != 0:
		return "deleted files wait to be freed: run e2fsck"
	}
	return ""
}

// crc32c is the CRC as ext4 uses it: continued from c, without the inversions
// around it.
func crc32c(c uint32, b []byte) uint32 {
	return ^crc32.Update(^c, crc32.MakeTable(crc32.Castagnoli), b)
}

// seed begins all metadata checksums.
func (s super) seed() uint32 {
	if s.incompat()&incompatCsumSeed != 0 {
		return s.u32(0x270)
	}
	return crc32c(^uint32(0), s.uuid())
}

// geometry is what the superblock says of the filesystem's shape, checked.
type geometry struct {
	super
	blockSize int64 // bytes: 1024 to 65536
	ratio     int64 // blocks in a cluster; 1 without bigalloc
	count     int64 // blocks
	groups    int64
	descs     int64 // blocks of group descriptors
	perBlock  int64 // group descriptors in a block
	itable    int64 // blocks of a group's inode table
	superAt   int64 // the block of the first superblock
}

// newGeometry checks the superblock of a filesystem in size bytes.
func newGeometry(s super, size int64) (*geometry, error) {
	logBlock, logCluster := s.u32(0x18), s.u32(0x1c)
	if logBlock > 6 {
		return nil, fmt.Errorf("blocks of 2^%d KiB", logBlock)
	}
	g := &geometry{super: s, blockSize: 1024 << logBlock, ratio: 1}
	if s.roCompat()&roCompatBigalloc != 0 {
		if logCluster < logBlock || logCluster > 20 {
			return nil, fmt.Errorf("clusters of 2^%d KiB", logCluster)
		}
		g.ratio = 1 << (logCluster - logBlock)
	}
	if g.blockSize == 1024 {
		g.superAt = 1
	}
	if s.blocks() > uint64(size/g.blockSize) {
		return nil, fmt.Errorf("%d blocks of %d bytes, the partition has %d bytes", s.blocks(), g.blockSize, size)
	}
	g.count = int64(s.blocks())
	if err := g.checkGroups(); err != nil {
		return nil, err
	}
	return g, nil
}

func (g *geometry) checkGroups() error {
	first, per, bits := g.firstDataBlock(), g.blocksPerGroup(), 8*g.blockSize
	ds := g.descSize()
	switch {
	case first > 1 || first > g.superAt || first != 0 && g.ratio > 1:
		return fmt.Errorf("first data block is %d", first)
	case per == 0 || per > bits*g.ratio || per%(8*g.ratio) != 0:
		return fmt.Errorf("groups of %d blocks in clusters of %d", per, g.ratio)
	case g.count <= first:
		return fmt.Errorf("%d blocks", g.count)
	case ds < 32 || ds > 1024 || ds&(ds-1) != 0 || g.incompat()&incompat64Bit != 0 && ds < 64:
		return fmt.Errorf("group descriptors of %d bytes", ds)
	case g.inodesPerGroup() == 0 || g.inodesPerGroup() > bits:
		return fmt.Errorf("%d inodes in a group", g.inodesPerGroup())
	case g.inodeSize() < 128 || g.inodeSize() > g.blockSize || g.inodeSize()&(g.inodeSize()-1) != 0:
		return fmt.Errorf("inodes of %d bytes", g.inodeSize())
	}
	g.groups = ceil(g.count-first, per)
	if g.groups > maxGroups {
		return fmt.Errorf("%d groups, this program takes at most %d", g.groups, maxGroups)
	}
	g.perBlock = g.blockSize / ds
	g.descs = ceil(g.groups, g.perBlock)
	g.itable = ceil(g.inodesPerGroup()*g.inodeSize(), g.blockSize)
	if g.superAt+1+g.descs+g.reservedGDT() > g.count {
		return fmt.Errorf("%d blocks of descriptors, %d reserved, in %d blocks", g.descs, g.reservedGDT(), g.count)
	}
	return nil
}

func ceil(a, b int64) int64 { return (a + b - 1) / b }

// groupStart returns the first block of group n.
func (g *geometry) groupStart(n int64) int64 { return g.firstDataBlock() + n*g.blocksPerGroup() }

// groupEnd returns the block after the last one of group n.
func (g *geometry) groupEnd(n int64) int64 { return min(g.groupStart(n+1), g.count) }

// hasSuper tells whether group n holds a copy of the superblock.
func (g *geometry) hasSuper(n int64) bool {
	if g.compat()&compatSparseSuper2 != 0 {
		a, b := g.backupGroups()
		return n == 0 || n == a || n == b
	}
	if n <= 1 || g.roCompat()&roCompatSparseSuper == 0 {
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		p := base
		for p < n {
			p *= base
		}
		if p == n {
			return true
		}
	}
	return false
}

// metaBG tells whether descriptor block i stands in its own meta block group
// and not behind the superblocks.
func (g *geometry) metaBG(i int64) bool {
	return g.incompat()&incompatMetaBG != 0 && i >= g.firstMetaBG()
}

// descBlock returns the block that holds the first copy of descriptor block i.
func (g *geometry) descBlock(i int64) int64 {
	if !g.metaBG(i) {
		return g.superAt + 1 + i
	}
	n := i * g.perBlock
	at := max(g.groupStart(n), g.superAtOf(n))
	if g.hasSuper(n) {
		at++
	}
	return at
}

// superAtOf returns where a copy of the superblock stands in group n, if it
// has one: at its start, but for the first group of small blocks.
func (g *geometry) superAtOf(n int64) int64 {
	if n == 0 {
		return g.superAt
	}
	return g.groupStart(n)
}

// own calls add for what group n holds for the filesystem as a whole: copies
// of the superblock and of descriptors, in blocks.
func (g *geometry) own(n int64, add func(at, n int64)) {
	at := g.superAtOf(n)
	if g.hasSuper(n) {
		add(at, 1)
		at++
	}
	i := n / g.perBlock
	if g.metaBG(i) {
		if k := n % g.perBlock; k == 0 || k == 1 || k == g.perBlock-1 {
			add(at, 1)
		}
		return
	}
	if !g.hasSuper(n) {
		return
	}
	if g.incompat()&incompatMetaBG != 0 {
		add(at, min(g.firstMetaBG(), g.descs))
		return
	}
	add(at, g.descs+g.reservedGDT())
}
