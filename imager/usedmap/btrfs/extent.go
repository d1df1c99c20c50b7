package btrfs

import (
	"encoding/binary"

	"huck/imager/usedmap/internal/probe"
)

// group is a block group: what is used of a chunk, by the filesystem's count.
type group struct {
	at, used uint64
}

// census goes through the extent tree and counts.
type census struct {
	*forest
	set    *probe.Set
	groups []group  // ascending, as chunks are, one for each
	counts []uint64 // used bytes found, by chunk
	end    uint64   // of the last extent
	total  uint64   // used bytes
	i      int      // the chunk of the last extent
}

// take takes an item of the extent tree.
func (c *census) take(k key, b []byte) error {
	switch k.kind {
	case keyExtent:
		return c.extent(k.object, k.offset)
	case keyMetadata:
		return c.extent(k.object, uint64(c.nodeSize()))
	case keyBlockGroup:
		return c.group(k, b)
	}
	return nil
}

// extent adds n bytes at a logical address, in all their copies.
func (c *census) extent(at, n uint64) error {
	for c.i < len(c.chunks) && c.chunks[c.i].end() <= at {
		c.i++
	}
	if c.i == len(c.chunks) || at < c.chunks[c.i].logical || n == 0 || n > c.chunks[c.i].end()-at {
		return contradict("the extent at address %d, %d bytes, is in no chunk", at, n)
	}
	if at < c.end || (at|n)%uint64(c.sectorSize()) != 0 {
		return contradict("the extent at address %d, %d bytes, overlaps the one before or is out of line", at, n)
	}
	chunk := c.chunks[c.i]
	for _, stripe := range chunk.stripes[:chunk.copies] {
		c.set.Add(int64(stripe+at-chunk.logical), int64(n))
	}
	c.counts[c.i] += n
	c.total += n
	c.end = at + n
	return nil
}

// group takes note of a block group, which is there for each chunk.
func (c *census) group(k key, b []byte) error {
	i := len(c.groups)
	if i == len(c.chunks) || k.object != c.chunks[i].logical || k.offset != c.chunks[i].length || len(b) < 8 {
		return contradict("block group %d+%d is no chunk", k.object, k.offset)
	}
	c.groups = append(c.groups, group{k.object, binary.LittleEndian.Uint64(b)})
	return nil
}

// compare wants what was found to be what the filesystem counted.
func (c *census) compare() error {
	if len(c.groups) != len(c.chunks) {
		return contradict("%d block groups in %d chunks", len(c.groups), len(c.chunks))
	}
	for i, g := range c.groups {
		if g.used != c.counts[i] {
			return contradict("block group %d: %d bytes used by its count, %d by the extent tree", g.at, g.used, c.counts[i])
		}
	}
	if c.total != c.bytesUsed() {
		return contradict("%d bytes used by the superblock, %d by the extent tree", c.bytesUsed(), c.total)
	}
	return nil
}
