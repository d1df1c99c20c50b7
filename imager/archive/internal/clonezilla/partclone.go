// Package clonezilla makes a raw disk of what Clonezilla saved: of one image
// of partclone, or of a folder with a disk's table and such an image of each
// partition. What it reads may be broken or hostile: every length is checked,
// memory is bounded, and what has a checksum is compared with it.
//
// The formats: partclone's IMAGE_FORMATS.md and src/partclone.h; what a folder
// has, and under which names: Clonezilla's scripts/sbin/ocs-functions.
package clonezilla

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"huck/imager/image"
)

const (
	partcloneMagic = "partclone-image"
	// headerV1 and headerV2 are the headers' lengths in bytes. The first 36 bytes
	// tell which it is.
	headerV1, headerV2 = 4160, 110
	bitmapEnd          = "BiTmAgIc" // behind the bitmap of format 0001
	// littleEndian is the 16-bit mark of who wrote a header; it reads the other way
	// round if the writer did.
	littleEndian = 0xC0DE
	// maxBlock is partclone's own bound of a block in bytes.
	maxBlock = 64 << 20
	// maxBlocks bounds the bitmap, of one bit a block, to 128 MiB: a filesystem
	// of 4 TiB with blocks of 4 KiB.
	maxBlocks = 1 << 30
)

// Kinds of bitmap in format 0002.
const (
	bitmapNone = 0
	bitmapBits = 1
)

// partclone is an image of partclone, read up to its blocks.
type partclone struct {
	in *counter
	// size is the filesystem's device in bytes, in whole sectors.
	size      int64
	blockSize int
	blocks    int64
	used      []byte // one bit a block, the lowest first; nil if all are
	sums      checksums
}

// counter counts what is read, which is where a fault is.
type counter struct {
	r  io.Reader
	at int64
}

// read fills b. what tells what b is.
func (c *counter) read(b []byte, what string) error {
	n, err := io.ReadFull(c.r, b)
	c.at += int64(n)
	switch err {
	case nil:
		return nil
	case io.EOF, io.ErrUnexpectedEOF:
		return c.bad("it is cut short in its %s", what)
	}
	return fmt.Errorf("byte %d, in its %s: %w", c.at, what, err)
}

// bad tells that what was read last is not what must be there.
func (c *counter) bad(format string, args ...any) error {
	return fmt.Errorf("partclone image, byte %d (uncompressed): %s: %w", c.at, fmt.Sprintf(format, args...), image.ErrFormat)
}

// openPartclone reads header and bitmap. Errors of the image wrap
// image.ErrFormat and tell the offset.
func openPartclone(r io.Reader) (*partclone, error) {
	p := &partclone{in: &counter{r: r}}
	h := make([]byte, headerV1)
	if err := p.in.read(h[:headerV2], "header"); err != nil {
		return nil, err
	}
	if string(h[:len(partcloneMagic)]) != partcloneMagic {
		return nil, p.in.bad("no image of partclone")
	}
	version := string(h[30:34])
	switch version {
	case "0001":
		if err := p.in.read(h[headerV2:], "header"); err != nil {
			return nil, err
		}
		if err := p.headerV1(h); err != nil {
			return nil, err
		}
		return p, p.bytemap()
	case "0002":
		kind, err := p.headerV2(h[:headerV2])
		if err != nil || kind == bitmapNone {
			return p, err
		}
		return p, p.bitmap()
	}
	return nil, p.in.bad("format %q; 0001 and 0002 are known", version)
}

// headerV1 reads the header of format 0001, which has no checksum.
func (p *partclone) headerV1(h []byte) error {
	le := binary.LittleEndian
	size, blocks, blockSize := le.Uint64(h[40:]), le.Uint64(h[48:]), le.Uint32(h[36:])
	if err := p.geometry(size, blocks, blockSize); err != nil {
		return err
	}
	// Some versions wrote another size than the device's (IMAGE_FORMATS.md). What
	// can be right is a tail too short for a block, as NTFS has.
	if whole := p.blocks * int64(p.blockSize); p.size-whole >= int64(p.blockSize) {
		p.size = whole
	}
	p.sums = checksums{size: 4, every: 1, sum: &firstByteCRC{}}
	return nil
}

