package ext

import (
	"encoding/binary"
	"fmt"
	"io"

	"huck/imager/usedmap/internal/probe"
)

const (
	blockUninit = 0x2 // the group has no block bitmap yet
)

// desc is a group descriptor.
type desc struct {
	b    []byte
	wide bool // has the upper halves
}

func (d desc) u16(at int) uint32 { return uint32(binary.LittleEndian.Uint16(d.b[at:])) }

func (d desc) block(lo, hi int) uint64 {
	n := uint64(binary.LittleEndian.Uint32(d.b[lo:]))
	if d.wide {
		n |= uint64(binary.LittleEndian.Uint32(d.b[hi:])) << 32
	}
	return n
}

func (d desc) blockBitmap() uint64 { return d.block(0x0, 0x20) }
func (d desc) inodeBitmap() uint64 { return d.block(0x4, 0x24) }
func (d desc) inodeTable() uint64  { return d.block(0x8, 0x28) }
func (d desc) flags() uint32       { return d.u16(0x12) }
func (d desc) checksum() uint32    { return d.u16(checksumAt) }

const checksumAt = 0x1e

// free is the number of free clusters.
func (d desc) free() int64 {
	n := d.u16(0xc)
	if d.wide {
		n |= d.u16(0x2c) << 16
	}
	return int64(n)
}

// bitmapSum is the checksum of the block bitmap and the bits of it that the
// descriptor has room for.
func (d desc) bitmapSum() (sum, mask uint32) {
	if d.wide {
		return d.u16(0x18) | d.u16(0x38)<<16, ^uint32(0)
	}
	return d.u16(0x18), 0xffff
}

// sum computes the descriptor's checksum as the filesystem's features want it.
func (g *geometry) sum(d desc, group int64) uint32 {
	n := binary.LittleEndian.AppendUint32(nil, uint32(group))
	if g.roCompat()&roCompatMetadataCsum != 0 {
		c := crc32c(crc32c(g.seed(), n), d.b[:checksumAt])
		return crc32c(crc32c(c, []byte{0, 0}), d.b[checksumAt+2:]) & 0xffff
	}
	c := crc16(crc16(0xffff, g.uuid()), n)
	c = crc16(c, d.b[:checksumAt])
	return uint32(crc16(c, d.b[checksumAt+2:]))
}

// crc16 is CRC-16 with the polynomial 0x8005, reflected.
func crc16(c uint16, b []byte) uint16 {
	for _, v := range b {
		c ^= uint16(v)
		for range 8 {
			c = c>>1 ^ 0xa001*(c&1)
		}
	}
	return c
}

// sums tells whether descriptors have checksums; only then their flags count.
func (g *geometry) sums() bool { return g.roCompat()&(roCompatGDTCsum|roCompatMetadataCsum) != 0 }

func (g *geometry) uninit(d desc) bool { return g.sums() && d.flags()&blockUninit != 0 }

// descriptors are all group descriptors of a filesystem.
type descriptors struct {
	*geometry
	b []byte
}

func (d descriptors) group(n int64) desc {
	size := d.descSize()
	return desc{d.b[n*size : (n+1)*size], size >= 64}
}

// readDescriptors reads and checks all group descriptors. What does not add up
// gives a *contradiction.
func (g *geometry) readDescriptors(r io.ReaderAt) (descriptors, error) {
	d := descriptors{g, make([]byte, g.descs*g.blockSize)}
	for i := int64(0); i < g.descs; {
		n := int64(1)
		for i+n < g.descs && g.descBlock(i+n) == g.descBlock(i)+n {
			n++
		}
		at := g.descBlock(i)
		if at+n > g.count {
			return d, contradiction(fmt.Sprintf("group descriptors in block %d, past the end", at))
		}
		if err := probe.Read(r, d.b[i*g.blockSize:(i+n)*g.blockSize], at*g.blockSize); err != nil {
			return d, err
		}
		i += n
	}
	for n := range g.groups {
		if err := g.check(d.group(n), n); err != nil {
			return d, err
		}
	}
	return d, nil
}

// contradiction tells what in the filesystem does not add up.
type contradiction string

func (c contradiction) Error() string { return string(c) }

func (g *geometry) check(d desc, n int64) error {
	if g.sums() {
		if got := g.sum(d, n); got != d.checksum() {
			return contradiction(fmt.Sprintf("group %d: descriptor has checksum %04x, its bytes give %04x", n, d.checksum(), got))
		}
	}
	for _, p := range []struct {
		what string
		at   uint64
		len  int64
	}{{"block bitmap", d.blockBitmap(), 1}, {"inode bitmap", d.inodeBitmap(), 1}, {"inode table", d.inodeTable(), g.itable}} {
		if p.at <= uint64(g.superAt) || p.at > uint64(g.count) || p.len > g.count-int64(p.at) {
			return contradiction(fmt.Sprintf("group %d: %s in block %d+%d of %d", n, p.what, p.at, p.len, g.count))
		}
	}
	return nil
}

// metadata returns the blocks of all static metadata, wherever they lie: a
// group without a bitmap may hold that of others.
func (d descriptors) metadata() *probe.Set {
	s := new(probe.Set)
	for n := range d.groups {
		end := d.groupEnd(n)
		d.own(n, func(at, n int64) { s.Add(at, min(n, end-at)) })
	}
	// One kind after the other: with flex_bg each is contiguous over groups.
	for n := range d.groups {
		s.Add(int64(d.group(n).blockBitmap()), 1)
	}
	for n := range d.groups {
		s.Add(int64(d.group(n).inodeBitmap()), 1)
	}
	for n := range d.groups {
		s.Add(int64(d.group(n).inodeTable()), d.itable)
	}
	return s
}
