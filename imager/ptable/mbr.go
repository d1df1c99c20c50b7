package ptable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// ErrMBR is wrapped by the errors about an MBR that cannot be taken as it is.
var ErrMBR = errors.New("not a sound MBR")

const (
	mbrSectorsAt = 12
	// maxLogical bounds the logical partitions and the links of the EBR chain;
	// Linux itself names at most 256 partitions of a disk.
	maxLogical = 256

	typeProtective = 0xee
	typeLDM        = 0x42
	// ldmSize is the length in bytes of a dynamic disk's database, which ends
	// where the disk ends (Linux, Documentation/admin-guide/ldm.rst).
	ldmSize = 1 << 20
)

// mbrRecord is one of the four partition records of an MBR or EBR (UEFI 2.10,
// table 5.2).
type mbrRecord []byte

func mbrEntry(sector []byte, i int) mbrRecord { return sector[446+16*i : 446+16*i+16] }

func (p mbrRecord) status() byte    { return p[0] }
func (p mbrRecord) kind() byte      { return p[4] }
func (p mbrRecord) start() uint32   { return binary.LittleEndian.Uint32(p[8:]) }
func (p mbrRecord) sectors() uint32 { return binary.LittleEndian.Uint32(p[mbrSectorsAt:]) }
func (p mbrRecord) used() bool      { return p.kind() != 0 && p.sectors() != 0 }

func (p mbrRecord) extended() bool {
	return p.kind() == 0x05 || p.kind() == 0x0f || p.kind() == 0x85
}

func signed(sector []byte) bool { return sector[510] == 0x55 && sector[511] == 0xaa }

// protectiveSlot returns which of the MBR's records protects a GPT, as Linux
// decides it: type 0xEE and starting at sector 1. -1 means none.
func protectiveSlot(lba0 []byte) int {
	if !signed(lba0) {
		return -1
	}
	for i := range 4 {
		if p := mbrEntry(lba0, i); p.kind() == typeProtective && p.start() == primaryLBA {
			return i
		}
	}
	return -1
}

// hybrid tells whether an MBR beside a GPT names partitions of its own.
func hybrid(lba0 []byte) bool {
	for i := range 4 {
		if p := mbrEntry(lba0, i); p.used() && p.kind() != typeProtective {
			return true
		}
	}
	return false
}

// isMBR tells an MBR from a filesystem's boot sector, which carries the same
// signature: its records have a sensible status and at least one is used. A
// record that starts at sector 0 is the fake one of mkfs.fat --mbr.
func isMBR(lba0 []byte) bool {
	if !signed(lba0) {
		return false
	}
	some := false
	for i := range 4 {
		p := mbrEntry(lba0, i)
		if p.status()&0x7f != 0 || p.used() && p.start() == 0 {
			return false
		}
		some = some || p.used()
	}
	return some
}

// mbr fills the table from the MBR in lba0.
func (d *disk) mbr(lba0 []byte) error {
	d.t.Kind = "mbr"
	for i := range 4 {
		p := mbrEntry(lba0, i)
		if p.used() && p.kind() == typeLDM {
			d.dynamic()
		}
		switch {
		case !p.used():
		case p.extended():
			if err := d.extended(int64(p.start()), int64(p.sectors()), i+1); err != nil {
				return err
			}
		default:
			d.addMBR(i+1, int64(p.start()), p)
		}
	}
	return nil
}

// dynamic keeps the database of a dynamic disk of Windows, without which its
// volumes are not found. It stands behind all partitions.
func (d *disk) dynamic() {
	n := min(ldmSize/d.sector, d.sectors)
	e := d.extent(uint64(d.sectors-n), uint64(d.sectors))
	if slices.Contains(d.t.Metadata, e) {
		return // every partition of such a disk has the type
	}
	d.warn("dynamic disk of Windows: its database is in the disk's last %d bytes, where only a disk of the same size has them", e.Size)
	d.t.Metadata = append(d.t.Metadata, e)
}

func (d *disk) addMBR(number int, start int64, p mbrRecord) {
	d.add(Part{Number: number, Type: fmt.Sprintf("%02x", p.kind()),
		Start: start * d.sector, Size: int64(p.sectors()) * d.sector})
}

// extended walks the chain of EBRs in the extended partition of the given
// number, start and length in sectors. Data records are relative to their EBR,
// links to the extended partition. Logical partitions count from 5.
func (d *disk) extended(start, sectors int64, number int) error {
	seen := make(map[int64]bool)
	next, length := start, sectors
	for links := 0; ; links++ {
		switch {
		case links == maxLogical:
			return fmt.Errorf("ptable: extended partition %d: more than %d links: %w", number, maxLogical, ErrMBR)
		case seen[next]:
			return fmt.Errorf("ptable: extended partition %d: its chain comes back to sector %d: %w", number, next, ErrMBR)
		}
		seen[next] = true
		ebr, err := d.read(next, 1)
		if err != nil {
			return err
		}
		if ebr == nil {
			d.warn("extended partition %d: its chain leads to sector %d, past the disk's end", number, next)
			return nil
		}
		if !signed(ebr) {
			// An extended partition without a single logical one may be blank.
			if links > 0 {
				d.warn("extended partition %d: no EBR in sector %d, to which its chain leads", number, next)
			}
			return nil
		}
		d.meta(next, 1)
		d.logical(ebr, next, length, start+sectors)
		link := linkOf(ebr)
		if link == nil {
			return nil
		}
		next, length = start+int64(link.start()), int64(link.sectors())
	}
}

// logical adds the data partitions of the EBR in sector at, which speaks of
// length sectors of an extended partition that ends before sector end.
func (d *disk) logical(ebr []byte, at, length, end int64) {
	for i := range 4 {
		p := mbrEntry(ebr, i)
		if !p.used() || p.extended() {
			continue
		}
		from, n := int64(p.start()), int64(p.sectors())
		// Records 3 and 4 are unused by all known systems but one; what stands
		// there without making sense is no partition.
		if i >= 2 && (from+n > length || at+from+n > end) {
			continue
		}
		d.addMBR(d.nextLogical, at+from, p)
		d.nextLogical++
	}
}

func linkOf(ebr []byte) mbrRecord {
	for i := range 4 {
		if p := mbrEntry(ebr, i); p.used() && p.extended() {
			return p
		}
	}
	return nil
}
