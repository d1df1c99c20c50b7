package xfs

import (
	"bytes"
	"encoding/binary"
	"io"
	"iter"

	"huck/imager/usedmap/internal/probe"
)

// Magic numbers and offsets of checksums in an allocation group's headers.
const (
	agfMagic  = 0x58414746 // "XAGF", free space; in the group's second sector
	agiMagic  = 0x58414749 // "XAGI", inodes; in the third
	agflMagic = 0x5841464c // "XAFL", the list of blocks kept for the btrees; in the fourth

	agfCRC  = 216
	agiCRC  = 312
	agflCRC = 32
)

// group is an allocation group.
type group struct {
	*geometry
	r     io.ReaderAt
	n     int64
	known *probe.Set // blocks that hold metadata, whatever the btrees say
	agf   header
	// reserve is what the group adds to the superblock's count of free blocks:
	// also the blocks that its free-space btrees could give back.
	reserve uint64
}

// header is a sector of the group's headers.
type header []byte

func (h header) u32(at int) uint32 { return binary.BigEndian.Uint32(h[at:]) }

func (a *group) contradict(format string, args ...any) error {
	return contradict("allocation group %d: "+format, append([]any{a.n}, args...)...)
}

// header reads and checks one of the group's headers.
func (a *group) header(sector int64, name string, magic uint32, uuid, crc int) (header, error) {
	h := header(make([]byte, a.sectorSize()))
	if err := probe.Read(a.r, h, a.offset(a.n, 0)+sector*a.sectorSize()); err != nil {
		return nil, err
	}
	if h.u32(0) != magic {
		return nil, a.contradict("no %s", name)
	}
	if !a.hasChecksums() {
		return h, nil
	}
	if err := checkSum(h, crc); err != nil {
		return nil, a.contradict("%s %v", name, err)
	}
	if !bytes.Equal(h[uuid:uuid+16], a.metaUUID()) {
		return nil, a.contradict("%s is of another filesystem", name)
	}
	return h, nil
}

// take adds the group's used bytes to set.
func (a *group) take(set *probe.Set) error {
	if err := a.readHeaders(); err != nil {
		return err
	}
	bno := &tree{group: a, name: "btree by block", magic: a.magic("ABTB", "AB3B"), root: a.agf.u32(16), levels: a.agf.u32(28)}
	cnt := &tree{group: a, name: "btree by size", magic: a.magic("ABTC", "AB3C"), root: a.agf.u32(20), levels: a.agf.u32(32), bySize: true}
	for _, t := range []*tree{bno, cnt} {
		if err := t.descend(); err != nil {
			return err
		}
	}
	w := &walk{group: a, set: set}
	if err := w.through(bno); err != nil {
		return err
	}
	if err := cnt.records(func(int64, int64) error { return nil }); err != nil {
		return err
	}
	switch freeblks, longest := int64(a.agf.u32(52)), int64(a.agf.u32(56)); {
	case bno.sum != cnt.sum:
		return a.contradict("its two free-space btrees differ")
	case w.free != freeblks:
		return a.contradict("%d blocks are free, it counts %d", w.free, freeblks)
	case w.longest != longest:
		return a.contradict("the longest free extent has %d blocks, it says %d", w.longest, longest)
	}
	inTrees := uint64(a.agf.u32(60))
	if !a.hasLazyCount() {
		inTrees = uint64(bno.blocks + cnt.blocks - 2) // the roots are never given back
	}
	a.reserve = uint64(w.free) + uint64(a.agf.u32(48)) + inTrees
	return nil
}

// magic returns the magic number of a btree's blocks.
func (a *group) magic(plain, checked string) uint32 {
	if a.hasChecksums() {
		plain = checked
	}
	return binary.BigEndian.Uint32([]byte(plain))
}

