package ntfs

import (
	"encoding/binary"
	"fmt"
)

// contradiction tells what in the filesystem does not add up.
type contradiction string

func (c contradiction) Error() string { return string(c) }

func contradict(format string, a ...any) error { return contradiction(fmt.Sprintf(format, a...)) }

// unfix puts back, in place, what the fix-ups of a record or page displaced:
// the last two bytes of every 512.
func unfix(b []byte) bool {
	at, n := int(binary.LittleEndian.Uint16(b[4:])), int(binary.LittleEndian.Uint16(b[6:]))
	if n != len(b)/fixupEvery+1 || at%2 != 0 || at+2*n > fixupEvery-2 {
		return false
	}
	for i := 1; i < n; i++ {
		end := b[i*fixupEvery-2 : i*fixupEvery]
		if end[0] != b[at] || end[1] != b[at+1] {
			return false
		}
		copy(end, b[at+2*i:at+2*i+2])
	}
	return true
}

// record is a record of the MFT, without fix-ups.
type record []byte

func (r record) u16(at int) int    { return int(binary.LittleEndian.Uint16(r[at:])) }
func (r record) magic() string     { return string(r[:4]) }
func (r record) inUse() bool       { return r.u16(22)&1 != 0 }
func (r record) used() int64       { return int64(binary.LittleEndian.Uint32(r[24:])) }
func (r record) base() int64       { return reference(r[32:]) }
func (r record) attributesAt() int { return r.u16(20) }

// reference returns the record's number that b begins with; the upper 16 bits
// are a sequence number.
func reference(b []byte) int64 { return int64(binary.LittleEndian.Uint64(b) & (1<<48 - 1)) }

// attribute kinds.
const (
	attrList        = 0x20
	attrFileName    = 0x30
	attrVolumeName  = 0x60
	attrVolumeInfo  = 0x70
	attrData        = 0x80
	attrEnd         = 0xffffffff
	residentHeader  = 24
	scatteredHeader = 64
)

// attribute is one of a record's, its header checked.
type attribute []byte

func (a attribute) u16(at int) int    { return int(binary.LittleEndian.Uint16(a[at:])) }
func (a attribute) u32(at int) int64  { return int64(binary.LittleEndian.Uint32(a[at:])) }
func (a attribute) u64(at int) uint64 { return binary.LittleEndian.Uint64(a[at:]) }

func (a attribute) kind() uint32    { return uint32(a.u32(0)) }
func (a attribute) scattered() bool { return a[8] != 0 }
func (a attribute) first() int64    { return int64(a.u64(16)) } // cluster of the value
func (a attribute) last() int64     { return int64(a.u64(24)) }
func (a attribute) mapping() int    { return a.u16(32) }

// size and written are the value's; only a value's first part has them.
func (a attribute) size() int64    { return int64(a.u64(48)) }
func (a attribute) written() int64 { return int64(a.u64(56)) }

// unnamed tells whether it is the attribute of its kind that has no name.
func (a attribute) unnamed() bool { return a[9] == 0 }

// value returns what an attribute that is not scattered holds.
func (a attribute) value() []byte {
	at := a.u16(20)
	return a[at : at+int(a.u32(16))]
}

func (a attribute) valid() bool {
	if a.scattered() {
		return len(a) >= scatteredHeader && a.mapping() >= scatteredHeader && a.mapping() <= len(a) &&
			a.first() >= 0 && a.last() >= a.first()-1 && a.last() < 1<<62
	}
	return len(a) >= residentHeader && int64(a.u16(20))+a.u32(16) <= int64(len(a))
}

// each calls f for every attribute of record number n.
func (r record) each(n int64, f func(attribute) error) error {
	b := r[:min(int64(len(r)), r.used())]
	for at := r.attributesAt(); ; {
		if at < 42 || at%8 != 0 || at+4 > len(b) {
			return contradict("the attributes of MFT record %d end nowhere", n)
		}
		if binary.LittleEndian.Uint32(b[at:]) == attrEnd {
			return nil
		}
		if at+16 > len(b) {
			return contradict("the attributes of MFT record %d end nowhere", n)
		}
		length := int64(binary.LittleEndian.Uint32(b[at+4:]))
		if length < 16 || length > int64(len(b)-at) {
			return contradict("MFT record %d has an attribute of %d bytes", n, length)
		}
		a := attribute(b[at : at+int(length)])
		if !a.valid() {
			return contradict("an attribute of MFT record %d makes no sense", n)
		}
		if err := f(a); err != nil {
			return err
		}
		at += int(length)
	}
}

// runs calls f for every run of a scattered attribute of record n: count
// clusters from number at on, which is -1 for a hole.
func (g *geometry) runs(n int64, a attribute, f func(at, count int64) error) error {
	b := a[a.mapping():]
	at, total := int64(0), int64(0)
	for len(b) > 0 && b[0] != 0 {
		nl, no := int(b[0]&0xf), int(b[0]>>4)
		if nl == 0 || nl > 8 || no > 8 || 1+nl+no > len(b) {
			return contradict("a run list of MFT record %d cannot be read", n)
		}
		count, place := signed(b[1:1+nl]), int64(-1)
		if no > 0 {
			at += signed(b[1+nl : 1+nl+no])
			place = at
			if at < 0 || at >= g.clusters || count > g.clusters-at {
				return contradict("MFT record %d has clusters %d+%d of %d", n, at, count, g.clusters)
			}
		}
		if count <= 0 || count > a.last()-a.first()+1-total {
			return contradict("a run list of MFT record %d does not fit its attribute", n)
		}
		total += count
		if err := f(place, count); err != nil {
			return err
		}
		b = b[1+nl+no:]
	}
	if total != a.last()-a.first()+1 {
		return contradict("a run list of MFT record %d ends after %d clusters of %d", n, total, a.last()-a.first()+1)
	}
	return nil
}

// signed reads a little-endian number of 1 to 8 bytes.
func signed(b []byte) int64 {
	var v [8]byte
	copy(v[:], b)
	shift := 64 - 8*len(b)
	return int64(binary.LittleEndian.Uint64(v[:])) << shift >> shift
}
