package ext

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"

	"huck/imager/usedmap/internal/probetest"
)

// TestImages takes the filesystems in testdata, which mke2fs 1.47 made, with
// small groups, so that little space holds many.
func TestImages(t *testing.T) {
	for _, img := range probetest.Images(t, os.DirFS("testdata")) {
		b := img.Bytes
		res, err := Probe(bytes.NewReader(b), int64(len(b)))
		if err != nil || res == nil || res.Used == nil || res.Used.Bytes() > int64(len(b))/2 {
			t.Errorf("%+v, error %v", res, err)
		}
		if fixed := fix(bytes.Clone(b)); !bytes.Equal(fixed, b) {
			t.Error("a sound image changes when its checksums are set")
		}
	}
}

func TestHasSuper(t *testing.T) {
	s := super(make([]byte, superSize))
	binary.LittleEndian.PutUint32(s[0x64:], roCompatSparseSuper)
	g := &geometry{super: s}
	var got []int64
	for n := range int64(3000) {
		if g.hasSuper(n) {
			got = append(got, n)
		}
	}
	want := []int64{0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343, 625, 729, 2187, 2401}
	if len(got) != len(want) {
		t.Fatalf("%d, want %d", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%d, want %d", got[i], want[i])
		}
	}
}

// fix sets the checksums in an image right, as far as it has sense.
func fix(b []byte) []byte {
	s := super(b[superOffset : superOffset+superSize])
	le := binary.LittleEndian
	g, err := newGeometry(s, int64(len(b)))
	if err == nil && g.groups < 1000 && g.sums() {
		for n := range g.groups {
			at := g.descBlock(n/g.perBlock)*g.blockSize + n%g.perBlock*g.descSize()
			if at+g.descSize() > int64(len(b)) {
				continue
			}
			d := desc{b[at : at+g.descSize()], g.descSize() >= 64}
			if m := int64(d.blockBitmap()) * g.blockSize; m >= 0 && m < int64(len(b))-g.blockSize && g.roCompat()&roCompatMetadataCsum != 0 && !g.uninit(d) {
				sum := crc32c(g.seed(), b[m:m+g.blocksPerGroup()/g.ratio/8])
				le.PutUint16(d.b[0x18:], uint16(sum))
				if d.wide {
					le.PutUint16(d.b[0x38:], uint16(sum>>16))
				}
			}
			le.PutUint16(d.b[checksumAt:], uint16(g.sum(d, n)))
		}
	}
	if s.roCompat()&roCompatMetadataCsum != 0 {
		le.PutUint32(s[0x3fc:], crc32c(^uint32(0), s[:0x3fc]))
	}
	return b
}

// FuzzProbe changes bytes of sound filesystems: patches is a list of a
// three-byte offset and a new value each.
func FuzzProbe(f *testing.F) {
	all := probetest.Images(f, os.DirFS("testdata"))
	for i := range all {
		f.Add(byte(i), true, []byte{0, 4, 4, 1, 0, 8, 0x0c, 3})
		f.Add(byte(i), true, []byte{0, 4, 0x20, 8, 0, 4, 0x21, 0})
	}
	f.Fuzz(func(t *testing.T, base byte, sums bool, patches []byte) {
		b := bytes.Clone(all[int(base)%len(all)].Bytes)
		for at, value := range probetest.Patches(patches) {
			b[at%len(b)] = value
		}
		if sums {
			fix(b)
		}
		res, err := Probe(bytes.NewReader(b), int64(len(b)))
		probetest.Check(t, int64(len(b)), res, err)
	})
}
