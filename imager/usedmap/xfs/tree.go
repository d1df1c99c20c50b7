package xfs

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"huck/imager/usedmap/internal/probe"
)

const (
	maxLevels = 9 // of a btree in an allocation group of 2^31 blocks, half full
	// maxTreeBlocks bounds the memory for the block numbers of a btree; half full
	// and with 4 KiB blocks, as many list 66 million free extents.
	maxTreeBlocks = 1 << 18

	treeCRC = 52
)

// tree is a btree of free extents.
type tree struct {
	*group
	name   string
	magic  uint32
	root   uint32
	levels uint32
	bySize bool // ordered by size, then block; otherwise by block

	leaves []uint32 // in order
	blocks int64    // of the whole tree
	sum    uint64   // of all records, in any order
}

// descend reads the upper levels, from the root on, and so finds the leaves.
func (t *tree) descend() error {
	if t.levels == 0 || t.levels > maxLevels {
		return t.contradict("%s of %d levels", t.name, t.levels)
	}
	level := []uint32{t.root}
	for height := t.levels - 1; ; height-- {
		for _, b := range level {
			if err := t.know(b, t.name); err != nil {
				return err
			}
		}
		t.blocks += int64(len(level))
		if height == 0 {
			break
		}
		var below []uint32
		err := t.each(level, height, func(_ uint64, child uint32) error {
			if below = append(below, child); len(below) > maxTreeBlocks {
				return t.contradict("%s of more than %d blocks", t.name, maxTreeBlocks)
			}
			return nil
		})
		if err != nil {
			return err
		}
		level = below
	}
	t.leaves = level
	return nil
}

// records calls do for all extents in the tree.
func (t *tree) records(do func(start, n int64) error) error {
	return t.each(t.leaves, 0, func(rec uint64, _ uint32) error {
		t.sum += scramble(rec)
		return do(int64(rec>>32), int64(uint32(rec)))
	})
}

// scramble spreads a record over 64 bits, so that sums of different records
// differ (the finalizer of splitmix64).
func scramble(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// each calls do for all entries of the blocks, which make up one level of the
// tree. An entry is block and size of an extent and, above the leaves, the
// block that begins with it. Entries must ascend, so no loop of pointers lasts.
func (t *tree) each(blocks []uint32, height uint32, do func(rec uint64, child uint32) error) error {
	var last uint64
	buf := make([]byte, t.blockSize())
	for i, at := range blocks {
		b, err := t.block(buf, at, height)
		if err != nil {
			return err
		}
		if b.n == 0 && (height > 0 || t.levels > 1) {
			return t.contradict("%s: block %d is empty", t.name, at)
		}
		for j := range b.n {
			rec := b.record(j)
			key := rec
			if t.bySize {
				key = bits.RotateLeft64(rec, 32)
			}
			if key <= last && (i > 0 || j > 0) {
				return t.contradict("%s: block %d is not in order", t.name, at)
			}
			last = key
			if err := do(rec, b.child(j)); err != nil {
				return err
			}
		}
	}
	return nil
}

// treeBlock is a block of a btree.
type treeBlock struct {
	b    []byte // what follows the header
	n    int    // entries
	most int    // entries there is room for, above the leaves; 0 in a leaf
}

func (b treeBlock) record(i int) uint64 { return binary.BigEndian.Uint64(b.b[8*i:]) }

func (b treeBlock) child(i int) uint32 {
	if b.most == 0 {
		return 0
	}
	return binary.BigEndian.Uint32(b.b[8*b.most+4*i:])
}

// block reads and checks a block of the tree into buf.
func (t *tree) block(buf []byte, at, height uint32) (treeBlock, error) {
	none := treeBlock{}
	off := t.offset(t.n, int64(at))
	if err := probe.Read(t.r, buf, off); err != nil {
		return none, err
	}
	h := header(buf)
	if h.u32(0) != t.magic || h.u32(4)>>16 != height {
		return none, t.contradict("%s: block %d is none of its level %d", t.name, at, height)
	}
	b := treeBlock{b: buf[16:], n: int(h.u32(4) & 0xffff)}
	if t.hasChecksums() {
		if err := checkSum(buf, treeCRC); err != nil {
			return none, t.contradict("%s: block %d %v", t.name, at, err)
		}
		own := binary.BigEndian.Uint64(buf[16:]) == uint64(off/512) && int64(h.u32(48)) == t.n && bytes.Equal(buf[32:48], t.metaUUID())
		if !own {
			return none, t.contradict("%s: block %d belongs elsewhere", t.name, at)
		}
		b.b = buf[56:]
	}
	room := len(b.b) / 8
	if height > 0 {
		room = len(b.b) / 12
		b.most = room
	}
	if b.n > room {
		return none, t.contradict("%s: block %d has %d entries, at most %d", t.name, at, b.n, room)
	}
	return b, nil
}
