package btrfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/crypto/blake2b"
)

const (
	superOffset = 64 << 10
	superSize   = 4 << 10
	superMagic  = "_BHRfS_M"

	// reserved is what the filesystem leaves to boot code at the start of its
	// disk: no chunk lies in it.
	reserved = 1 << 20
)

// mirrors are where copies of the superblock stand.
func mirrors() []int64 { return []int64{superOffset, 64 << 20, 256 << 30} }

// Feature bits (Linux, include/uapi/linux/btrfs.h).
const (
	incompatMetadataUUID = 1 << 10
	// incompatKnown are those that leave the meaning of chunks and of the extent
	// tree alone or that this package knows: mixed_backref, default_subvol,
	// mixed_groups, lzo, zstd, big_metadata, extended_iref, skinny_metadata,
	// no_holes, metadata_uuid, simple_quota. Not among them: raid56, raid1c34,
	// zoned, extent_tree_v2, raid_stripe_tree, remap_tree.
	incompatKnown = 0x7f | 1<<8 | 1<<9 | incompatMetadataUUID | 1<<16

	roCompatBlockGroupTree = 1 << 3
	// roCompatKnown likewise: free_space_tree and that it is valid, verity,
	// block_group_tree.
	roCompatKnown = 0x7 | roCompatBlockGroupTree

	flagError = 1 << 2
	// flagsKnown are written, reloc, error, seeding.
	flagsKnown = 0x7 | 1<<32
)

// super is a superblock.
type super []byte

func (s super) u16(at int) uint16 { return binary.LittleEndian.Uint16(s[at:]) }
func (s super) u32(at int) uint32 { return binary.LittleEndian.Uint32(s[at:]) }
func (s super) u64(at int) uint64 { return binary.LittleEndian.Uint64(s[at:]) }

func (s super) fsid() []byte       { return s[0x20:0x30] }
func (s super) bytenr() uint64     { return s.u64(0x30) }
func (s super) flags() uint64      { return s.u64(0x38) }
func (s super) isBtrfs() bool      { return string(s[0x40:0x48]) == superMagic }
func (s super) generation() uint64 { return s.u64(0x48) }
func (s super) logRoot() uint64    { return s.u64(0x60) }
func (s super) bytesUsed() uint64  { return s.u64(0x78) }
func (s super) devices() uint64    { return s.u64(0x88) }
func (s super) sectorSize() int64  { return int64(s.u32(0x90)) }
func (s super) nodeSize() int64    { return int64(s.u32(0x94)) }
func (s super) chunkArray() []byte { return s[0x32b : 0x32b+min(2048, int(s.u32(0xa0)))] }
func (s super) roCompat() uint64   { return s.u64(0xb4) }
func (s super) incompat() uint64   { return s.u64(0xbc) }
func (s super) device() uint64     { return s.u64(0xc9) }
func (s super) size() uint64       { return s.u64(0xc9 + 8) } // of the device, in bytes
func (s super) label() string      { b, _, _ := bytes.Cut(s[0x12b:0x22b], []byte{0}); return string(b) }

// metadataUUID is what the tree's nodes carry; the filesystem's UUID can be
// changed without them.
func (s super) metadataUUID() []byte {
	if s.incompat()&incompatMetadataUUID != 0 {
		return s[0x23b:0x24b]
	}
	return s.fsid()
}

// root and chunkRoot are where the two trees begin that the superblock names.
func (s super) root() pointer {
	return pointer{at: s.u64(0x50), generation: s.generation(), level: s[0xc6]}
}
func (s super) chunkRoot() pointer {
	return pointer{at: s.u64(0x58), generation: s.u64(0xa4), level: s[0xc7]}
}

// checksum computes the checksum of a superblock or tree node: of all that
// follows the 32 bytes it may take. It is nil if the kind is unknown.
func (s super) checksum(b []byte) []byte {
	switch b = b[32:]; s.u16(0xc4) {
	case 0:
		return binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	case 1:
		return binary.LittleEndian.AppendUint64(nil, xxhash.Sum64(b))
	case 2:
		sum := sha256.Sum256(b)
		return sum[:]
	case 3:
		sum := blake2b.Sum256(b)
		return sum[:]
	}
	return nil
}

// unrest tells why the filesystem is not at rest; empty if it is. Nothing in
// it tells whether it is mounted.
func (s super) unrest() string {
	switch {
	case s.flags()&flagError != 0:
		return "errors are recorded in it: run btrfs check"
	case s.logRoot() != 0:
		return "its log waits to be replayed: it is mounted or was not unmounted cleanly: mount and unmount it once"
	}
	return ""
}

// foreign tells why this program does not know where its used blocks are;
// empty if it does.
func (s super) foreign() string {
	sum := s.checksum(s)
	switch {
	case sum == nil:
		return fmt.Sprintf("its checksums are of kind %d, which this program does not know", s.u16(0xc4))
	case !bytes.HasPrefix(s, sum):
		return fmt.Sprintf("its superblock has checksum %x, its bytes give %x", s[:len(sum)], sum)
	case s.devices() != 1:
		return fmt.Sprintf("it is one of %d devices of a filesystem", s.devices())
	case s.incompat()&^incompatKnown|s.roCompat()&^uint64(roCompatKnown)|s.flags()&^flagsKnown != 0:
		return fmt.Sprintf("it has features this program does not know: incompat %#x, ro_compat %#x, flags %#x",
			s.incompat()&^incompatKnown, s.roCompat()&^uint64(roCompatKnown), s.flags()&^flagsKnown)
	}
	return ""
}

// check finds what is wrong with the superblock of a filesystem in size bytes.
func (s super) check(size int64) error {
	power := func(n, least, most int64) bool { return n&(n-1) == 0 && n >= least && n <= most }
	switch {
	case s.bytenr() != superOffset:
		return fmt.Errorf("it says it stands at %d", s.bytenr())
	case !power(s.sectorSize(), 512, 64<<10) || !power(s.nodeSize(), s.sectorSize(), 64<<10):
		return fmt.Errorf("sectors of %d bytes, nodes of %d", s.sectorSize(), s.nodeSize())
	case s.size() > uint64(size) || s.size() < reserved:
		return fmt.Errorf("its device has %d bytes, the partition %d", s.size(), size)
	case s.u32(0xa0) > 2048:
		return fmt.Errorf("a chunk array of %d bytes", s.u32(0xa0))
	}
	return nil
}
