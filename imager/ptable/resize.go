package ptable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
)

// MaxMBRSectors is how many sectors from the disk's start an MBR can speak of:
// its fields have 32 bits. With sectors of 512 bytes that is 2 TiB.
const MaxMBRSectors = math.MaxUint32

// ErrResize is wrapped by the errors about a table in which a partition is not
// what a Resize says.
var ErrResize = errors.New("the partition cannot be resized")

// Resize is a change of a partition's length. Its start, type and name stay, as
// do the cylinder, head and sector of an MBR record's end: nobody reads them,
// and so the change can be undone to the byte.
type Resize struct {
	// Number is the partition's number as Linux counts.
	Number int
	// Start is where it begins, From how long it is and To how long it will be,
	// in bytes.
	Start, From, To int64
}

// Inverse is the change that undoes r.
func (r Resize) Inverse() Resize { r.From, r.To = r.To, r.From; return r }

func (r Resize) bad(format string, a ...any) error {
	return fmt.Errorf("ptable: partition %d at byte %d: "+format+": %w", append(append([]any{r.Number, r.Start}, a...), ErrResize)...)
}

// GPT returns head with the change in the partition entries and the header's
// checksums. head is the first bytes of a disk up to the end of the primary
// entries at least (HeadSize); what follows is kept. The result is as long.
// Errors wrap ErrGPT or ErrResize.
func (r Resize) GPT(head []byte, sector int) ([]byte, error) {
	h, err := primary(head, sector)
	if err != nil {
		return nil, err
	}
	if end := h.entriesEnd(); int64(len(head)) < end {
		return nil, badGPT("resize: head of %d bytes, its entries end at %d", len(head), end)
	}
	out := slices.Clone(head)
	entries := out[h.entriesEnd()-int64(h.EntriesSize()) : h.entriesEnd()]
	if err := h.CheckEntries(entries); err != nil {
		return nil, err
	}
	if r.Number < 1 || r.Number > h.EntryCount() {
		return nil, r.bad("the GPT has %d entries", h.EntryCount())
	}
	e := entry(entries[(r.Number-1)*h.EntrySize():])
	first, end := uint64(r.Start)/uint64(sector), uint64(r.Start+r.From)/uint64(sector)
	if !e.used() || e.first() != first || e.last()+1 != end {
		return nil, r.bad("the GPT has it in sectors %d to %d, not %d to %d", e.first(), e.last(), first, end-1)
	}
	e.setLast(uint64(r.Start+r.To)/uint64(sector) - 1)
	n := Header(out[sector : 2*sector])
	n.setEntriesCRC(crc32.ChecksumIEEE(entries))
	n.seal()
	return out, nil
}

// MBR returns lba0, the disk's first sector, with the change in its partition
// record. Only primary partitions have one, and none may follow, an extended
// one included. Errors wrap ErrMBR or ErrResize.
func (r Resize) MBR(lba0 []byte, sector int) ([]byte, error) {
	if len(lba0) < 512 || !signed(lba0) {
		return nil, fmt.Errorf("ptable: resize: no MBR in sector 0: %w", ErrMBR)
	}
	if r.Number < 1 || r.Number > 4 {
		return nil, r.bad("it is a logical one")
	}
	out := slices.Clone(lba0)
	p := mbrEntry(out, r.Number-1)
	first, n := r.Start/int64(sector), r.From/int64(sector)
	if !p.used() || p.extended() || int64(p.start()) != first || int64(p.sectors()) != n {
		return nil, r.bad("the MBR has %d sectors from %d, not %d from %d", p.sectors(), p.start(), n, first)
	}
	for i := range 4 {
		if o := mbrEntry(out, i); i != r.Number-1 && o.used() && int64(o.start())+int64(o.sectors()) > first {
			return nil, r.bad("partition %d ends behind its beginning, at sector %d", i+1, int64(o.start())+int64(o.sectors()))
		}
	}
	to := r.To / int64(sector)
	if to <= 0 || first+to > MaxMBRSectors {
		return nil, r.bad("%d sectors from %d, an MBR can speak of %d in all", to, first, uint32(MaxMBRSectors))
	}
	binary.LittleEndian.PutUint32(p[mbrSectorsAt:], uint32(to))
	return out, nil
}
