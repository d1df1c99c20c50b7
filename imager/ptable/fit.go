package ptable

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"huck/imager/image"
)

// Fitted is a GPT made to fit a disk of another size. The primary entries stay
// as they are; to change them, too, see Resize.
type Fitted struct {
	// Head is the disk's first two sectors: the protective MBR and the primary
	// header.
	Head []byte
	// Backup is the backup's entries, padded to whole sectors, and, as its
	// last sector, the backup header. It ends where the disk ends.
	Backup []byte
	// BackupAt is the disk offset of Backup in bytes.
	BackupAt int64
}

// HeadSize returns how many bytes from the disk's start Fit needs: all up to
// the end of the primary entries. head is the first two sectors at least,
// sector the sector size in bytes.
func HeadSize(head []byte, sector int) (int64, error) {
	h, err := primary(head, sector)
	if err != nil {
		return 0, err
	}
	return h.entriesEnd(), nil
}

// entriesEnd is the disk offset of the first byte after the entries.
func (h Header) entriesEnd() int64 {
	return int64(h.EntriesLBA())*int64(len(h)) + int64(h.EntriesSize())
}

func primary(head []byte, sector int) (Header, error) {
	if sector != 512 && sector != 4096 || len(head) < 2*sector {
		return nil, badGPT("GPT in a head of %d bytes with sectors of %d", len(head), sector)
	}
	return ParseHeader(head[sector:2*sector], primaryLBA)
}

// Fit makes the GPT in head, the HeadSize first bytes of an image's disk, fit a
// disk of size bytes: the backup goes to the disk's true end and the headers
// say so. On a disk of the same size the head is unchanged. It is an error if a
// partition would reach into the backup or past the end; errors about the
// table itself wrap ErrGPT.
func Fit(head []byte, sector int, size int64) (*Fitted, error) {
	h, err := primary(head, sector)
	if err != nil {
		return nil, err
	}
	if end := h.entriesEnd(); int64(len(head)) < end {
		return nil, badGPT("fit GPT: head of %d bytes, its entries end at %d", len(head), end)
	}
	entries := head[h.entriesEnd()-int64(h.EntriesSize()) : h.entriesEnd()]
	if err := h.CheckEntries(entries); err != nil {
		return nil, err
	}
	g, err := h.fitted(gptFields(head, h), size)
	if err != nil {
		return nil, err
	}
	room := g.AlternateLBA - h.entrySectors() - 1
	for i := range h.EntryCount() {
		if e := entry(entries[i*h.EntrySize():]); e.used() && e.last() > room {
			return nil, fmt.Errorf("ptable: fit GPT to a disk of %d bytes: partition %d ends at sector %d, the last usable one is %d",
				size, i+1, e.last(), room)
		}
	}
	f := &Fitted{Head: h.resized(head, g)}
	b := Header(f.Head[sector:]).Backup()
	f.BackupAt = int64(b.EntriesLBA()) * int64(sector)
	f.Backup = make([]byte, int64(b.MyLBA()+1)*int64(sector)-f.BackupAt)
	copy(f.Backup, entries)
	copy(f.Backup[len(f.Backup)-sector:], b)
	return f, nil
}

// Unfit is the inverse of Fit's Head: from the first two sectors of a disk of
// size bytes that an image with the GPT fields g was fitted to, it makes the
// image's. A head that Fit would not have made for this disk is an error.
func Unfit(head []byte, sector int, size int64, g image.GPT) ([]byte, error) {
	h, err := primary(head, sector)
	if err != nil {
		return nil, err
	}
	want, err := h.fitted(g, size)
	if err != nil {
		return nil, err
	}
	if got := gptFields(head, h); got != want {
		return nil, badGPT("GPT says %+v; fitted to this disk it would say %+v", got, want)
	}
	out := h.resized(head, g)
	if err := Header(out[sector:]).check(); err != nil {
		return nil, err
	}
	return out, nil
}

// gptFields returns the fields of the GPT with the primary header h and the MBR
// lba0 that depend on the disk's size.
func gptFields(lba0 []byte, h Header) image.GPT {
	g := image.GPT{AlternateLBA: h.AlternateLBA(), LastUsableLBA: h.LastUsableLBA()}
	if h.MyLBA() != primaryLBA {
		g.AlternateLBA = h.MyLBA()
	}
	if i := protectiveSlot(lba0); i >= 0 && !hybrid(lba0) {
		g.ProtectiveSize = mbrEntry(lba0, i).sectors()
	}
	return g
}

// fitted returns what the fields g of an image's GPT with the header h become
// on a disk of size bytes. Where the backup need not move nothing changes:
// some tools set the end of the usable sectors lower than they must, and the
// protective partition to 2^32-1 on any disk.
func (h Header) fitted(g image.GPT, size int64) (image.GPT, error) {
	if size < 0 || size > image.MaxDiskSize {
		return g, fmt.Errorf("ptable: fit GPT to a disk of %d bytes: size outside 0 to %d", size, int64(image.MaxDiskSize))
	}
	sectors := uint64(size) / uint64(len(h))
	least := h.FirstUsableLBA() + 1 + h.entrySectors() + 1
	if sectors < least {
		return g, fmt.Errorf("ptable: fit GPT to a disk of %d bytes: it takes %d sectors of %d bytes at least", size, least, len(h))
	}
	if last := sectors - 1; last != g.AlternateLBA {
		g.AlternateLBA, g.LastUsableLBA = last, last-h.entrySectors()-1
		if g.ProtectiveSize != 0 {
			g.ProtectiveSize = uint32(min(last, math.MaxUint32))
		}
	}
	return g, nil
}

// resized returns the first two sectors of a disk whose GPT has the primary
// header h and the MBR lba0, with the fields g in place.
func (h Header) resized(lba0 []byte, g image.GPT) []byte {
	out := append(slices.Clone(lba0[:len(h)]), h...)
	if i := protectiveSlot(out); i >= 0 && g.ProtectiveSize != 0 {
		binary.LittleEndian.PutUint32(mbrEntry(out, i)[mbrSectorsAt:], g.ProtectiveSize)
	}
	n := Header(out[len(h):])
	n.setUint64(alternateLBAAt, g.AlternateLBA)
	n.setUint64(lastUsableAt, g.LastUsableLBA)
	n.seal()
	return out
}
