// Package ptable reads partition tables (GPT, MBR with logical partitions) and
// fits a GPT to a disk of another size. It reads through an io.ReaderAt and
// writes nothing; what it reads may come from a broken or hostile disk.
package ptable

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"huck/imager/image"
)

// maxParts bounds the used entries of a table; a manifest takes no more.
const maxParts = 4096

// Table is a disk's partition table.
type Table struct {
	// Kind is "gpt", "mbr" or "none": no table, or one without a partition.
	Kind string
	// Parts lists the partitions by start. Extended partitions are not among
	// them, only the logical ones inside.
	Parts []Part
	// GPT holds what depends on the disk's size; nil unless Kind is "gpt".
	GPT *image.GPT
	// Repair is the primary GPT made anew from the backup, if the one on the
	// disk is damaged: what must stand on a disk with this table in place of
	// what was read. Nil if the disk's own is sound.
	Repair []Patch
	// Metadata lists the sectors the table itself takes: MBR, primary GPT, the
	// EBRs of logical partitions. By start, apart.
	Metadata []image.Extent
	// Backup lists the sectors of the backup GPT, which are no part of an
	// image: fitting makes them anew.
	Backup []image.Extent
	// Warnings tells, one sentence each, what is odd about the table.
	Warnings []string

	size int64
}

// Patch is bytes and the disk offset where they belong.
type Patch struct {
	Start int64
	Data  []byte
}

// Part is one partition, within the disk.
type Part struct {
	// Number is the partition's number as Linux counts.
	Number int
	// Start and Size are in bytes.
	Start, Size int64
	// Type is the GPT type GUID in lower case or the two lower-case hexadecimal
	// digits of the MBR type.
	Type string
	// UUID and Name are the GPT partition's own; an MBR has neither.
	UUID, Name string
}

// Read reads the partition table of a disk of size bytes with sectors of
// sector bytes: 512 or 4096. A disk without one is no error, nor is one that
// Linux would read too; its oddities become warnings, a damaged primary or
// backup GPT among them. Errors are I/O errors and tables that cannot be taken
// as they are; those wrap ErrGPT or ErrMBR.
func Read(r io.ReaderAt, size int64, sector int) (*Table, error) {
	if sector != 512 && sector != 4096 {
		return nil, fmt.Errorf("ptable: sector size %d", sector)
	}
	if size < 0 || size > image.MaxDiskSize {
		return nil, fmt.Errorf("ptable: disk size %d outside 0 to %d", size, int64(image.MaxDiskSize))
	}
	d := &disk{r: r, sector: int64(sector), sectors: size / int64(sector), nextLogical: 5, t: &Table{Kind: "none", size: size}}
	lba0, err := d.read(0, 1)
	if err != nil {
		return nil, err
	}
	switch {
	case lba0 == nil:
		return d.t, nil
	case protectiveSlot(lba0) >= 0:
		d.meta(0, 1)
		if err := d.gpt(lba0); err != nil {
			return nil, err
		}
	case isMBR(lba0):
		d.meta(0, 1)
		if err := d.mbr(lba0); err != nil {
			return nil, err
		}
		if len(d.t.Parts) == 0 {
			d.warn("the MBR leads to no partition: the disk is taken as one without a table")
			d.t.Kind, d.t.Metadata = "none", nil
		}
	default:
		d.lostGPT()
		return d.t, nil
	}
	return d.t, d.finish()
}

// Gaps returns the stretches of the disk that belong to no partition and to no
// table, the backup GPT's included, by start.
func (t *Table) Gaps() []image.Extent {
	taken := slices.Concat(t.Metadata, t.Backup)
	for _, p := range t.Parts {
		taken = append(taken, image.Extent{Start: p.Start, Size: p.Size})
	}
	slices.SortFunc(taken, byStart)
	var gaps []image.Extent
	var at int64
	for _, e := range append(taken, image.Extent{Start: t.size}) {
		if e.Start > at {
			gaps = append(gaps, image.Extent{Start: at, Size: e.Start - at})
		}
		at = max(at, e.Start+e.Size)
	}
	return gaps
}

func overlap(p Part, e image.Extent) bool {
	return p.Start < e.Start+e.Size && e.Start < p.Start+p.Size
}

func byStart(a, b image.Extent) int { return cmp.Compare(a.Start, b.Start) }

// disk is a disk whose table is being read.
type disk struct {
	r           io.ReaderAt
	sector      int64 // bytes
	sectors     int64
	nextLogical int
	t           *Table
}

// read returns n sectors from sector at on, or nil if they are not all on the
// disk.
func (d *disk) read(at, n int64) ([]byte, error) {
	if at < 0 || n < 0 || at > d.sectors || n > d.sectors-at {
		return nil, nil
	}
	b := make([]byte, n*d.sector)
	if got, err := d.r.ReadAt(b, at*d.sector); got < len(b) {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("ptable: read %d bytes at %d: %w", len(b), at*d.sector, err)
	}
	return b, nil
}

func (d *disk) warn(format string, a ...any) {
	d.t.Warnings = append(d.t.Warnings, fmt.Sprintf(format, a...))
}

// meta records sectors of the table's own.
func (d *disk) meta(at, n int64) {
	d.t.Metadata = append(d.t.Metadata, image.Extent{Start: at * d.sector, Size: n * d.sector})
}

// add records a partition, cut to the disk as Linux does it.
func (d *disk) add(p Part) {
	end := d.sectors * d.sector
	switch {
	case p.Start >= end:
		d.warn("partition %d starts at byte %d, past the disk's end; left out", p.Number, p.Start)
		return
	case p.Size > end-p.Start:
		d.warn("partition %d ends at byte %d, past the disk's end at %d; cut", p.Number, p.Start+p.Size, end)
		p.Size = end - p.Start
	}
	d.t.Parts = append(d.t.Parts, p)
}

// finish sorts what was found and looks for overlaps.
func (d *disk) finish() error {
	t := d.t
	if len(t.Parts) > maxParts {
		return badGPT("%d partitions, at most %d", len(t.Parts), maxParts)
	}
	slices.SortFunc(t.Metadata, byStart)
	slices.SortStableFunc(t.Parts, func(a, b Part) int { return cmp.Compare(a.Start, b.Start) })
	for i, p := range t.Parts {
		for _, e := range t.Backup {
			if overlap(p, e) {
				return badGPT("partition %d at byte %d+%d overlaps the backup GPT at %d+%d", p.Number, p.Start, p.Size, e.Start, e.Size)
			}
		}
		for _, e := range t.Metadata {
			if overlap(p, e) {
				d.warn("partition %d overlaps the partition table's own sectors at byte %d", p.Number, e.Start)
				break
			}
		}
		if i > 0 && p.Start < t.Parts[i-1].Start+t.Parts[i-1].Size {
			d.warn("partitions %d and %d overlap", t.Parts[i-1].Number, p.Number)
		}
	}
	return nil
}
