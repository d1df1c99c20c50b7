package exfat

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"

	"huck/imager/usedmap/internal/probetest"
)

// TestImages takes the filesystems in testdata. They were made by mkfs.exfat of
// exfatprogs 1.2.0 and hold directories and files, some of them scattered, all
// of them zeros.
func TestImages(t *testing.T) {
	for _, img := range probetest.Images(t, os.DirFS("testdata")) {
		b := img.Bytes
		res, err := Probe(bytes.NewReader(b), int64(len(b)))
		if err != nil || res == nil || res.Used == nil || res.Used.Bytes() > int64(len(b))/2 {
			t.Errorf("%+v, error %v", res, err)
		}
		if fixed := fix(bytes.Clone(b)); !bytes.Equal(fixed, b) {
			t.Error("a sound image changes when its checksum is set")
		}
	}
}

// fix sets the checksum of the boot region right, as far as it has sense.
func fix(b []byte) []byte {
	sector := 1 << min(12, b[108])
	if len(b) < regionSectors*sector {
		return b
	}
	sums := b[(regionSectors-1)*sector : regionSectors*sector]
	var sum uint32
	for i, c := range b[:(regionSectors-1)*sector] {
		if i != 106 && i != 107 && i != 112 {
			sum = sum>>1 | sum<<31
			sum += uint32(c)
		}
	}
	for ; len(sums) >= 4; sums = sums[4:] {
		binary.LittleEndian.PutUint32(sums, sum)
	}
	return b
}

// twin makes a filesystem with two tables and two bitmaps, as TexFAT has them,
// of one with a single table: there is room between the table and the clusters.
func twin(t *testing.T, b []byte) []byte {
	t.Helper()
	le := binary.LittleEndian
	b = bytes.Clone(b)
	g, err := newGeometry(boot(b[:512]), int64(len(b)))
	if err != nil || g.heap < g.fat+2*g.fatSize {
		t.Fatalf("no room for a second table: %+v, error %v", g, err)
	}
	b[110] = 2
	root := b[g.offset(g.root()):][:g.cluster]
	end, first := 0, entry(nil)
	for ; root[end] != entryEnd; end += entrySize {
		if root[end] == entryBitmap {
			first = entry(root[end : end+entrySize])
		}
	}
	second := entry(root[end : end+entrySize])
	copy(second, first)
	second[1] = 1
	size, last := int64(first.size()), g.clusters()+1 // the last cluster is free
	le.PutUint32(second[20:], uint32(last))
	le.PutUint32(b[g.fat+4*last:], lastCluster)
	bitmap := b[g.offset(first.first()):][:size]
	bitmap[(last-2)/8] |= 1 << ((last - 2) % 8)
	copy(b[g.offset(last):], bitmap)
	copy(b[g.fat+g.fatSize:], b[g.fat:g.fat+g.fatSize])
	return fix(b)
}

func TestTexFAT(t *testing.T) {
	b := probetest.Images(t, os.DirFS("testdata"))[0].Bytes
	one, err := Probe(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	b = twin(t, b)
	g, err := newGeometry(boot(b[:512]), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	two, err := Probe(bytes.NewReader(b), int64(len(b)))
	if err != nil || two.Used == nil || two.Used.Bytes() != one.Used.Bytes()+g.fatSize+g.cluster {
		t.Fatalf("%+v, error %v", two, err)
	}
	for want, at := range map[string]int64{
		"the two copies of its table disagree": g.fat + g.fatSize + 400,
		"its two bitmaps disagree":             g.offset(g.clusters() + 1),
	} {
		b[at] ^= 1
		res, err := Probe(bytes.NewReader(b), int64(len(b)))
		if err != nil || res.Used != nil || res.Whole != want {
			t.Errorf("%+v, error %v, want %q", res, err, want)
		}
		b[at] ^= 1
	}
}

// FuzzProbe changes bytes of sound filesystems: patches is a list of a
// three-byte offset and a new value each. Offsets are those in the first 512
// KiB, where all metadata is, but for every fourth.
func FuzzProbe(f *testing.F) {
	all := probetest.Images(f, os.DirFS("testdata"))
	for i := range all {
		f.Add(byte(i), []byte{0, 0, 108, 10, 0, 8, 9, 7})
		f.Add(byte(i), []byte{0, 0, 96, 6, 1, 0, 0x20, 0x85, 1, 0x20, 0x20, 0xc0})
	}
	f.Fuzz(func(t *testing.T, base byte, patches []byte) {
		b := bytes.Clone(all[int(base)%len(all)].Bytes)
		i := 0
		for at, value := range probetest.Patches(patches) {
			if i%4 != 0 {
				at %= 512 << 10
			}
			b[at%len(b)] = value
			i++
		}
		fix(b)
		res, err := Probe(bytes.NewReader(b), int64(len(b)))
		probetest.Check(t, int64(len(b)), res, err)
	})
}
