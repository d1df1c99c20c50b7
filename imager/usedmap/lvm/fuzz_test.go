package lvm

import (
	"bytes"
	"io"
	"maps"
	"reflect"
	"slices"
	"testing"

	"huck/imager/usedmap/internal/probetest"
)

// hot is how much of each end of a physical volume the fuzzer changes: all of
// its metadata.
const hot = 128 * kib

// ends is an image whose middle nobody reads.
type ends struct {
	head, tail []byte
	size       int64
}

// ReadAt implements io.ReaderAt.
func (e ends) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) && off < e.size {
		switch tail := e.size - int64(len(e.tail)); {
		case off < int64(len(e.head)):
			m := copy(b[n:], e.head[off:])
			n, off = n+m, off+int64(m)
		case off >= tail:
			m := copy(b[n:], e.tail[off-tail:])
			n, off = n+m, off+int64(m)
		default:
			m := int(min(int64(len(b)-n), tail-off))
			clear(b[n : n+m])
			n, off = n+m, off+int64(m)
		}
	}
	if n < len(b) {
		err = io.EOF
	}
	return n, err
}

// FuzzProbe changes bytes of sound physical volumes: patches is a list of a
// three-byte offset and a new value each.
func FuzzProbe(f *testing.F) {
	all := images(f)
	names := slices.Sorted(maps.Keys(all))
	for i := range names {
		f.Add(byte(i), true, []byte{0, 2, 0x48, 1, 0, 0x10, 0x28, 2})
		f.Add(byte(i), true, []byte{0, 0x12, 0x80, '"', 0, 0x13, 0, '{', 0, 0x14, 0, '9'})
		f.Add(byte(i), false, []byte{0, 2, 0, 'x'})
	}
	f.Fuzz(func(t *testing.T, base byte, sums bool, patches []byte) {
		b := all[names[int(base)%len(names)]]
		both := slices.Concat(b[:hot], b[len(b)-hot:])
		for at, value := range probetest.Patches(patches) {
			both[at%len(both)] = value
		}
		if sums {
			fixEnds(both[:hot], both[hot:], int64(len(b)))
		}
		checkProbe(t, ends{both[:hot], both[hot:], int64(len(b))}, int64(len(b)))
	})
}

// fixEnds is fix for an image of which only the ends are there.
func fixEnds(head, tail []byte, size int64) {
	fix(head)
	for n := range labelSectors {
		h, bad := parseLabel(head[n*sectorSize:][:sectorSize], uint64(n), size)
		if bad != nil {
			continue
		}
		for _, a := range h.mdas {
			at := a.offset - (size - int64(len(tail)))
			switch {
			case a.size < 2*mdaHeaderLen:
			case a.offset+a.size <= int64(len(head)):
				fixArea(head[a.offset:][:a.size])
			case at >= 0:
				fixArea(tail[at:][:a.size])
			}
		}
	}
}

func checkProbe(t *testing.T, r io.ReaderAt, size int64) {
	res, err := Probe(r, size, nothing)
	if err != nil {
		t.Fatal(err) // all of it can be read
	}
	if res == nil {
		return
	}
	if again, err := Probe(r, size, nothing); err != nil || !reflect.DeepEqual(res, again) {
		t.Fatalf("%+v, then %+v, error %v", res, again, err)
	}
	probetest.Check(t, size, res, err)
}

// FuzzText reads metadata in other words.
func FuzzText(f *testing.F) {
	all := images(f)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if name != "orphan" {
			f.Add(text(f, all[name]))
		}
	}
	f.Add("a { b = [\"c\", -1] # d\n}\n")
	b := all["linear"]
	size := int64(len(b))
	h, bad, err := readLabel(bytes.NewReader(b), size)
	if bad != nil || err != nil {
		f.Fatal(bad, err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		g, err := parseGroup([]byte(text), h, size)
		if err != nil {
			return
		}
		var sum int64
		for _, v := range g.volumes {
			var own int64
			for _, a := range v.areas {
				at := g.start + a.first*g.extent
				if a.first < 0 || a.count <= 0 || at < 0 || at+a.count*g.extent > size {
					t.Fatalf("%+v of %+v", a, g)
				}
				own += a.count
			}
			if v.opaque == "" && own != v.size {
				t.Fatalf("%s has %d extents, %d of them are known", v.name, v.size, own)
			}
			sum += own
		}
		if sum > g.count {
			t.Fatalf("%d extents of %d are allocated", sum, g.count)
		}
	})
}
