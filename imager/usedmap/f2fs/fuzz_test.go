package f2fs

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// image is a sound filesystem and where Probe looks in it.
type image struct {
	name   string
	b      []byte
	places []place
}

// place is a piece of metadata: the superblock, of superSize bytes, or a block.
type place struct {
	at, len int
	crc     bool // it has a checksum
}

// images returns the filesystems in testdata: "normal" is by mkfs.f2fs and
// sload.f2fs 1.15, which does not compact the summaries; Linux 6.18 wrote to and
// deleted from the others. "synced" was mounted again and not unmounted.
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
		all = append(all, image{filepath.Base(p), b, places(t, b)})
	}
	return all
}

// places finds the superblock, the blocks of both checkpoints, the first blocks
// of both copies of the SIT and the block for the next node.
func places(t testing.TB, b []byte) []place {
	t.Helper()
	s := super(b[superOffset : superOffset+superSize])
	all := []place{{superOffset, superSize, s.features()&featureSuperCRC != 0}}
	v := &volume{s, bytes.NewReader(b)}
	for i := range int64(2) {
		c := checkpoint{b: b[(s.cp()+i*segBlocks)*blockSize:], at: s.cp() + i*segBlocks}
		for j := range c.blocks() {
			all = append(all, place{int(c.at+j) * blockSize, blockSize, j == 0 || j == c.blocks()-1})
		}
		all = append(all, place{int(s.sit()+i*s.sitSegs()/2*segBlocks) * blockSize, blockSize, false})
	}
	c, err := v.checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	return append(all, place{int(v.nextNode(c)) * blockSize, blockSize, false})
}

// fix sets the checksum in a place right, as far as it has sense.
func (p place) fix(b []byte) {
	switch {
	case !p.crc:
	case p.len == superSize:
		binary.LittleEndian.PutUint32(b[superCRC:], crc(superMagic, b[:superCRC]))
	default:
		if at := (checkpoint{b: b}).crcAt(); at >= bitmapsAt && at <= lastCRC {
			binary.LittleEndian.PutUint32(b[at:], checksum(b, at))
		}
	}
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
		if fix {
			p.places[i].fix(c)
		}
	}
}

func TestImages(t *testing.T) {
	for _, img := range images(t) {
		res, err := Probe(bytes.NewReader(img.b), int64(len(img.b)))
		if synced := strings.HasPrefix(img.name, "synced"); res == nil || synced != (err != nil) || synced != (res.Used == nil) {
			t.Errorf("%s: %+v, error %v", img.name, res, err)
		}
		for _, p := range img.places {
			b := bytes.Clone(img.b[p.at : p.at+p.len])
			if p.fix(b); !bytes.Equal(b, img.b[p.at:p.at+p.len]) {
				t.Errorf("%s: wrong checksum at %d", img.name, p.at)
			}
		}
	}
}

// FuzzProbe changes bytes of sound filesystems where Probe looks.
func FuzzProbe(f *testing.F) {
	all := images(f)
	for i := range all {
		f.Add(byte(i), true, []byte{0, 0, 68, 1, 0, 0, 95, 3})
		f.Add(byte(i), true, []byte{1, 0, 32, 8, 1, 0, 156, 2, 4, 0, 60, 1})
		f.Add(byte(i), false, []byte{2, 1, 251, 7, 3, 14, 0, 7})
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

// broken is an image with an unreadable byte.
type broken struct {
	io.ReaderAt
	at int
}

func (r broken) ReadAt(b []byte, at int64) (int, error) {
	if int(at) <= r.at && r.at < int(at)+len(b) {
		return 0, io.ErrClosedPipe
	}
	return r.ReaderAt.ReadAt(b, at)
}

// TestReadErrors has each place that is looked at unreadable.
func TestReadErrors(t *testing.T) {
	img := images(t)[0]
	failed := 0
	for _, p := range img.places {
		res, err := Probe(broken{patched{image: img}, p.at}, int64(len(img.b)))
		if err != nil {
			failed++
		}
		if (err == nil) != (res != nil && res.Used != nil) || err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("at %d: %+v, error %v", p.at, res, err)
		}
	}
	if failed < 8 { // superblock, two checkpoints of two blocks, summary, SIT and the next node
		t.Errorf("%d of %d places matter", failed, len(img.places))
	}
}
