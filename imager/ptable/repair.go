package ptable

import (
	"bytes"
	"errors"

	"huck/imager/image"
)

// suspect is a primary GPT that cannot be taken as it is.
type suspect struct {
	// header is nil unless it is sound in itself.
	header Header
	// sound says that the entries are sound, too, and only do not fit the disk.
	sound bool
	// cause is what is wrong.
	cause error
}

// vouches reports whether the suspect has nothing to say against the backup
// header b. The last sector may hold one of the disk's earlier life.
func (s suspect) vouches(b Header) bool {
	if s.header != nil && s.header.DiskGUID() != b.DiskGUID() {
		return false
	}
	return !s.sound || s.header.entriesCRC() == b.entriesCRC()
}

// fromBackup reads the backup GPT because the primary one will not do, and
// makes a new primary from it.
func (d *disk) fromBackup(lba0 []byte, s suspect) error {
	old := d.oldHeader()
	for _, lba := range d.backupPlaces(lba0, old) {
		b, entries, err := d.header(lba)
		if errors.Is(err, ErrGPT) || err == nil && (b.MyLBA() == primaryLBA || !s.vouches(b)) {
			continue
		}
		if err != nil {
			return err
		}
		g := gptFields(lba0, b)
		d.t.GPT = &g
		d.warn("the primary GPT is damaged, the backup was read in its place (%v)", s.cause)
		d.maskBackup(b.EntriesLBA(), b.entrySectors(), b.MyLBA())
		d.gptParts(b, entries)
		d.hybridParts(lba0)
		return d.repair(lba0, old, b, entries)
	}
	if !errors.Is(s.cause, ErrGPT) {
		return s.cause
	}
	other := int64(512 + 4096 - d.sector)
	if b, err := (&disk{r: d.r, sector: other, sectors: d.sectors * d.sector / other}).read(primaryLBA, 1); err == nil && b != nil {
		if _, err := ParseHeader(b, primaryLBA); err == nil {
			return badGPT("this is a GPT of a disk with sectors of %d bytes, read as one with %d", other, d.sector)
		}
	}
	return badGPT("neither the primary nor the backup GPT is sound: %v", s.cause)
}

// oldHeader returns the primary header as it stands, if there is anything left
// of it. Nothing in it can be relied on.
func (d *disk) oldHeader() Header {
	b, err := d.read(primaryLBA, 1)
	if err != nil || !bytes.HasPrefix(b, []byte(headerMagic)) {
		return nil
	}
	return b
}

// backupPlaces lists the sectors where the backup header may be: the last one
// and, on a disk that has grown, where the old primary header and the
// protective MBR say.
func (d *disk) backupPlaces(lba0 []byte, old Header) []int64 {
	places := []int64{d.sectors - 1}
	if old != nil {
		places = append(places, int64(old.AlternateLBA()))
	}
	return append(places, int64(mbrEntry(lba0, protectiveSlot(lba0)).sectors()))
}

// repair makes the primary GPT that goes with the backup header b. The MBR is
// part of it: it shares a block with what may be unreadable.
func (d *disk) repair(lba0 []byte, old, b Header, entries []byte) error {
	at := d.entriesPlace(old, b, entries)
	h, err := b.primary(at)
	if err != nil {
		return err
	}
	d.meta(primaryLBA, 1)
	d.meta(int64(at), int64(h.entrySectors()))
	d.t.Repair = []Patch{{0, append(bytes.Clone(lba0), h...)}, {int64(at) * d.sector, entries}}
	for _, p := range d.t.Parts {
		for _, r := range d.t.Repair {
			if overlap(p, image.Extent{Start: r.Start, Size: int64(len(r.Data))}) {
				return badGPT("partition %d at byte %d+%d overlaps the primary GPT, which must be made anew (%d bytes at %d)",
					p.Number, p.Start, p.Size, len(r.Data), r.Start)
			}
		}
	}
	return nil
}

// entriesPlace returns the sector of the primary entries: where the old header
// says, right before the usable sectors or right behind the header. The first of
// these where they still stand counts; a copy left behind when the entries were
// moved away from the header must not.
func (d *disk) entriesPlace(old, b Header, entries []byte) uint64 {
	n, first := b.entrySectors(), uint64(primaryLBA+1)
	if b.FirstUsableLBA() < first+n {
		return first // there is no room; the new header will be found unsound
	}
	last, likely := b.FirstUsableLBA()-n, first
	places := []uint64{last, first}
	if old != nil && old.EntriesLBA() >= first && old.EntriesLBA() <= last {
		likely = old.EntriesLBA()
		places = []uint64{likely, last, first}
	}
	for _, at := range places {
		if have, err := d.read(int64(at), int64(n)); err == nil && bytes.HasPrefix(have, entries) {
			return at
		}
	}
	return likely
}

// lostGPT warns of a GPT that no MBR announces. Linux would not read it.
func (d *disk) lostGPT() {
	if d.oldHeader() != nil {
		d.warn("sector 1 begins like a GPT header, but without a protective MBR in sector 0 it is none")
	}
}
