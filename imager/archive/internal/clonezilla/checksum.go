package clonezilla

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"
)

// Checksum modes of format 0002 (partclone's src/checksum.h).
const (
	modeNone   = 0x00
	modeCRC32  = 0x20
	modeXXH64  = 0x30
	modeXXH128 = 0x31
)

// sum is a checksum of blocks.
type sum interface {
	add(block []byte)
	// put writes the checksum as an image has it.
	put(b []byte)
	reset()
}

// checksums tells which checksums stand between the blocks.
type checksums struct {
	// size is that of one in bytes; every, after how many blocks one comes, 0 for
	// never.
	size   int
	every  int64
	reseed bool // each is only of the blocks since the last one
	sum    sum
}

func newChecksums(mode, size uint16, every uint32, reseed bool) (checksums, error) {
	c := checksums{size: int(size), every: int64(every), reseed: reseed}
	want := 0
	switch mode {
	case modeNone:
		c.every = 0
	case modeCRC32:
		c.sum, want = &rawSum{}, 4
	case modeXXH64:
		c.sum, want = &xxSum{*xxhash.New()}, 8
	case modeXXH128:
		return c, fmt.Errorf("checksums of the kind XXH128 are not known: save it again with partclone -a1")
	default:
		return c, fmt.Errorf("checksums of the unknown kind %#02x", mode)
	}
	switch {
	case c.size != want:
		return c, fmt.Errorf("checksums of %d bytes, and of the kind %#02x, which has %d", size, mode, want)
	case want > 0 && every == 0:
		return c, fmt.Errorf("checksums that come after no block")
	}
	return c, nil
}

// rawSum is the CRC-32 of format 0002.
type rawSum struct{ crc uint32 }

func (s *rawSum) add(b []byte) { s.crc = crc32.Update(s.crc, crc32.IEEETable, b) }
func (s *rawSum) put(b []byte) { binary.LittleEndian.PutUint32(b, ^s.crc) }
func (s *rawSum) reset()       { s.crc = 0 }

// firstByteCRC is that of format 0001, which by a fault that became the format
// takes a block's first byte as often as the block has bytes.
type firstByteCRC struct {
	rawSum
	block []byte
}

func (s *firstByteCRC) add(b []byte) {
	if len(s.block) != len(b) || s.block[0] != b[0] {
		s.block = bytes.Repeat(b[:1], len(b))
	}
	s.rawSum.add(s.block)
}

type xxSum struct{ xxhash.Digest }

func (s *xxSum) add(b []byte) { _, _ = s.Write(b) } // never fails
func (s *xxSum) put(b []byte) { binary.LittleEndian.PutUint64(b, s.Sum64()) }
func (s *xxSum) reset()       { s.Reset() }
