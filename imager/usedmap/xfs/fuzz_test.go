package xfs

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"

	"huck/imager/usedmap/internal/probetest"
)

// places finds the headers, the free-space btrees and the log.
func places(b []byte) []probetest.Place {
	s := super(b[:minSector])
	sector, block := int(s.sectorSize()), int(s.blockSize())
	var all []probetest.Place
	for at := 0; at < len(b); at += sector {
		crc, n := -1, sector
		switch string(b[at : at+4]) {
		case "XFSB":
			crc = superCRC
		case "XAGF":
			crc = agfCRC
		case "XAGI":
			crc = agiCRC
		case "XAFL":
			crc = agflCRC
		case "ABTB", "ABTC", "AB3B", "AB3C":
			crc, n = treeCRC, block
		default:
			continue
		}
		p := probetest.Place{At: at, Len: n}
		if crc >= 0 && s.hasChecksums() {
			p.Fix = func(b []byte) { binary.LittleEndian.PutUint32(b[crc:], checksum(b, crc)) }
		}
		all = append(all, p)
	}
	group := int(s.logStart() >> s.agBlockLog())
	at := int(s.logStart()) - group<<s.agBlockLog() + group*int(s.agBlocks())
	return append(all, probetest.Place{At: at * block, Len: 4 * logBlock}, probetest.Place{At: (at+int(s.logBlocks()))*block - logBlock, Len: logBlock})
}

// TestImages takes the filesystems in testdata. They were made by mkfs.xfs 6.1
// from many small files, of which xfs_repair dropped some.
func TestImages(t *testing.T) {
	for _, img := range probetest.Images(t, os.DirFS("testdata")) {
		size := int64(len(img.Bytes))
		res, err := Probe(bytes.NewReader(img.Bytes), size)
		if err != nil || res == nil || res.Used == nil || res.Used.Bytes() > size*2/3 {
			t.Errorf("%s: %+v, error %v", img.Name, res, err)
		}
		probetest.CheckFixed(t, img, places(img.Bytes))
	}
}

// FuzzProbe changes bytes of sound filesystems where Probe looks.
func FuzzProbe(f *testing.F) {
	all := probetest.Images(f, os.DirFS("testdata"))
	var where [][]probetest.Place
	for i, img := range all {
		where = append(where, places(img.Bytes))
		f.Add(byte(i), true, []byte{0, 0, 84, 1, 0, 0, 8, 3})
		f.Add(byte(i), true, []byte{1, 0, 16, 8, 1, 0, 31, 2, 4, 0, 60, 1})
		f.Add(byte(i), false, []byte{255, 0, 2, 0})
	}
	f.Fuzz(func(t *testing.T, base byte, fix bool, changes []byte) {
		i := int(base) % len(all)
		p := probetest.NewPatched(all[i].Bytes, where[i], changes, fix)
		size := int64(len(all[i].Bytes))
		res, err := Probe(p, size)
		probetest.Check(t, size, res, err)
	})
}
