package ptable

import (
	"errors"
	"slices"

	"huck/imager/image"
)

// gpt fills the table from the GPT that a protective MBR announces.
func (d *disk) gpt(lba0 []byte) error {
	d.t.Kind = "gpt"
	if hybrid(lba0) {
		d.warn("hybrid MBR: the GPT counts, the partitions in the MBR are taken for copies of its own where they are inside them")
	}
	h, entries, err := d.header(primaryLBA)
	sound := err == nil
	if sound {
		err = d.primaryFits(h)
	}
	if err != nil {
		return d.fromBackup(lba0, suspect{h, sound, err})
	}
	g := gptFields(lba0, h)
	d.t.GPT = &g
	d.meta(primaryLBA, 1)
	d.meta(int64(h.EntriesLBA()), int64(h.entrySectors()))
	d.gptParts(h, entries)
	d.hybridParts(lba0)
	return d.backup(h)
}

// hybridParts takes what the partitions of a hybrid MBR have outside those of
// the GPT for the table's own, so that it is kept: some system may use it.
func (d *disk) hybridParts(lba0 []byte) {
	if !hybrid(lba0) {
		return
	}
	for i := range 4 {
		p := mbrEntry(lba0, i)
		if !p.used() || p.kind() == typeProtective {
			continue
		}
		start, end := int64(p.start()), min(int64(p.start())+int64(p.sectors()), d.sectors)
		inside := slices.ContainsFunc(d.t.Parts, func(q Part) bool {
			return q.Start <= start*d.sector && end*d.sector <= q.Start+q.Size
		})
		if start >= end || inside {
			continue
		}
		d.warn("partition %d of the hybrid MBR, sectors %d to %d, is in none of the GPT's: kept whole", i+1, start, end-1)
		d.meta(start, end-start)
	}
}

// primaryFits tells whether the disk is as large as its GPT says, and whether
// the GPT leaves room for its backup where fitting puts it.
func (d *disk) primaryFits(h Header) error {
	if h.AlternateLBA() >= uint64(d.sectors) {
		return badGPT("GPT is for a disk of %d sectors of %d bytes, this one has %d", h.AlternateLBA()+1, d.sector, d.sectors)
	}
	if h.LastUsableLBA() >= h.backupEntriesLBA() {
		return badGPT("GPT lets partitions reach sector %d, its backup begins at %d", h.LastUsableLBA(), h.backupEntriesLBA())
	}
	return nil
}

// header reads the header in sector lba and its entries. Bytes that are no
// sound GPT give an error that wraps ErrGPT, beside the header if that is sound
// and only the entries are not.
func (d *disk) header(lba int64) (Header, []byte, error) {
	b, err := d.read(lba, 1)
	if err != nil {
		return nil, nil, err
	}
	if b == nil {
		return nil, nil, badGPT("GPT header in sector %d: the disk has %d", lba, d.sectors)
	}
	h, err := ParseHeader(b, uint64(lba))
	if err != nil {
		return nil, nil, err
	}
	entries, err := d.read(int64(h.EntriesLBA()), int64(h.entrySectors()))
	if err != nil {
		return nil, nil, err
	}
	if entries == nil {
		return h, nil, badGPT("GPT entries in sector %d+%d: the disk has %d", h.EntriesLBA(), h.entrySectors(), d.sectors)
	}
	entries = entries[:h.EntriesSize()]
	return h, entries, h.CheckEntries(entries)
}

// backup looks at the backup of the sound primary header h.
func (d *disk) backup(h Header) error {
	alt := h.AlternateLBA()
	if alt != uint64(d.sectors-1) {
		d.warn("the backup GPT is in sector %d, not in the disk's last, %d", alt, d.sectors-1)
	}
	at := h.backupEntriesLBA()
	b, _, err := d.header(int64(alt))
	switch {
	case errors.Is(err, ErrGPT):
		d.warn("the backup GPT is damaged (%v)", err)
	case err != nil:
		// It is no part of an image, so a disk that cannot read it will do.
		d.warn("the backup GPT cannot be read (%v)", err)
	default:
		if b.entriesCRC() != h.entriesCRC() {
			d.warn("the backup GPT has other entries than the primary one")
		}
		at = b.EntriesLBA()
	}
	d.maskBackup(at, h.entrySectors(), alt)
	return nil
}

// maskBackup records the sectors of the backup GPT with the given header: its
// entries, n sectors, and, as fitting will put them there, those right before
// the header.
func (d *disk) maskBackup(entries, n, header uint64) {
	room := header - n
	if end := entries + n; end < room {
		d.t.Backup = append(d.t.Backup, d.extent(entries, end))
		entries = room
	}
	d.t.Backup = append(d.t.Backup, d.extent(min(entries, room), header+1))
}

// extent returns the sectors from first to end, end not included.
func (d *disk) extent(first, end uint64) image.Extent {
	return image.Extent{Start: int64(first) * d.sector, Size: int64(end-first) * d.sector}
}

// gptParts adds the used ones of the entries.
func (d *disk) gptParts(h Header, entries []byte) {
	for i := range h.EntryCount() {
		e := entry(entries[i*h.EntrySize():])
		if !e.used() {
			continue
		}
		first, last := e.first(), e.last()
		if first > last || last >= uint64(image.MaxDiskSize/d.sector) {
			d.warn("partition %d from sector %d to %d makes no sense; left out", i+1, first, last)
			continue
		}
		if first < h.FirstUsableLBA() || last > h.LastUsableLBA() {
			d.warn("partition %d in sectors %d to %d, usable are %d to %d", i+1, first, last, h.FirstUsableLBA(), h.LastUsableLBA())
		}
		d.add(Part{Number: i + 1, Start: int64(first) * d.sector, Size: int64(last-first+1) * d.sector,
			Type: e.typeGUID(), UUID: e.guid(), Name: e.name()})
	}
}
