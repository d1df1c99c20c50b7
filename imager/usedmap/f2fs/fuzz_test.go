package f2fs

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"

	"huck/imager/usedmap/internal/probetest"
)

// places finds the superblock, the blocks of both checkpoints, the first blocks
// of both copies of the SIT and the block for the next node.
func places(t testing.TB, b []byte) []probetest.Place {
	t.Helper()
	s := super(b[superOffset : superOffset+superSize])
	all := []probetest.Place{{At: superOffset, Len: superSize}}
	if s.features()&featureSuperCRC != 0 {
		all[0].Fix = fixSuper
	}
	v := &volume{s, bytes.NewReader(b)}
	for i := range int64(2) {
		c := checkpoint{b: b[(s.cp()+i*segBlocks)*blockSize:], at: s.cp() + i*segBlocks}
		for j := range c.blocks() {
			p := probetest.Place{At: int(c.at+j) * blockSize, Len: blockSize}
			if j == 0 || j == c.blocks()-1 {
				p.Fix = fixCheckpoint
			}
			all = append(all, p)
		}
		all = append(all, probetest.Place{At: int(s.sit()+i*s.sitSegs()/2*segBlocks) * blockSize, Len: blockSize})
	}
	c, err := v.checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	return append(all, probetest.Place{At: int(v.nextNode(c)) * blockSize, Len: blockSize})
}

// fixSuper and fixCheckpoint set checksums right.
func fixSuper(b []byte) {
	binary.LittleEndian.PutUint32(b[superCRC:], crc(superMagic, b[:superCRC]))
}

func fixCheckpoint(b []byte) {
	if at := (checkpoint{b: b}).crcAt(); at >= bitmapsAt && at <= lastCRC {
		binary.LittleEndian.PutUint32(b[at:], checksum(b, at))
	}
}

// TestImages takes the filesystems in testdata: "normal" is by mkfs.f2fs and
// sload.f2fs 1.15, which does not compact the summaries; Linux 6.18 wrote to and
// deleted from the others. "synced" was mounted again and not unmounted.
func TestImages(t *testing.T) {
	for _, img := range probetest.Images(t, os.DirFS("testdata")) {
		res, err := Probe(bytes.NewReader(img.Bytes), int64(len(img.Bytes)))
		if synced := img.Name == "synced"; res == nil || synced != (err != nil) || synced != (res.Used == nil) {
			t.Errorf("%s: %+v, error %v", img.Name, res, err)
		}
		probetest.CheckFixed(t, img, places(t, img.Bytes))
	}
}

// FuzzProbe changes bytes of sound filesystems where Probe looks.
func FuzzProbe(f *testing.F) {
	all := probetest.Images(f, os.DirFS("testdata"))
	var where [][]probetest.Place
	for i, img := range all {
		where = append(where, places(f, img.Bytes))
		f.Add(byte(i), true, []byte{0, 0, 68, 1, 0, 0, 95, 3})
		f.Add(byte(i), true, []byte{1, 0, 32, 8, 1, 0, 156, 2, 4, 0, 60, 1})
		f.Add(byte(i), false, []byte{2, 1, 251, 7, 3, 14, 0, 7})
	}
	f.Fuzz(func(t *testing.T, base byte, fix bool, changes []byte) {
		i := int(base) % len(all)
		p := probetest.NewPatched(all[i].Bytes, where[i], changes, fix)
		size := int64(len(all[i].Bytes))
		res, err := Probe(p, size)
		probetest.Check(t, size, res, err)
	})
}

// TestReadErrors has each place that is looked at unreadable: superblock, two
// checkpoints of two blocks, summary, SIT and the next node.
func TestReadErrors(t *testing.T) {
	img := probetest.Images(t, os.DirFS("testdata"))[0]
	probetest.ReadErrors(t, img, places(t, img.Bytes), 8, Probe)
}
