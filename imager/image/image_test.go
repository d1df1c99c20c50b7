package image_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"huck/imager/image"
)

func TestEntry(t *testing.T) {
	const whole = 4 * image.RegionSize
	for _, c := range []struct {
		name string
		used uint64
		disk int64
		runs []image.Run
	}{
		{"first block", 1, whole, []image.Run{{0, 0, 4096}}},
		{"last block", 1 << 63, whole, []image.Run{{63 * 4096, 0, 4096}}},
		{"all", ^uint64(0), whole, []image.Run{{0, 0, image.RegionSize}}},
		{"all but the first", ^uint64(1), whole, []image.Run{{4096, 0, 63 * 4096}}},
		{"all but the last", ^uint64(1 << 63), whole, []image.Run{{0, 0, 63 * 4096}}},
		{"both ends", 1<<63 | 1, whole, []image.Run{{0, 0, 4096}, {63 * 4096, 4096, 4096}}},
		{"three", 0b1011_0110, whole, []image.Run{{4096, 0, 8192}, {4 * 4096, 8192, 8192}, {7 * 4096, 16384, 4096}}},
		{"short last block", 0b111, image.RegionSize + 2*4096 + 512, []image.Run{{0, 0, 2*4096 + 512}}},
		{"short last block alone", 0b101, image.RegionSize + 2*4096 + 1, []image.Run{{0, 0, 4096}, {2 * 4096, 4096, 1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := image.Entry{Region: 1, Used: c.used}
			var size int
			for i := range c.runs {
				c.runs[i].Offset += image.RegionSize
				size += c.runs[i].Len
			}
			if got := slices.Collect(e.Runs(c.disk)); !slices.Equal(got, c.runs) {
				t.Errorf("runs %v, want %v", got, c.runs)
			}
			if got := e.Size(c.disk); got != size {
				t.Errorf("size %d, want %d", got, size)
			}
			for range e.Runs(c.disk) {
				break // must not go on
			}
		})
	}
}

func TestLayout(t *testing.T) {
	a, b := image.Sum([]byte("a")), image.Sum([]byte("b"))
	m := &image.Map{Entries: []image.Entry{{0, 1, a}, {2, 1, b}, {3, 2, a}, {9, 4, a}}}
	l, err := image.NewLayout(m, 10*image.RegionSize)
	if err != nil {
		t.Fatal(err)
	}
	if l.Chunks() != 2 || l.ID(0) != a || l.ID(1) != b || l.UsedBytes() != 4*4096 || l.DiskSize() != 10*image.RegionSize {
		t.Errorf("%d chunks, %d bytes", l.Chunks(), l.UsedBytes())
	}
	for n, want := range [][]int{{0, 2, 3}, {1}} {
		if got := slices.Collect(l.Places(uint32(n))); !slices.Equal(got, want) {
			t.Errorf("chunk %d is at %v, want %v", n, got, want)
		}
		for _, i := range want {
			if l.Number(i) != uint32(n) {
				t.Errorf("entry %d has number %d", i, l.Number(i))
			}
		}
	}
	for range l.Places(0) {
		break
	}
}

func TestCodec(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	enc, dec, buf := image.NewEncoder(), image.NewDecoder(), make([]byte, image.RegionSize)
	random := make([]byte, image.RegionSize)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	for name, chunk := range map[string][]byte{
		"zeros": make([]byte, image.RegionSize), "random": random, "one byte": {7},
		"text": bytes.Repeat([]byte("bare metal "), 9000), "sector": random[:512],
		"half": append(make([]byte, 100000), random[:100000]...),
	} {
		t.Run(name, func(t *testing.T) {
			encoded := enc.Encode([]byte("before"), chunk)[len("before"):]
			if len(encoded) > len(chunk) {
				t.Errorf("%d bytes encoded as %d", len(chunk), len(encoded))
			}
			got, err := dec.Decode(buf, encoded, image.Sum(chunk), len(chunk))
			if err != nil || !bytes.Equal(got, chunk) {
				t.Fatalf("decodes to %d bytes, %v", len(got), err)
			}
			for i := 0; i < len(encoded); i += 1 + len(encoded)/50 {
				bad := bytes.Clone(encoded)
				bad[i] ^= 0x10
				got, err := dec.Decode(buf, bad, image.Sum(chunk), len(chunk))
				var ce *image.ChunkError
				if err == nil && !bytes.Equal(got, chunk) || err != nil && !errors.As(err, &ce) {
					t.Fatalf("with byte %d flipped: %v", i, err)
				}
			}
		})
	}
}

func TestManifestLimits(t *testing.T) {
	m := image.Manifest{Format: 1, DiskSize: 1 << 40, SectorSize: 4096, Table: "none"}
	for range 4097 {
		m.Partitions = append(m.Partitions, image.Partition{})
	}
	if _, _, err := m.Marshal(); !errors.Is(err, image.ErrFormat) {
		t.Errorf("4097 partitions: %v", err)
	}
	m.Partitions = []image.Partition{{Name: strings.Repeat("x", 1<<20)}}
	if _, _, err := m.Marshal(); !errors.Is(err, image.ErrFormat) {
		t.Errorf("1 MiB: %v", err)
	}
	if _, err := image.ParseManifest(make([]byte, 1<<20+1)); !errors.Is(err, image.ErrFormat) {
		t.Errorf("1 MiB and a byte: %v", err)
	}
}

// makeImage returns an image of n regions.
func makeImage(t testing.TB, n int) (image.ID, []byte, []byte) {
	t.Helper()
	var m image.Map
	for i := range n {
		m.Entries = append(m.Entries, image.Entry{Region: uint64(i), Used: 1, ID: image.Sum([]byte{byte(i), byte(i >> 8)})})
	}
	raw, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	man := image.Manifest{Format: 1, DiskSize: int64(n) * image.RegionSize, SectorSize: 512, Table: "none",
		Map: image.MapInfo{Digest: image.Sum(raw), Regions: n, Chunks: n, UsedBytes: int64(n) * 4096}}
	b, digest, err := man.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	compressed, err := image.CompressMap(raw)
	if err != nil {
		t.Fatal(err)
	}
	return digest, b, compressed
}

func TestOpenRefuses(t *testing.T) {
	digest, man, cmap := makeImage(t, 300)
	other, otherMan, otherMap := makeImage(t, 299)
	_, _, huge := makeImage(t, 60000)
	reshape := func(old, new string) ([]byte, image.ID) {
		b := bytes.Replace(man, []byte(old), []byte(new), 1)
		return b, image.Sum(b)
	}
	chunks, chunksID := reshape(`"chunks":300`, `"chunks":299`)
	used, usedID := reshape(`"used_bytes":1228800`, `"used_bytes":1228801`)
	for _, c := range []struct {
		name   string
		digest image.ID
		man    []byte
		cmap   []byte
	}{
		{"other digest", other, man, cmap},
		{"other manifest", digest, otherMan, cmap},
		{"other map", digest, man, otherMap},
		{"larger map", digest, man, huge},
		{"no map", digest, man, nil},
		{"cut map", digest, man, cmap[:len(cmap)/2]},
		{"bytes after the map", digest, man, append(bytes.Clone(cmap), "junk"...)},
		{"chunks miscounted", chunksID, chunks, cmap},
		{"bytes miscounted", usedID, used, cmap},
	} {
		if _, err := image.Open(c.digest, c.man, bytes.NewReader(c.cmap)); !errors.Is(err, image.ErrFormat) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if img, err := image.Open(digest, man, io.MultiReader(bytes.NewReader(cmap))); err != nil || img.Layout.Chunks() != 300 {
		t.Errorf("sound image: %v", err)
	}
}

func TestIDText(t *testing.T) {
	id := image.Sum([]byte("x"))
	b, err := id.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var got image.ID
	if err := got.UnmarshalText(b); err != nil || got != id {
		t.Errorf("%s reads as %s, %v", b, got, err)
	}
	if err := got.UnmarshalText([]byte("zz")); err == nil || got != id {
		t.Errorf("a bad ID reads as %s, %v", got, err)
	}
	if id.IsZero() || !(image.ID{}).IsZero() || !strings.HasPrefix(id.String(), id.Short()) {
		t.Error("IsZero or Short is wrong")
	}
}

// TestHotPathAllocates tells if a chunk costs allocations. Under the race detector
// a sync.Pool forgets a part of what it is given, and the decoder has some: that
// comes to 0.7 on average, of runs enough that it is never one.
func TestHotPathAllocates(t *testing.T) {
	enc, dec := image.NewEncoder(), image.NewDecoder()
	chunk := bytes.Repeat([]byte("0123456789abcdef"), image.RegionSize/16)
	id, dst, buf := image.Sum(chunk), make([]byte, 0, 2*image.RegionSize), make([]byte, image.RegionSize)
	encoded := enc.Encode(nil, chunk)
	n := testing.AllocsPerRun(500, func() {
		if image.Sum(chunk) != id {
			t.Error("hash changes")
		}
		enc.Encode(dst[:0], chunk)
		if _, err := dec.Decode(buf, encoded, id, len(chunk)); err != nil {
			t.Error(err)
		}
	})
	if n >= 1 {
		t.Errorf("%v allocations a chunk", n)
	}
}
