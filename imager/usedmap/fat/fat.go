// Package fat finds the used clusters of FAT12, FAT16 and FAT32 filesystems,
// after Microsoft's FAT specification 1.03; where Linux reads it otherwise, as
// Linux does.
package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"huck/imager/usedmap/internal/probe"
)

// Probe finds the used sectors of the FAT filesystem in r, size bytes long:
// everything before the first cluster, and all clusters that are neither free
// nor marked bad. The result is nil if there is no FAT filesystem. Errors are
// those of reading; the result, if not nil, is valid beside one.
//
// A filesystem that was not unmounted is only warned of: its table is always
// as current as its data, and EFI system partitions are often left so.
func Probe(r io.ReaderAt, size int64) (*probe.Result, error) {
	if size < 512 {
		return nil, nil
	}
	b := make(boot, 512)
	if err := probe.Read(r, b, 0); err != nil {
		return nil, err
	}
	v, err := newVolume(b)
	if v == nil {
		return nil, nil
	}
	res := &probe.Result{Content: "vfat"}
	res.UUID, res.Label = b.names(v.bits == 32)
	if err != nil {
		return res.TakeWhole("its boot sector makes no sense: %v", err), nil
	}
	if v.end() > size {
		return res.TakeWhole("it has %d bytes, the partition %d", v.end(), size), nil
	}
	used, err := v.used(r, res)
	var c contradiction
	if errors.As(err, &c) {
		return res.TakeWhole("%s", string(c)), nil
	}
	if err != nil {
		return res, err
	}
	res.Used = used
	res.EndsAt(v.end(), size)
	return res, nil
}

// contradiction tells what in the filesystem does not add up.
type contradiction string

func (c contradiction) Error() string { return string(c) }

// boot is the boot sector (specification, section 3.1 to 3.3).
type boot []byte

func (b boot) u16(at int) int64 { return int64(binary.LittleEndian.Uint16(b[at:])) }
func (b boot) u32(at int) int64 { return int64(binary.LittleEndian.Uint32(b[at:])) }

func (b boot) sectorSize() int64  { return b.u16(11) }
func (b boot) perCluster() int64  { return int64(b[13]) }
func (b boot) reserved() int64    { return b.u16(14) }
func (b boot) fats() int64        { return int64(b[16]) }
func (b boot) rootEntries() int64 { return b.u16(17) }
func (b boot) media() byte        { return b[21] }
func (b boot) flags() int64       { return b.u16(40) } // FAT32

func (b boot) sectors() int64 {
	if n := b.u16(19); n != 0 {
		return n
	}
	return b.u32(32)
}

func (b boot) fatSectors() int64 {
	if n := b.u16(22); n != 0 {
		return n
	}
	return b.u32(36)
}

// isFAT tells a FAT boot sector from others by the fields that mount checks.
func (b boot) isFAT() bool {
	power := func(n int64) bool { return n > 0 && n&(n-1) == 0 }
	name := string(b[3:11])
	return b[510] == 0x55 && b[511] == 0xaa && (b[0] == 0xeb || b[0] == 0xe9) &&
		name != "NTFS    " && name != "EXFAT   " && name != "-FVE-FS-" &&
		power(b.sectorSize()) && b.sectorSize() >= 512 && b.sectorSize() <= 4096 && power(b.perCluster()) &&
		b.reserved() != 0 && b.fats() != 0 && (b.media() == 0xf0 || b.media() >= 0xf8)
}

// names returns the volume's serial number, as blkid prints it, and its label.
func (b boot) names(fat32 bool) (uuid, label string) {
	at := 38
	if fat32 {
		at = 66
	}
	if b[at] != 0x29 {
		return "", ""
	}
	n := b.u32(at + 1)
	label = string(bytes.TrimRight(b[at+5:at+16], " \x00"))
	if label == "NO NAME" {
		label = ""
	}
	return fmt.Sprintf("%04X-%04X", n>>16, n&0xffff), label
}

// volume is the filesystem's shape, checked.
type volume struct {
	boot
	bits     int   // of a table entry: 12, 16 or 32
	clusters int64 // number of clusters; the first one is number 2
	dataAt   int64 // byte offset of cluster 2
}

