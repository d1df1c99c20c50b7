package xfs

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// image is a sound filesystem and where Probe looks in it.
type image struct {
	name   string
	b      []byte
	places []place
}

// place is a piece of metadata.
type place struct{ at, len, crc int } // crc < 0: it has no checksum

// images returns the filesystems in testdata. They were made by mkfs.xfs 6.1
// from many small files, of which xfs_repair dropped some.
func images(t testing.TB) []image {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.img.gz")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d images, error %v", len(paths), err)
	}
	var all []image
	for _, p := range paths {
		z, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		r, err := gzip.NewReader(bytes.NewReader(z))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, image{filepath.Base(p), b, places(b)})
	}
	return all
}

// places finds the headers, the free-space btrees and the log.
func places(b []byte) []place {
	s := super(b[:minSector])
	sector, block := int(s.sectorSize()), int(s.blockSize())
	var all []place
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
		if !s.hasChecksums() {
			crc = -1
		}
		all = append(all, place{at, n, crc})
	}
	group := int(s.logStart() >> s.agBlockLog())
	at := int(s.logStart()) - group<<s.agBlockLog() + group*int(s.agBlocks())
	return append(all, place{at * block, 4 * logBlock, -1}, place{(at+int(s.logBlocks()))*block - logBlock, logBlock, -1})
}

// patched is an image with some of its places changed.
type patched struct {
	image
	changed map[int][]byte // by number of the place
}

func (p patched) ReadAt(b []byte, at int64) (int, error) {
	n, err := bytes.NewReader(p.b).ReadAt(b, at)
	for i, c := range p.changed {
		from, to := max(p.places[i].at, int(at)), min(p.places[i].at+len(c), int(at)+n)
		if from < to {
			copy(b[from-int(at):], c[from-p.places[i].at:to-p.places[i].at])
		}
	}
	return n, err
}

// apply changes bytes: changes is a list of a place, a two-byte offset in it
// and a new value each.
func (p patched) apply(changes []byte, fix bool) {
	for ; len(changes) >= 4; changes = changes[4:] {
		i := int(changes[0]) % len(p.places)
		pl := p.places[i]
		if p.changed[i] == nil {
			p.changed[i] = bytes.Clone(p.b[pl.at : pl.at+pl.len])
		}
		p.changed[i][int(binary.BigEndian.Uint16(changes[1:]))%pl.len] = changes[3]
	}
	for i, c := range p.changed {
		if crc := p.places[i].crc; fix && crc >= 0 {
			binary.LittleEndian.PutUint32(c[crc:], checksum(c, crc))
		}
	}
}

func TestImages(t *testing.T) {
	for _, img := range images(t) {
		res, err := Probe(bytes.NewReader(img.b), int64(len(img.b)))
		if err != nil || res == nil || res.Used == nil || res.Used.Bytes() > int64(len(img.b))*2/3 {
			t.Errorf("%s: %+v, error %v", img.name, res, err)
		}
		for _, p := range img.places {
			if b := img.b[p.at : p.at+p.len]; p.crc >= 0 && checksum(b, p.crc) != binary.LittleEndian.Uint32(b[p.crc:]) {
				t.Errorf("%s: wrong checksum at %d", img.name, p.at)
			}
		}
	}
}

// FuzzProbe changes bytes of sound filesystems where Probe looks.
func FuzzProbe(f *testing.F) {
	all := images(f)
	for i := range all {
		f.Add(byte(i), true, []byte{0, 0, 84, 1, 0, 0, 8, 3})
		f.Add(byte(i), true, []byte{1, 0, 16, 8, 1, 0, 31, 2, 4, 0, 60, 1})
		f.Add(byte(i), false, []byte{255, 0, 2, 0})
	}
	f.Fuzz(func(t *testing.T, base byte, fix bool, changes []byte) {
		p := patched{all[int(base)%len(all)], map[int][]byte{}}
		p.apply(changes, fix)
		size := int64(len(p.b))
		res, err := Probe(p, size)
		if res == nil {
			return
		}
		if (res.Used == nil) != (res.Whole != "") || err != nil && res.Used != nil {
			t.Fatalf("%+v, error %v", res, err)
		}
		if res.Used == nil {
			return
		}
		for off, n := range res.Used.All() {
			if off < 0 || n <= 0 || off+n > size {
				t.Fatalf("range %d+%d of %d", off, n, size)
			}
		}
	})
}
