// Package ext finds the used blocks of ext2, ext3 and ext4 filesystems. It
// knows 64bit, flex_bg, meta_bg, sparse_super2, bigalloc and groups without a
// bitmap, verifies the checksums there are, and believes a bitmap only if it
// agrees with the free counts and with where the metadata is.
//
// The layout is that of Linux, Documentation/filesystems/ext4.
package ext

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/bits"

	"huck/imager/usedmap/internal/probe"
)

// Probe finds the used blocks of the ext2, ext3 or ext4 filesystem in r, size
// bytes long. The result is nil if there is none. The error is a
// *probe.Refused or one of reading; the result is valid beside it.
func Probe(r io.ReaderAt, size int64) (*probe.Result, error) {
	if size < superOffset+superSize {
		return nil, nil
	}
	s := super(make([]byte, superSize))
	if err := probe.Read(r, s, superOffset); err != nil {
		return nil, err
	}
	if s.u16(0x38) != superMagic {
		return nil, nil
	}
	res := &probe.Result{Content: s.content(), UUID: probe.UUID(s.uuid()), Label: s.label()}
	if s.content() == "jbd" {
		return res.TakeWhole("it is the journal of a filesystem on another device"), nil
	}
	if s.roCompat()&roCompatMetadataCsum != 0 {
		if got := crc32c(^uint32(0), s[:superSize-4]); got != s.checksum() {
			return res.TakeWhole("its superblock has checksum %08x, its bytes give %08x", s.checksum(), got), nil
		}
	}
	if cause := s.unrest(); cause != "" {
		return res.Refuse(cause)
	}
	if inc, ro := s.incompat()&^incompatKnown, s.roCompat()&^uint32(roCompatKnown); inc|ro != 0 {
		return res.TakeWhole("it has features this program does not know: incompat %#x, ro_compat %#x", inc, ro), nil
	}
	g, err := newGeometry(s, size)
	if err != nil {
		return res.TakeWhole("its superblock makes no sense: %v", err), nil
	}
	return g.probe(r, size, res)
}

func (g *geometry) probe(r io.ReaderAt, size int64, res *probe.Result) (*probe.Result, error) {
	inUse, err := g.inUseElsewhere(r)
	if err != nil {
		return res, err
	}
	if inUse {
		return res.Refuse("another machine uses it, says its multiple mount protection")
	}
	used, err := g.used(r)
	var c contradiction
	if errors.As(err, &c) {
		return res.TakeWhole("%s: run e2fsck", string(c)), nil
	}
	if err != nil {
		return res, err
	}
	res.Used = used
	res.EndsAt(g.count*g.blockSize, size)
	return res, nil
}

// inUseElsewhere asks the MMP block whether the filesystem is mounted or
// checked somewhere (Linux, Documentation/filesystems/ext4/mmp.rst).
func (g *geometry) inUseElsewhere(r io.ReaderAt) (bool, error) {
	const magic, clean = 0x4d4d50, 0xff4d4d50
	at := g.mmpBlock()
	if g.incompat()&incompatMMP == 0 || at == 0 || at >= uint64(g.count) {
		return false, nil
	}
	b := make([]byte, 8)
	if err := probe.Read(r, b, int64(at)*g.blockSize); err != nil {
		return false, err
	}
	return binary.LittleEndian.Uint32(b) == magic && binary.LittleEndian.Uint32(b[4:]) != clean, nil
}

// used returns the used bytes, or a contradiction.
func (g *geometry) used(r io.ReaderAt) (*probe.Set, error) {
	d, err := g.readDescriptors(r)
	if err != nil {
		return nil, err
	}
	set := new(probe.Set)
	set.Add(0, superOffset) // the boot sector, which belongs to block 0 or to none
	meta, stop := iter.Pull2(d.metadata().All())
	defer stop()
	w := &walk{descriptors: d, meta: meta, set: set, bits: make([]byte, g.blockSize)}
	w.nextMeta()
	for n := range g.groups {
		bitmap, err := w.bitmap(r, n)
		if err != nil {
			return nil, err
		}
		if err := w.take(n, bitmap); err != nil {
			return nil, err
		}
	}
	return set, nil
}

// walk goes through the groups in order, the static metadata beside it.
type walk struct {
	descriptors
	meta        func() (int64, int64, bool)
	metaAt, end int64 // the first range of metadata not wholly behind, in blocks
	set         *probe.Set
	bits        []byte // of a group without a bitmap
	ahead       []byte // block bitmaps read ahead, from block aheadAt on
	aheadAt     int64
}

