package btrfs

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sort"
)

const (
	profileDup = 1 << 5
	// kinds are data, system and metadata.
	kinds = 1 | 2 | 4

	chunkSize  = 48 // of the item, before its stripes
	stripeSize = 32

	// maxChunks bounds what is kept of chunks to 60 MiB; as many of the usual
	// 1 GiB make 512 TiB.
	maxChunks = 1 << 19
)

// chunk is a piece of the logical address space, in which all of Btrfs points,
// and where it lies on the disk: once or, being DUP, twice.
type chunk struct {
	logical, length uint64
	stripes         [2]uint64
	copies          int
}

func (c chunk) end() uint64 { return c.logical + c.length }

// chunks are all chunks, by logical address.
type chunks []chunk

// parseChunk reads the chunk item b of the chunk at a logical address.
func (s super) parseChunk(logical uint64, b []byte) (chunk, int, error) {
	le := binary.LittleEndian
	c := chunk{logical: logical}
	if len(b) < chunkSize {
		return c, 0, contradict("chunk %d has an item of %d bytes", logical, len(b))
	}
	c.length, c.copies = le.Uint64(b), int(le.Uint16(b[44:]))
	kind, size := le.Uint64(b[24:]), chunkSize+c.copies*stripeSize
	if profile := kind &^ kinds; profile != 0 && profile != profileDup || profile == 0 && c.copies != 1 || profile != 0 && c.copies != 2 {
		return c, 0, contradict("chunk %d has type %#x and %d stripes: used blocks are known of single and dup only", logical, kind, c.copies)
	}
	if len(b) < size {
		return c, 0, contradict("chunk %d has an item of %d bytes", logical, len(b))
	}
	sector := uint64(s.sectorSize())
	if c.length == 0 || c.length > s.size() || (c.length|logical)%sector != 0 || logical > 1<<63 {
		return c, 0, contradict("chunk %d has %d bytes, the device %d", logical, c.length, s.size())
	}
	for i := range c.copies {
		stripe := b[chunkSize+i*stripeSize:]
		c.stripes[i] = le.Uint64(stripe[8:])
		if le.Uint64(stripe) != s.device() || c.stripes[i] > s.size()-c.length || c.stripes[i]%sector != 0 {
			return c, 0, contradict("chunk %d+%d lies at %d of device %d", logical, c.length, c.stripes[i], le.Uint64(stripe))
		}
	}
	return c, size, nil
}

// bootChunks reads the chunks in the superblock: those in which the chunk tree
// lies.
func (s super) bootChunks() (chunks, error) {
	var all chunks
	for b := s.chunkArray(); len(b) > 0; {
		k, ok := parseKey(b)
		if !ok || k.kind != keyChunk {
			return nil, contradict("the chunk array in its superblock cannot be read")
		}
		c, n, err := s.parseChunk(k.offset, b[keySize:])
		if err != nil {
			return nil, err
		}
		all = append(all, c)
		b = b[keySize+n:]
	}
	return all.sort()
}

// sort brings chunks in order and wants no two of them to overlap, neither in
// their addresses nor on the disk.
func (cs chunks) sort() (chunks, error) {
	slices.SortFunc(cs, func(a, b chunk) int { return cmp.Compare(a.logical, b.logical) })
	type stripe struct{ at, length uint64 }
	var all []stripe
	for i, c := range cs {
		if i > 0 && cs[i-1].end() > c.logical {
			return nil, contradict("chunks %d and %d overlap", cs[i-1].logical, c.logical)
		}
		for _, at := range c.stripes[:c.copies] {
			all = append(all, stripe{at, c.length})
		}
	}
	slices.SortFunc(all, func(a, b stripe) int { return cmp.Compare(a.at, b.at) })
	for i := range all[:max(0, len(all)-1)] {
		if all[i].at+all[i].length > all[i+1].at {
			return nil, contradict("two chunks lie at %d of the device", all[i+1].at)
		}
	}
	return cs, nil
}

// find returns the chunk that holds n bytes from a logical address on.
func (cs chunks) find(at, n uint64) (chunk, error) {
	i := sort.Search(len(cs), func(i int) bool { return cs[i].end() > at })
	if i == len(cs) || at < cs[i].logical || n > cs[i].end()-at {
		return chunk{}, contradict("%d bytes at address %d are in no chunk", n, at)
	}
	return cs[i], nil
}
