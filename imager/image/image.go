// Package image is the format of a Huck image: blocks, regions, chunks, the
// chunk map, the manifest and the names images go by. FORMAT.md beside it is
// the specification; this package turns its bytes into values and back. It
// opens no file and no socket and knows no clock.
package image

import (
	"encoding/hex"
	"fmt"
	"iter"
	"math/bits"

	"github.com/zeebo/blake3"
)

const (
	// BlockSize is the grain of "used" in bytes (FORMAT.md, Geometry).
	BlockSize = 4 << 10
	// RegionSize is the disk space one map entry speaks of, in bytes: 64
	// blocks, so that its used blocks are one 64-bit mask.
	RegionSize = 256 << 10
	// RegionBlocks is the number of blocks in a region.
	RegionBlocks = RegionSize / BlockSize
	// MaxDiskSize bounds a disk (1 PiB), so that offsets computed from a map
	// of unknown origin cannot overflow an int64.
	MaxDiskSize = 1 << 50
)

// ID is a BLAKE3-256 hash: of a chunk's bytes (the chunk ID), of a manifest's
// bytes (the image digest) or of a chunk map's bytes.
type ID [32]byte

// Sum returns the BLAKE3-256 hash of b.
func Sum(b []byte) ID { return blake3.Sum256(b) }

// String returns the 64 hexadecimal digits of the ID.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Short returns the first eight hexadecimal digits, for messages.
func (id ID) Short() string { return hex.EncodeToString(id[:4]) }

// IsZero reports whether the ID is all zeros, which no content hashes to.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText implements encoding.TextMarshaler with the hexadecimal form.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := ParseID(string(b))
	if err == nil {
		*id = v
	}
	return err
}

// ParseID reads the 64 hexadecimal digits of an ID.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("image: ID %.80q has %d digits, want %d", s, len(s), 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("image: ID %q: %v", s, err)
	}
	return id, nil
}

// Entry is one line of a chunk map: which blocks of a region are used and the
// ID of the chunk they make.
type Entry struct {
	// Region is the region's number; it starts at byte Region*RegionSize.
	Region uint64
	// Used has bit i set if block i of the region is used. Never zero.
	Used uint64
	// ID is the hash of the used blocks, concatenated in disk order.
	ID ID
}

// Offset returns the disk offset, in bytes, of the region's first block.
func (e Entry) Offset() int64 { return int64(e.Region) * RegionSize }

// Size returns the chunk's length in bytes on a disk of diskSize bytes; only
// the disk's last block can be shorter than BlockSize.
func (e Entry) Size(diskSize int64) int {
	n := bits.OnesCount64(e.Used) * BlockSize
	last := e.Offset() + int64(64-bits.LeadingZeros64(e.Used))*BlockSize
	if last > diskSize {
		n -= int(last - diskSize)
	}
	return n
}

// Run is a contiguous stretch of used blocks.
type Run struct {
	// Offset is where the run stands on the disk, in bytes.
	Offset int64
	// At is where the run stands in the chunk, in bytes.
	At int
	// Len is the run's length in bytes.
	Len int
}

// Runs yields the region's stretches of used blocks in disk order.
func (e Entry) Runs(diskSize int64) iter.Seq[Run] {
	return func(yield func(Run) bool) {
		at := 0
		for mask, block := e.Used, 0; mask != 0; {
			skip := bits.TrailingZeros64(mask)
			mask >>= skip
			block += skip
			n := bits.TrailingZeros64(^mask)
			r := Run{Offset: e.Offset() + int64(block)*BlockSize, At: at, Len: n * BlockSize}
			r.Len = int(min(int64(r.Len), diskSize-r.Offset))
			if !yield(r) {
				return
			}
			at += r.Len
			block += n
			if n == 64 {
				return
			}
			mask >>= n
		}
	}
}