func (w *walk) nextMeta() {
	at, n, ok := w.meta()
	if !ok {
		at, n = w.count, 0
	}
	w.metaAt, w.end = at, at+n
}

// clusters returns how many clusters of group n are within the filesystem.
func (w *walk) clusters(n int64) int64 { return ceil(w.groupEnd(n)-w.groupStart(n), w.ratio) }

// bitmap returns the block bitmap of group n, nil if it has none.
func (w *walk) bitmap(r io.ReaderAt, n int64) ([]byte, error) {
	d := w.group(n)
	if w.uninit(d) {
		return nil, nil
	}
	at := int64(d.blockBitmap())
	if off := (at - w.aheadAt) * w.blockSize; off < 0 || off >= int64(len(w.ahead)) {
		if err := w.readAhead(r, n, at); err != nil {
			return nil, err
		}
	}
	off := (at - w.aheadAt) * w.blockSize
	b := w.ahead[off : off+w.blockSize]
	if w.roCompat()&roCompatMetadataCsum != 0 {
		want, mask := d.bitmapSum()
		if got := crc32c(w.seed(), b[:w.blocksPerGroup()/w.ratio/8]); got&mask != want {
			return nil, contradiction(fmt.Sprintf("group %d: block bitmap has checksum %x, its bytes give %x", n, want, got&mask))
		}
	}
	return b, nil
}

// readAhead reads the block bitmap in block at, which is that of group n, and
// with it those of the groups after it that follow on the disk: flex_bg puts
// 16 in a row.
func (w *walk) readAhead(r io.ReaderAt, n, at int64) error {
	most := max(1, (1<<20)/w.blockSize)
	run := int64(1)
	for run < most && n+run < w.groups && int64(w.group(n+run).blockBitmap()) == at+run {
		run++
	}
	w.aheadAt, w.ahead = at, make([]byte, run*w.blockSize)
	return probe.Read(r, w.ahead, at*w.blockSize)
}

// take adds the used clusters of group n to the set. A nil bitmap means that
// there is only metadata in the group.
func (w *walk) take(n int64, bitmap []byte) error {
	uninit := bitmap == nil
	if uninit {
		bitmap = w.bits
		clear(bitmap)
	}
	start, end := w.groupStart(n), w.groupEnd(n)
	for w.metaAt < end {
		from, to := (max(w.metaAt, start)-start)/w.ratio, ceil(min(w.end, end)-start, w.ratio)
		for c := from; c < to; c++ {
			if !uninit && bitmap[c/8]&(1<<(c%8)) == 0 {
				return contradiction(fmt.Sprintf("group %d: block %d is metadata, but free by the bitmap", n, start+c*w.ratio))
			}
			bitmap[c/8] |= 1 << (c % 8)
		}
		if w.end > end {
			break
		}
		w.nextMeta()
	}
	clusters := w.clusters(n)
	free := clusters - w.add(bitmap, clusters, start)
	if want := w.group(n).free(); free != want {
		return contradiction(fmt.Sprintf("group %d: %d free by the bitmap, %d by the descriptor", n, free, want))
	}
	return nil
}

// add adds the clusters whose bits are set among the first n of the bitmap of a
// group that starts at block start, and returns how many they are.
func (w *walk) add(bitmap []byte, n, start int64) int64 {
	var used int64
	for c := int64(0); c < n; {
		c = next(bitmap, c, n, 0)
		end := next(bitmap, c, n, 0xff)
		from, to := start+c*w.ratio, min(start+end*w.ratio, w.count)
		w.set.Add(from*w.blockSize, (to-from)*w.blockSize)
		used += end - c
		c = end
	}
	return used
}

// next returns the first bit from c on, before n, that differs from those of
// skip, which is 0 or 0xff; n if there is none.
func next(bitmap []byte, c, n int64, skip byte) int64 {
	for c < n {
		b := (bitmap[c/8] ^ skip) >> (c % 8)
		if b != 0 {
			return min(c+int64(bits.TrailingZeros8(b)), n)
		}
		c = c&^7 + 8
		if c%512 == 0 { // long stretches are the rule
			for c+512 <= n && bytes.Count(bitmap[c/8:c/8+64], []byte{skip}) == 64 {
				c += 512
			}
		}
	}
	return n
}
