package ntfs

import (
	"encoding/binary"
	"fmt"
)

const (
	bootSize = 512
	// bootFile is how much the boot code may use: the file $Boot.
	bootFile = 8 << 10
	// fixupEvery is the stride of the fix-ups in records, whatever the sectors.
	fixupEvery = 512
)

// boot is the boot sector.
type boot []byte

func (b boot) u16(at int) int64 { return int64(binary.LittleEndian.Uint16(b[at:])) }
func (b boot) u64(at int) uint64 {
	return binary.LittleEndian.Uint64(b[at:])
}

func (b boot) isNTFS() bool {
	return string(b[3:11]) == "NTFS    "
}

// uuid prints the serial number as blkid does.
func (b boot) uuid() string { return fmt.Sprintf("%016X", b.u64(72)) }

// perCluster returns the sectors in a cluster: large numbers are negative
// powers of two.
func (b boot) perCluster() int64 {
	if n := b[13]; n > 0x80 {
		return 1 << min(62, 256-int64(n))
	}
	return int64(b[13])
}

// geometry is the filesystem's shape, checked.
type geometry struct {
	sector   int64 // bytes: 256 to 4096
	sectors  int64 // number of them; the backup boot sector follows
	cluster  int64 // bytes: up to 2 MiB
	clusters int64 // number of them
	record   int64 // bytes of a record of the MFT: 512 to 65536
	mft      int64 // byte offset of the MFT's first record
}

// newGeometry checks the boot sector of a filesystem in size bytes.
func newGeometry(b boot, size int64) (*geometry, error) {
	g := &geometry{sector: b.u16(11)}
	power := func(n, least, most int64) bool { return n&(n-1) == 0 && n >= least && n <= most }
	switch per := b.perCluster(); {
	case b[510] != 0x55 || b[511] != 0xaa:
		return nil, fmt.Errorf("its signature is %x", b[510:512])
	case !power(g.sector, 256, 4096):
		return nil, fmt.Errorf("sectors of %d bytes", g.sector)
	case !power(per, 1, 2<<20/g.sector):
		return nil, fmt.Errorf("clusters of %d sectors", per)
	case b.u64(40) > uint64(size/g.sector):
		return nil, fmt.Errorf("%d sectors of %d bytes, the partition has %d bytes", b.u64(40), g.sector, size)
	default:
		g.cluster = per * g.sector
	}
	g.sectors = int64(b.u64(40))
	g.clusters = g.sectors * g.sector / g.cluster
	g.record = int64(int8(b[64])) * g.cluster
	if n := int8(b[64]); n < 0 {
		g.record = 1 << min(62, -int64(n))
	}
	if !power(g.record, fixupEvery, 64<<10) {
		return nil, fmt.Errorf("MFT records of %d bytes", g.record)
	}
	if at := b.u64(48); at == 0 || at >= uint64(g.clusters) || g.clusters*g.cluster-int64(at)*g.cluster < g.record {
		return nil, fmt.Errorf("its MFT in cluster %d of %d", at, g.clusters)
	}
	g.mft = int64(b.u64(48)) * g.cluster
	return g, nil
}
