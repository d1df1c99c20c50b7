package ptable

import (
	"errors"

	"huck/imager/image"
)

// gpt fills the table from the GPT that a protective MBR announces.
func (d *disk) gpt(lba0 []byte) error {
	d.t.Kind = "gpt"
	if hybrid(lba0) {
		d.warn("hybrid MBR: the GPT counts, the partitions in the MBR are taken for copies of its own")
	}
	h, entries, err := d.header(primaryLBA)
	if err == nil {
		err = d.primaryFits(h)
	}
	if errors.Is(err, ErrGPT) {
		return d.fromBackup(lba0, h, err)
	}
	if err != nil {
		return err
	}
	g := gptFields(lba0, h)
	d.t.GPT = &g
	d.meta(primaryLBA, 1)
	d.meta(int64(h.EntriesLBA()), int64(h.entrySectors()))
	d.gptParts(h, entries)
	return d.backup(h)
}

// primaryFits tells whether the disk is as large as its GPT says.
func (d *disk) primaryFits(h Header) error {
	if h.AlternateLBA() >= uint64(d.sectors) {
		return badGPT("GPT is for a disk of %d sectors of %d bytes, this one has %d", h.AlternateLBA()+1, d.sector, d.sectors)
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

// fromBackup reads the backup GPT because the primary one is not sound, for
// the cause given; h is the primary header if that is readable.
func (d *disk) fromBackup(lba0 []byte, h Header, cause error) error {
	places := []int64{d.sectors - 1}
	if h != nil && h.AlternateLBA() != uint64(places[0]) {
		places = append(places, int64(h.AlternateLBA()))
	}
	for _, lba := range places {
		b, entries, err := d.header(lba)
		if errors.Is(err, ErrGPT) || err == nil && b.MyLBA() == primaryLBA {
			continue
		}
		if err != nil {
			return err
		}
		g := gptFields(lba0, b)
		d.t.GPT, d.t.FromBackup = &g, true
		d.warn("the primary GPT is damaged, the backup was read in its place (%v)", cause)
		d.meta(primaryLBA, 1)
		d.maskBackup(b.EntriesLBA(), b.entrySectors(), b.MyLBA())
		d.gptParts(b, entries)
		return nil
	}
	other := int64(512 + 4096 - d.sector)
	if b, err := (&disk{r: d.r, sector: other, sectors: d.sectors * d.sector / other}).read(primaryLBA, 1); err == nil && b != nil {
		if _, err := ParseHeader(b, primaryLBA); err == nil {
			return badGPT("this is a GPT of a disk with sectors of %d bytes, read as one with %d", other, d.sector)
		}
	}
	return badGPT("neither the primary nor the backup GPT can be read: %v", cause)
}

// backup looks at the backup of the sound primary header h.
func (d *disk) backup(h Header) error {
	alt := h.AlternateLBA()
	if alt != uint64(d.sectors-1) {
		d.warn("the backup GPT is in sector %d, not in the disk's last, %d", alt, d.sectors-1)
	}
	at := max(alt-min(alt, h.entrySectors()), h.LastUsableLBA()+1)
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

// maskBackup records the sectors of the backup GPT: n of entries and a header
// behind them.
func (d *disk) maskBackup(entries, n, header uint64) {
	n = min(n, header-entries)
	d.t.Backup = []image.Extent{
		{Start: int64(entries) * d.sector, Size: int64(n) * d.sector},
		{Start: int64(header) * d.sector, Size: d.sector},
	}
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