// readHeaders reads the headers and notes what they know of metadata.
func (a *group) readHeaders() error {
	agf, err := a.header(1, "AGF", agfMagic, 64, agfCRC)
	if err != nil {
		return err
	}
	agi, err := a.header(2, "AGI", agiMagic, 296, agiCRC)
	if err != nil {
		return err
	}
	for _, h := range []header{agf, agi} {
		if h.u32(4) != 1 || int64(h.u32(8)) != a.n || int64(h.u32(12)) != a.length(a.n) {
			return a.contradict("a header is of group %d with %d blocks", h.u32(8), h.u32(12))
		}
	}
	a.agf = agf
	roots := []uint32{agi.u32(20)} // of the btree of inodes
	for _, t := range []struct {
		feature uint32
		root    uint32
	}{{1, agi.u32(328)}, {2, agf.u32(24)}, {4, agf.u32(88)}} { // free inodes, owners, shared blocks
		if a.hasChecksums() && a.roCompat()&t.feature != 0 {
			roots = append(roots, t.root)
		}
	}
	for _, root := range roots {
		if err := a.know(root, "a btree's root"); err != nil {
			return err
		}
	}
	return a.readFreeList()
}

// know notes that a block holds metadata.
func (a *group) know(block uint32, what string) error {
	if b := int64(block); b < a.headers || b >= a.length(a.n) {
		return a.contradict("%s in block %d of %d", what, block, a.length(a.n))
	}
	a.known.Add(int64(block), 1)
	return nil
}

// readFreeList notes the blocks that are kept for the btrees: they are neither
// free nor in a btree, and the kernel takes them without a look.
func (a *group) readFreeList() error {
	list := header(make([]byte, a.sectorSize()))
	if a.hasChecksums() {
		h, err := a.header(3, "AGFL", agflMagic, 8, agflCRC)
		if err != nil {
			return err
		}
		list = h[36:]
	} else if err := probe.Read(a.r, list, a.offset(a.n, 0)+3*a.sectorSize()); err != nil {
		return err
	}
	size := int64(len(list)) / 4
	first, last, count := int64(a.agf.u32(40)), int64(a.agf.u32(44)), int64(a.agf.u32(48))
	if first >= size || last >= size || count > size || count != 0 && (last-first+size)%size+1 != count {
		return a.contradict("free list of %d blocks from entry %d to %d of %d", count, first, last, size)
	}
	for i := range count {
		if err := a.know(list.u32(int((first+i)%size*4)), "free list"); err != nil {
			return err
		}
	}
	return nil
}

// walk goes through the free extents in order, the known metadata beside them.
type walk struct {
	*group
	set           *probe.Set
	at            int64 // all blocks before it are dealt with
	free, longest int64
	meta          func() (int64, int64, bool)
	metaEnd       int64 // end of the first range of metadata not wholly behind
	metaAt        int64
}

// through adds to the set all blocks but the extents listed in t.
func (w *walk) through(t *tree) error {
	meta, stop := iter.Pull2(w.known.All())
	defer stop()
	w.meta = meta
	if err := t.records(w.extent); err != nil {
		return err
	}
	w.use(w.length(w.n))
	return nil
}

// use adds the blocks from w.at to end to the set.
func (w *walk) use(end int64) {
	w.set.Add(w.offset(w.n, w.at), (end-w.at)*w.blockSize())
}

// extent deals with the next free extent.
func (w *walk) extent(start, n int64) error {
	if start < w.at || n == 0 || n > w.length(w.n)-start {
		return w.contradict("a free extent of %d blocks at %d, the last ended at %d of %d", n, start, w.at, w.length(w.n))
	}
	for w.metaEnd <= start {
		at, n, ok := w.meta()
		if !ok {
			at, n = w.length(w.n), 1
		}
		w.metaAt, w.metaEnd = at, at+n
	}
	if w.metaAt < start+n {
		return w.contradict("block %d is metadata, but in a free extent", max(w.metaAt, start))
	}
	w.use(start)
	w.at = start + n
	w.free += n
	w.longest = max(w.longest, n)
	return nil
}