// newVolume returns nil if b is no FAT boot sector and an error if it is one
// that cannot be right.
func newVolume(b boot) (*volume, error) {
	if !b.isFAT() {
		return nil, nil
	}
	v := &volume{boot: b, bits: 16}
	if b.u16(22) == 0 {
		v.bits = 32
	}
	root := (b.rootEntries()*32 + b.sectorSize() - 1) / b.sectorSize()
	first := b.reserved() + b.fats()*b.fatSectors() + root
	if b.fatSectors() == 0 || first >= b.sectors() {
		return v, fmt.Errorf("its data begins at sector %d of %d", first, b.sectors())
	}
	v.dataAt = first * b.sectorSize()
	v.clusters = (b.sectors() - first) / b.perCluster()
	if v.bits == 16 && v.clusters < 4085 {
		v.bits = 12
	}
	limit := int64(1)<<min(v.bits, 28) - 9 // the numbers from here on mark bad clusters and chain ends
	if room := b.fatSectors() * b.sectorSize() * 8 / int64(v.bits); v.clusters == 0 || v.clusters+2 > min(limit, room) {
		return v, fmt.Errorf("%d clusters, a FAT%d table of %d entries", v.clusters, v.bits, room)
	}
	return v, nil
}

func (v *volume) end() int64         { return v.sectors() * v.sectorSize() }
func (v *volume) clusterSize() int64 { return v.perCluster() * v.sectorSize() }

// tables returns which tables count, all others being left behind: FAT32 can
// switch mirroring off.
func (v *volume) tables() (first, n int64, err error) {
	if v.bits != 32 || v.flags()&0x80 == 0 {
		return 0, v.fats(), nil
	}
	active := v.flags() & 0xf
	if active >= v.fats() {
		return 0, 0, contradiction(fmt.Sprintf("table %d of %d is the active one", active, v.fats()))
	}
	return active, 1, nil
}

// piece is how much of a table is read at once: a multiple of 3, so that no
// 12-bit entry is cut, and of 4.
const piece = 3 << 18

// used reads the table, compares its copies and collects the used bytes.
func (v *volume) used(r io.ReaderAt, res *probe.Result) (*probe.Set, error) {
	first, n, err := v.tables()
	if err != nil {
		return nil, err
	}
	set := new(probe.Set)
	set.Add(0, v.dataAt)
	size := v.fatSectors() * v.sectorSize()
	length := min(size, ((v.clusters+2)*int64(v.bits)+7)/8)
	b, other := make([]byte, min(piece, length)), make([]byte, min(piece, length))
	for at := int64(0); at < length; at += piece {
		b, other := b[:min(piece, length-at)], other[:min(piece, length-at)]
		table := v.reserved()*v.sectorSize() + first*size + at
		if err := probe.Read(r, b, table); err != nil {
			return nil, err
		}
		for i := int64(1); i < n; i++ {
			if err := probe.Read(r, other, table+i*size); err != nil {
				return nil, err
			}
			if !bytes.Equal(b, other) {
				return nil, contradiction(fmt.Sprintf("copies 1 and %d of its table disagree", i+1))
			}
		}
		if at == 0 {
			v.checkClean(b, res)
		}
		v.add(set, b, at*8/int64(v.bits))
	}
	return set, nil
}

// checkClean warns of a filesystem that is in use or was not unmounted: a bit
// of the second table entry (specification, section 4.2) or, as Linux does it,
// of the boot sector.
func (v *volume) checkClean(table []byte, res *probe.Result) {
	state, clean := v.boot[37], true
	switch v.bits {
	case 16:
		clean = entry(table, 16, 1)&0x8000 != 0
	case 32:
		state, clean = v.boot[65], binary.LittleEndian.Uint32(table[4:])&0x08000000 != 0
	}
	if state&1 != 0 || !clean {
		res.Dirty = "it is mounted or was not unmounted cleanly"
		res.Warn("the FAT filesystem is mounted or was not unmounted cleanly")
	}
}

// add adds the clusters that the entries of table, from number first on, mark
// as used.
func (v *volume) add(set *probe.Set, table []byte, first int64) {
	n := min(int64(len(table))*8/int64(v.bits), v.clusters+2-first)
	bad := uint32(1)<<min(v.bits, 28) - 9 // 0xff7, 0xfff7, 0x0ffffff7
	for i := range n {
		e := entry(table, v.bits, i)
		if c := first + i - 2; c >= 0 && e != 0 && e != bad {
			set.Add(v.dataAt+c*v.clusterSize(), v.clusterSize())
		}
	}
}

// entry returns entry i of a table; of the 32 bits of FAT32 only 28 count.
func entry(table []byte, width int, i int64) uint32 {
	switch width {
	case 12:
		b := table[i*3/2:]
		return uint32(binary.LittleEndian.Uint16(b)) >> (4 * (i & 1)) & 0xfff
	case 16:
		return uint32(binary.LittleEndian.Uint16(table[i*2:]))
	}
	return binary.LittleEndian.Uint32(table[i*4:]) & 0x0fffffff
}
