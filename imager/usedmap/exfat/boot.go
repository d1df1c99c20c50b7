package exfat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"huck/imager/usedmap/internal/probe"
)

// A boot region has 12 sectors, the last of which repeats the checksum of the
// others; a copy of the region follows (specification, section 2).
const regionSectors = 12

// boot is the boot sector (specification, section 3.1).
type boot []byte

func (b boot) u32(at int) int64  { return int64(binary.LittleEndian.Uint32(b[at:])) }
func (b boot) u64(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }

func (b boot) isExFAT() bool     { return string(b[3:11]) == "EXFAT   " }
func (b boot) sectors() uint64   { return b.u64(72) }
func (b boot) fatAt() int64      { return b.u32(80) } // sectors
func (b boot) fatLength() int64  { return b.u32(84) } // sectors
func (b boot) heapAt() int64     { return b.u32(88) } // sectors
func (b boot) clusters() int64   { return b.u32(92) }
func (b boot) root() int64       { return b.u32(96) } // cluster
func (b boot) revision() byte    { return b[105] }    // the major one
func (b boot) dirty() bool       { return b[106]&2 != 0 }
func (b boot) sectorShift() byte { return b[108] }
func (b boot) shift() byte       { return b[109] } // sectors in a cluster
func (b boot) fats() int64       { return int64(b[110]) }

// uuid prints the serial number as blkid does.
func (b boot) uuid() string { return fmt.Sprintf("%04X-%04X", b.u32(100)>>16, b.u32(100)&0xffff) }

// geometry is the filesystem's shape, checked.
type geometry struct {
	boot
	sector  int64 // bytes: 512 to 4096
	cluster int64 // bytes: up to 32 MiB
	fat     int64 // byte offset of the first table
	fatSize int64 // bytes of a table
	heap    int64 // byte offset of cluster 2, the first
	end     int64 // bytes of the filesystem
}

// newGeometry checks the boot sector of a filesystem in size bytes.
func newGeometry(b boot, size int64) (*geometry, error) {
	switch {
	case b[510] != 0x55 || b[511] != 0xaa:
		return nil, fmt.Errorf("its signature is %x", b[510:512])
	case len(bytes.Trim(b[11:64], "\x00")) != 0:
		return nil, fmt.Errorf("it has FAT's fields")
	case b.revision() != 1:
		return nil, fmt.Errorf("its revision is %d.%d", b.revision(), b[104])
	case b.sectorShift() < 9 || b.sectorShift() > 12 || b.shift() > 25-b.sectorShift():
		return nil, fmt.Errorf("sectors of 2^%d bytes, 2^%d of them in a cluster", b.sectorShift(), b.shift())
	case b.fats() != 1 && b.fats() != 2:
		return nil, fmt.Errorf("%d tables", b.fats())
	}
	g := &geometry{boot: b, sector: 1 << b.sectorShift()}
	if b.sectors() > uint64(size/g.sector) {
		return nil, fmt.Errorf("%d sectors of %d bytes, the partition has %d bytes", b.sectors(), g.sector, size)
	}
	g.cluster, g.end = g.sector<<b.shift(), int64(b.sectors())*g.sector
	g.fat, g.fatSize, g.heap = b.fatAt()*g.sector, b.fatLength()*g.sector, b.heapAt()*g.sector
	switch {
	case b.fatAt() < 2*regionSectors || g.fatSize < 4*(b.clusters()+2) || g.heap < g.fat+b.fats()*g.fatSize:
		return nil, fmt.Errorf("%d tables of %d sectors from sector %d on, %d clusters from sector %d on", b.fats(), b.fatLength(), b.fatAt(), b.clusters(), b.heapAt())
	case b.clusters() > 1<<32-11 || g.heap+b.clusters()*g.cluster > g.end:
		return nil, fmt.Errorf("%d clusters of %d bytes from sector %d on, %d sectors in all", b.clusters(), g.cluster, b.heapAt(), b.sectors())
	case !g.valid(b.root()):
		return nil, fmt.Errorf("its root in cluster %d of %d", b.root(), b.clusters())
	}
	return g, nil
}

// valid tells whether a cluster of number c is there.
func (g *geometry) valid(c int64) bool { return c >= 2 && c < g.clusters()+2 }

// offset returns where cluster c lies, in bytes.
func (g *geometry) offset(c int64) int64 { return g.heap + (c-2)*g.cluster }

// verify compares the boot region with its checksum (specification, section
// 3.4); the copy does not count.
func (g *geometry) verify(r io.ReaderAt) error {
	b := make([]byte, regionSectors*g.sector)
	if err := probe.Read(r, b, 0); err != nil {
		return err
	}
	sums := b[(regionSectors-1)*g.sector:]
	var sum uint32
	for i, c := range b[:(regionSectors-1)*g.sector] {
		if i == 106 || i == 107 || i == 112 { // flags and percentage change
			continue
		}
		sum = sum>>1 | sum<<31
		sum += uint32(c)
	}
	for ; len(sums) > 0; sums = sums[4:] {
		if want := binary.LittleEndian.Uint32(sums); want != sum {
			return contradict("its boot region has checksum %08x, its bytes give %08x", want, sum)
		}
	}
	return nil
}
