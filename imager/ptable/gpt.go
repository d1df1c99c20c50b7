package ptable

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"unicode/utf16"

	"huck/imager/image"
)

const (
	// maxEntries bounds a GPT's partition entries; the standard's minimum and
	// everyone's default is 128.
	maxEntries = 16384
	// minEntrySize is the size of an entry (UEFI 2.10, table 5.6); a table may
	// use any power of two from there, and we read up to maxEntrySize.
	minEntrySize = 128
	maxEntrySize = 4096
	// minHeaderSize is the size of the header's defined fields (table 5.5).
	minHeaderSize = 92
	// headerMagic begins a header.
	headerMagic = "EFI PART"
	// primaryLBA is where the primary header stands.
	primaryLBA = 1
)

// ErrGPT is wrapped by every error about bytes that are no sound GPT.
var ErrGPT = errors.New("not a sound GPT")

func badGPT(format string, a ...any) error {
	return fmt.Errorf("ptable: "+format+": %w", append(a, ErrGPT)...)
}

// Header is the sector that holds a GPT header (UEFI 2.10, table 5.5), whole:
// the bytes after the header's own are kept as they are. Only ParseHeader makes
// one from foreign bytes, so its fields are known to be within bounds.
type Header []byte

// Offsets of the fields that are both read and written.
const (
	headerCRCAt    = 16
	myLBAAt        = 24
	alternateLBAAt = 32
	firstUsableAt  = 40
	lastUsableAt   = 48
	entriesLBAAt   = 72
	entriesCRCAt   = 88
)

func (h Header) uint32(at int) uint32 { return binary.LittleEndian.Uint32(h[at:]) }
func (h Header) uint64(at int) uint64 { return binary.LittleEndian.Uint64(h[at:]) }

func (h Header) setUint64(at int, v uint64) { binary.LittleEndian.PutUint64(h[at:], v) }

func (h Header) setEntriesCRC(v uint32) { binary.LittleEndian.PutUint32(h[entriesCRCAt:], v) }

func (h Header) size() int          { return int(h.uint32(12)) }
func (h Header) crc() uint32        { return h.uint32(headerCRCAt) }
func (h Header) entriesCRC() uint32 { return h.uint32(entriesCRCAt) }

// MyLBA is the sector this header stands in.
func (h Header) MyLBA() uint64 { return h.uint64(myLBAAt) }

// AlternateLBA is the sector the other header stands in.
func (h Header) AlternateLBA() uint64 { return h.uint64(alternateLBAAt) }

// FirstUsableLBA is the first sector a partition may use.
func (h Header) FirstUsableLBA() uint64 { return h.uint64(firstUsableAt) }

// LastUsableLBA is the last sector a partition may use.
func (h Header) LastUsableLBA() uint64 { return h.uint64(lastUsableAt) }

// DiskGUID is the disk's GUID in its usual form.
func (h Header) DiskGUID() string { return guid(h[56:72]) }

// EntriesLBA is the first sector of the partition entries.
func (h Header) EntriesLBA() uint64 { return h.uint64(entriesLBAAt) }

// EntryCount is the number of partition entries, used or not.
func (h Header) EntryCount() int { return int(h.uint32(80)) }

// EntrySize is the length of one partition entry in bytes.
func (h Header) EntrySize() int { return int(h.uint32(84)) }

// EntriesSize is the length of all partition entries in bytes, at most 64 MiB.
func (h Header) EntriesSize() int { return h.EntryCount() * h.EntrySize() }

// entrySectors is the number of sectors the entries take.
func (h Header) entrySectors() uint64 {
	return uint64((h.EntriesSize() + len(h) - 1) / len(h))
}

