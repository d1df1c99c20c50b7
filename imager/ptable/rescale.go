package ptable

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"huck/imager/image"
)

// ErrSectors is wrapped by the errors about a table that cannot count in
// sectors of another length.
var ErrSectors = errors.New("the partition table cannot count in sectors of this length")

// Rescale makes of a GPT that counts in sectors of from bytes the same one in
// sectors of to bytes, on a disk of size bytes, a multiple of both: partitions
// keep their bytes. One that ends within a new sector ends before it, if free
// says of this sector's offset that nothing is there. head is the disk's first
// bytes, up to the end of the primary entries in either table at least. The
// result has its length: protective MBR, header, entries and, where the old table
// was longer, zeros. What no GPT uses of head is kept, and must be zeros where the
// new table is longer. Errors wrap ErrSectors or ErrGPT.
func Rescale(head []byte, from, to int, size int64, free func(off int64) bool) ([]byte, image.GPT, error) {
	h, err := primary(head, from)
	if err != nil {
		return nil, image.GPT{}, err
	}
	g := gptFields(head, h)
	end := int64(h.EntriesLBA()+h.entrySectors()) * int64(from)
	if to != 512 && to != 4096 || size%int64(from) != 0 || size%int64(to) != 0 || h.size() > to {
		return nil, g, fmt.Errorf("ptable: a disk of %d bytes in sectors of %d, a header of %d: %w", size, to, h.size(), ErrSectors)
	}
	n := Header(make([]byte, to))
	copy(n, h[:h.size()])
	n.setUint64(entriesLBAAt, primaryLBA+1)
	newEnd := int64(primaryLBA+1+n.entrySectors()) * int64(to)
	switch {
	case g.ProtectiveSize == 0:
		return nil, g, fmt.Errorf("ptable: its MBR is a hybrid one, with entries of its own: %w", ErrSectors)
	case int64(len(head)) < max(end, newEnd):
		return nil, g, badGPT("rescale: head of %d bytes, the entries end at %d", len(head), max(end, newEnd))
	}
	if end < newEnd && len(bytes.Trim(head[end:newEnd], "\x00")) > 0 {
		return nil, g, fmt.Errorf("ptable: something stands at %d to %d, where the table goes: %w", end, newEnd, ErrSectors)
	}
	entries := bytes.Clone(head[int64(h.EntriesLBA())*int64(from):][:h.EntriesSize()])
	if err := h.CheckEntries(entries); err != nil {
		return nil, g, err
	}
	scale := scale{from: uint64(from), to: uint64(to), least: uint64(newEnd), free: free}
	for i := range h.EntryCount() {
		if err := scale.entry(entry(entries[i*h.EntrySize():]), i+1); err != nil {
			return nil, g, err
		}
	}
	g = n.rescale(h, entries, size)
	if err := n.check(); err != nil {
		return nil, g, err
	}
	out := bytes.Clone(head)
	clear(out[512:max(end, newEnd)])
	copy(out, n.resized(append(bytes.Clone(head[:512]), make([]byte, to-512)...), g))
	copy(out[(primaryLBA+1)*to:], entries)
	return out, g, nil
}

// rescale fills in what a header that was h has in other sectors, and returns
// what depends on the disk's size.
func (n Header) rescale(h Header, entries []byte, size int64) image.GPT {
	to := uint64(len(n))
	last := uint64(size)/to - 1
	g := image.GPT{AlternateLBA: last, LastUsableLBA: last - n.entrySectors() - 1, ProtectiveSize: uint32(min(last, math.MaxUint32))}
	first := (h.FirstUsableLBA()*uint64(len(h)) + to - 1) / to
	n.setUint64(firstUsableAt, max(first, primaryLBA+1+n.entrySectors()))
	n.setUint64(alternateLBAAt, g.AlternateLBA)
	n.setUint64(lastUsableAt, g.LastUsableLBA)
	n.setEntriesCRC(crc32.ChecksumIEEE(entries))
	n.seal()
	return g
}

// scale is how entries are made to count in other sectors: of to bytes instead of
// from. No partition may begin before byte least.
type scale struct {
	from, to, least uint64
	free            func(off int64) bool
}

func (s scale) entry(e entry, number int) error {
	if !e.used() {
		return nil
	}
	const limit = image.MaxDiskSize / 512
	if e.first() > e.last() || e.last() >= limit {
		return badGPT("partition %d: sectors %d to %d", number, e.first(), e.last())
	}
	start, end := e.first()*s.from, (e.last()+1)*s.from
	tail := end % s.to
	switch {
	case start%s.to != 0:
		return fmt.Errorf("ptable: partition %d begins at byte %d, which is no multiple of %d: %w", number, start, s.to, ErrSectors)
	case start < s.least:
		return fmt.Errorf("ptable: partition %d begins at byte %d, the table ends at %d: %w", number, start, s.least, ErrSectors)
	case tail > 0 && (end-tail == start || !s.free(int64(end-tail))):
		return fmt.Errorf("ptable: partition %d uses its last %d bytes up to %d, which is no multiple of %d: %w", number, tail, end, s.to, ErrSectors)
	}
	e.setFirst(start / s.to)
	e.setLast((end-tail)/s.to - 1)
	return nil
}