// headerV2 reads the header of format 0002 and returns the kind of bitmap.
func (p *partclone) headerV2(h []byte) (kind byte, err error) {
	le := binary.LittleEndian
	if order := le.Uint16(h[34:]); order != littleEndian {
		return 0, p.in.bad("it was made by a machine of another byte order (%#04x): restore it there", order)
	}
	if got, want := rawCRC(0, h[:106]), le.Uint32(h[106:]); got != want {
		return 0, p.in.bad("the header's checksum is %08x, it says %08x", got, want)
	}
	if err := p.geometry(le.Uint64(h[52:]), le.Uint64(h[60:]), le.Uint32(h[84:])); err != nil {
		return 0, err
	}
	mode, size, every := le.Uint16(h[96:]), le.Uint16(h[98:]), le.Uint32(h[100:])
	if p.sums, err = newChecksums(mode, size, every, h[104] != 0); err != nil {
		return 0, p.in.bad("%v", err)
	}
	if kind = h[105]; kind != bitmapNone && kind != bitmapBits {
		return 0, p.in.bad("a bitmap of kind %d; 0 and 1 are known", kind)
	}
	return kind, nil
}

// geometry checks what both headers tell about the filesystem.
func (p *partclone) geometry(size, blocks uint64, blockSize uint32) error {
	switch {
	case blockSize < 512 || blockSize%512 != 0 || blockSize > maxBlock:
		return p.in.bad("blocks of %d bytes", blockSize)
	case size == 0 || size > image.MaxDiskSize:
		return p.in.bad("a filesystem of %d bytes", size)
	case blocks == 0 || blocks > size/uint64(blockSize):
		return p.in.bad("%d blocks of %d bytes in a filesystem of %d", blocks, blockSize, size)
	case blocks > maxBlocks:
		return p.in.bad("%d blocks, of which %d can be imported: restore it to a disk with partclone and capture that", blocks, maxBlocks)
	}
	p.size, p.blocks, p.blockSize = (int64(size)+511)/512*512, int64(blocks), int(blockSize)
	return nil
}

// bitmap reads the bitmap of format 0002.
func (p *partclone) bitmap() error {
	var err error
	if p.used, err = p.grow((p.blocks + 7) / 8); err != nil {
		return err
	}
	var sum [4]byte
	if err := p.in.read(sum[:], "bitmap's checksum"); err != nil {
		return err
	}
	if got, want := rawCRC(0, p.used), binary.LittleEndian.Uint32(sum[:]); got != want {
		return p.in.bad("the bitmap's checksum is %08x, it says %08x", got, want)
	}
	return nil
}

// grow reads n bytes of the bitmap, and makes room for no more than there are.
func (p *partclone) grow(n int64) ([]byte, error) {
	var b []byte
	for int64(len(b)) < n {
		have := len(b)
		piece := int(min(n-int64(have), max(1<<20, int64(have))))
		b = slices.Grow(b, piece)[:have+piece]
		if err := p.in.read(b[have:], "bitmap"); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// bytemap reads the bitmap of format 0001, of one byte a block. Other values
// than 1 come from a fault of old versions and mean that there is no block.
func (p *partclone) bytemap() error {
	b := make([]byte, 1<<16)
	for at := int64(0); at < p.blocks; {
		piece := b[:min(p.blocks-at, int64(len(b)))]
		if err := p.in.read(piece, "bitmap"); err != nil {
			return err
		}
		for i := 0; i < len(piece); i += 8 {
			var bits byte
			for j, v := range piece[i:min(i+8, len(piece))] {
				if v == 1 {
					bits |= 1 << j
				}
			}
			p.used = append(p.used, bits)
		}
		at += int64(len(piece))
	}
	end := make([]byte, len(bitmapEnd))
	if err := p.in.read(end, "bitmap's end"); err != nil {
		return err
	}
	if string(end) != bitmapEnd {
		return p.in.bad("the bitmap does not end in %s", bitmapEnd)
	}
	return nil
}

// has reports whether the image has a block.
func (p *partclone) has(n int64) bool { return p.used == nil || p.used[n/8]>>(n%8)&1 == 1 }

// rawCRC goes on with a CRC-32 that is not inverted at the end, as partclone's
// is not; sum is of crc32's kind, 0 at the beginning.
func rawCRC(sum uint32, b []byte) uint32 { return ^crc32.Update(sum, crc32.IEEETable, b) }
