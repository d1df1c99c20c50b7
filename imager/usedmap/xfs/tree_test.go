package xfs

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"huck/imager/usedmap/internal/probe"
	"huck/imager/usedmap/internal/probetest"
)

// endless is a version 4 filesystem in which each block is the node of a btree,
// full of ascending entries, at the level that its number gives.
type endless struct{ blockSize int }

func (e endless) ReadAt(b []byte, at int64) (int, error) {
	n := at / int64(e.blockSize)
	most := (e.blockSize - 16) / 12
	copy(b, "ABTB")
	level := 2
	if n > 100 {
		level = 1
	}
	binary.BigEndian.PutUint16(b[4:], uint16(level))
	binary.BigEndian.PutUint16(b[6:], uint16(most))
	for i := range most {
		binary.BigEndian.PutUint32(b[16+8*i:], uint32(n)*uint32(most)+uint32(i))
		binary.BigEndian.PutUint32(b[16+8*most+4*i:], uint32(101+i))
	}
	return len(b), nil
}

// TestTreeTooLarge has a btree that points to 30 million leaves.
func TestTreeTooLarge(t *testing.T) {
	s := super(make([]byte, minSector))
	binary.BigEndian.PutUint32(s[4:], 65536)
	binary.BigEndian.PutUint32(s[84:], 1<<24) // blocks in a group
	binary.BigEndian.PutUint16(s[100:], 4)
	g := &geometry{super: s, count: 1 << 24, headers: 1}
	a := &group{geometry: g, r: endless{65536}, known: new(probe.Set)}
	tr := &tree{group: a, name: "btree", magic: a.magic("ABTB", "AB3B"), root: 7, levels: 3}
	err := tr.descend()
	if !errors.As(err, new(contradiction)) || !strings.Contains(err.Error(), "of more than 262144 blocks") {
		t.Error(err)
	}
}

// TestReadErrors has each place that is looked at unreadable: superblock, AGF,
// AGI, two btrees and the log.
func TestReadErrors(t *testing.T) {
	for _, img := range probetest.Images(t, os.DirFS("testdata")) {
		probetest.ReadErrors(t, img, places(img.Bytes), 6, Probe)
	}
}