// ParseHeader copies and checks a GPT header that was read from sector lba of a
// disk whose sectors are as long as sector: 512 or 4096 bytes. It checks all
// that one sector can tell; errors wrap ErrGPT.
func ParseHeader(sector []byte, lba uint64) (Header, error) {
	if len(sector) != 512 && len(sector) != 4096 {
		return nil, badGPT("GPT header in a sector of %d bytes", len(sector))
	}
	h := Header(bytes.Clone(sector))
	switch {
	case string(h[:8]) != headerMagic:
		return nil, badGPT("no GPT header in sector %d", lba)
	case h.uint32(12) < minHeaderSize || h.uint32(12) > uint32(len(h)):
		return nil, badGPT("GPT header in sector %d: %d bytes long", lba, h.uint32(12))
	case h.crc() != h.computeCRC():
		return nil, badGPT("GPT header in sector %d: CRC is %08x, its bytes give %08x", lba, h.crc(), h.computeCRC())
	case h.MyLBA() != lba:
		return nil, badGPT("GPT header in sector %d: says it is in sector %d", lba, h.MyLBA())
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	return h, nil
}

// check tests what the CRC does not promise: that the fields make sense
// together and that no sum of them overflows.
func (h Header) check() error {
	n, size := h.uint32(80), h.uint32(84)
	limit := uint64(image.MaxDiskSize / len(h))
	where := fmt.Sprintf("GPT header in sector %d", h.MyLBA())
	switch {
	case n == 0 || n > maxEntries, size < minEntrySize || size > maxEntrySize || size&(size-1) != 0:
		return badGPT("%s: %d entries of %d bytes", where, n, size)
	case h.MyLBA() >= limit || h.AlternateLBA() >= limit || h.EntriesLBA() >= limit:
		return badGPT("%s: alternate header in sector %d, entries in %d", where, h.AlternateLBA(), h.EntriesLBA())
	case h.FirstUsableLBA() > h.LastUsableLBA() || h.LastUsableLBA() >= limit:
		return badGPT("%s: usable from sector %d to %d", where, h.FirstUsableLBA(), h.LastUsableLBA())
	}
	entriesEnd := h.EntriesLBA() + h.entrySectors()
	sound := h.EntriesLBA() > primaryLBA && entriesEnd <= h.FirstUsableLBA() && h.LastUsableLBA() < h.AlternateLBA()
	if h.MyLBA() != primaryLBA {
		sound = h.AlternateLBA() == primaryLBA && h.LastUsableLBA() < h.EntriesLBA() && entriesEnd <= h.MyLBA()
	}
	if !sound {
		return badGPT("%s: entries in sectors %d to %d, usable are %d to %d, alternate header in %d", where,
			h.EntriesLBA(), entriesEnd-1, h.FirstUsableLBA(), h.LastUsableLBA(), h.AlternateLBA())
	}
	return nil
}

// computeCRC returns the CRC of the header with its CRC field taken as zero.
func (h Header) computeCRC() uint32 {
	c := crc32.ChecksumIEEE(h[:headerCRCAt])
	c = crc32.Update(c, crc32.IEEETable, make([]byte, 4))
	return crc32.Update(c, crc32.IEEETable, h[headerCRCAt+4:h.size()])
}

// seal writes the header's CRC after a change.
func (h Header) seal() { binary.LittleEndian.PutUint32(h[headerCRCAt:], h.computeCRC()) }

// CheckEntries tells whether entries, the EntriesSize bytes from EntriesLBA,
// are the ones the header speaks of.
func (h Header) CheckEntries(entries []byte) error {
	if len(entries) != h.EntriesSize() {
		return badGPT("GPT entries: %d bytes, want %d", len(entries), h.EntriesSize())
	}
	if got := crc32.ChecksumIEEE(entries); got != h.entriesCRC() {
		return badGPT("GPT entries in sector %d: CRC is %08x, their bytes give %08x", h.EntriesLBA(), h.entriesCRC(), got)
	}
	return nil
}

// Backup returns the backup of a primary header: the same but for the two
// places and the entries, which stand right before it.
func (h Header) Backup() Header {
	n := Header(make([]byte, len(h)))
	copy(n, h[:h.size()])
	n.setUint64(myLBAAt, h.AlternateLBA())
	n.setUint64(alternateLBAAt, h.MyLBA())
	n.setUint64(entriesLBAAt, h.backupEntriesLBA())
	n.seal()
	return n
}

// backupEntriesLBA is where Backup puts the entries of a primary header. The
// sectors before the backup header are more than the entries take: the primary
// ones lie there, too.
func (h Header) backupEntriesLBA() uint64 { return h.AlternateLBA() - h.entrySectors() }

// primary returns the primary of a backup header, with its entries in sector
// entriesLBA.
func (h Header) primary(entriesLBA uint64) (Header, error) {
	n := Header(make([]byte, len(h)))
	copy(n, h[:h.size()])
	n.setUint64(myLBAAt, primaryLBA)
	n.setUint64(alternateLBAAt, h.MyLBA())
	n.setUint64(entriesLBAAt, entriesLBA)
	n.seal()
	return n, n.check()
}

// entry is one GPT partition entry (UEFI 2.10, table 5.6).
type entry []byte

func (e entry) used() bool        { return !bytes.Equal(e[:16], make([]byte, 16)) }
func (e entry) typeGUID() string  { return guid(e[:16]) }
func (e entry) guid() string      { return guid(e[16:32]) }
func (e entry) first() uint64     { return binary.LittleEndian.Uint64(e[32:]) }
func (e entry) last() uint64      { return binary.LittleEndian.Uint64(e[40:]) }
func (e entry) setFirst(v uint64) { binary.LittleEndian.PutUint64(e[32:], v) }
func (e entry) setLast(v uint64)  { binary.LittleEndian.PutUint64(e[40:], v) }

// name decodes the UTF-16 name up to its first NUL.
func (e entry) name() string {
	var u []uint16
	for b := e[56:minEntrySize]; len(b) > 0; b = b[2:] {
		c := binary.LittleEndian.Uint16(b)
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

// guid prints a GUID, whose first three fields are little-endian on disk
// (UEFI 2.10, appendix A), in lower case.
func guid(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]),
		binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}
