package image_test

import (
	"bytes"
	"testing"

	"huck/imager/image"
)

func FuzzParseMap(f *testing.F) {
	for _, v := range readVectors(f, "map") {
		f.Add(unhex(f, v.body), v.number(f, "disk_size"))
	}
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		m, err := image.ParseMap(b, size)
		if err != nil {
			return
		}
		again, err := m.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		copy(again[12:], b[12:16])
		if !bytes.Equal(again, b) {
			t.Fatalf("written again: %x", again)
		}
		l, err := image.NewLayout(m, size)
		if err != nil {
			return
		}
		for i, e := range m.Entries {
			n := 0
			for r := range e.Runs(size) {
				if r.At != n || r.Len <= 0 || r.Offset < e.Offset() || r.Offset+int64(r.Len) > min(size, e.Offset()+image.RegionSize) {
					t.Fatalf("entry %d: run %+v", i, r)
				}
				n += r.Len
			}
			if n != e.Size(size) || n != l.Size(l.Number(i)) {
				t.Fatalf("entry %d: runs of %d bytes, size %d", i, n, e.Size(size))
			}
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	for _, v := range readVectors(f, "manifest") {
		f.Add([]byte(v.body))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := image.ParseManifest(b)
		if err != nil {
			return
		}
		again, _, err := m.Marshal()
		if err != nil {
			if len(b) > 100000 { // other escapes can take more room
				return
			}
			t.Fatal(err)
		}
		m2, err := image.ParseManifest(again)
		if err != nil {
			t.Fatal(err)
		}
		if b2, _, err := m2.Marshal(); err != nil || !bytes.Equal(b2, again) {
			t.Fatalf("unstable: %s, %s, %v", again, b2, err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, v := range readVectors(f, "chunk") {
		f.Add(unhex(f, v.body), int(v.number(f, "size")))
	}
	dec, buf := image.NewDecoder(), make([]byte, image.RegionSize)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		if size < 0 || size > image.RegionSize {
			return
		}
		if chunk, err := dec.Decode(buf, b, image.Sum(b), size); err == nil && (len(chunk) != size || image.Sum(chunk) != image.Sum(b)) {
			t.Fatalf("%d bytes for a chunk of %d", len(chunk), size)
		}
	})
}

func FuzzOpenMap(f *testing.F) {
	_, man, cmap := makeImage(f, 30)
	m, err := image.ParseManifest(man)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cmap)
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := image.OpenMap(bytes.NewReader(b), m); err == nil && len(got.Entries) != 30 {
			t.Fatalf("%d entries", len(got.Entries))
		}
	})
}

func FuzzParseRef(f *testing.F) {
	for _, v := range readVectors(f, "ref") {
		f.Add(v.body)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := image.ParseRef(s)
		if err != nil {
			return
		}
		if again, err := image.ParseRef(r.String()); err != nil || again != r {
			t.Fatalf("%q reads as %q, that as %q, %v", s, r, again, err)
		}
	})
}

func FuzzParseTag(f *testing.F) {
	for _, v := range readVectors(f, "tag") {
		f.Add([]byte(v.body))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tag, err := image.ParseTag(b)
		if err == nil && (image.CheckName(tag.Name) != nil || tag.Version == 0 || tag.Digest.IsZero()) {
			t.Fatalf("%+v", tag)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	enc, dst := image.NewEncoder(), make([]byte, 0, 2*image.RegionSize)
	chunk := bytes.Repeat([]byte("0123456789abcdef-the quick brown fox"), image.RegionSize/30)[:image.RegionSize]
	b.SetBytes(image.RegionSize)
	b.ReportAllocs()
	for b.Loop() {
		enc.Encode(dst[:0], chunk)
	}
}

func BenchmarkSum(b *testing.B) {
	chunk := make([]byte, image.RegionSize)
	b.SetBytes(image.RegionSize)
	b.ReportAllocs()
	for b.Loop() {
		image.Sum(chunk)
	}
}
