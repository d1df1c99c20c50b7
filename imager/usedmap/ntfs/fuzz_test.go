package ntfs

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"huck/imager/usedmap/internal/probe"
	"huck/imager/usedmap/internal/probetest"
)

func mustProbe(t *testing.T, b []byte) *probe.Set {
	t.Helper()
	res, err := Probe(bytes.NewReader(b), int64(len(b)))
	if err != nil || res == nil || res.Used == nil {
		t.Fatalf("%+v, error %v", res, err)
	}
	return res.Used
}

// TestImages takes the filesystems in testdata. They were made by mkntfs and
// ntfs-3g 2022.10.3; their up-case tables, which do not compress and which
// nobody reads here, are zeroed.
func TestImages(t *testing.T) {
	for _, img := range probetest.Images(t, os.DirFS("testdata")) {
		b := img.Bytes
		if n := mustProbe(t, b).Bytes(); n < 500<<10 || n > int64(len(b))*9/10 {
			t.Errorf("%d of %d bytes used", n, len(b))
		}
	}
}

// disk is an image that can be written record by record.
type disk struct {
	t *testing.T
	b []byte
	v *volume
	// of the file that was split last, in clusters but for size
	at, clusters, half, size int64
}

func newDisk(t *testing.T, b []byte) *disk {
	t.Helper()
	g, err := newGeometry(boot(b[:bootSize]), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{t: t, b: bytes.Clone(b)}
	if d.v, err = open(bytes.NewReader(d.b), g); err != nil {
		t.Fatal(err)
	}
	return d
}

// put writes record n, with fix-ups.
func (d *disk) put(n int64, base int64, attributes ...[]byte) {
	r := make([]byte, d.v.record)
	le := binary.LittleEndian
	copy(r, "FILE")
	le.PutUint16(r[4:], 42)
	le.PutUint16(r[6:], uint16(d.v.record/fixupEvery)+1)
	le.PutUint16(r[20:], 56)
	r[22] = 1
	le.PutUint64(r[32:], uint64(base))
	at := 56
	for _, a := range attributes {
		at += copy(r[at:], a)
	}
	le.PutUint32(r[at:], attrEnd)
	le.PutUint32(r[24:], uint32(at)+8)
	le.PutUint16(r[42:], 1)
	for i := fixupEvery; i <= len(r); i += fixupEvery {
		copy(r[42+2*i/fixupEvery:], r[i-2:i])
		copy(r[i-2:], r[42:44])
	}
	copy(d.b[d.v.mft.Start()+n*d.v.record:], r) // early records lie in the first run
}

// scattered makes an attribute of count clusters from number at on; first is
// that of the value that they begin with.
func scattered(kind byte, first, at, count, size int64) []byte {
	a := make([]byte, 88)
	le := binary.LittleEndian
	a[0], a[4], a[8], a[32] = kind, 88, 1, 64
	le.PutUint64(a[16:], uint64(first))
	le.PutUint64(a[24:], uint64(first+count-1))
	for _, o := range []int{40, 48, 56} {
		le.PutUint64(a[o:], uint64(size))
	}
	a[64] = 0x44
	le.PutUint32(a[65:], uint32(count))
	le.PutUint32(a[69:], uint32(at))
	return a
}

// resident makes an attribute that lies in its record.
func resident(kind byte, value []byte) []byte {
	a := make([]byte, 24, 24+len(value)+7)
	a = append(a, value...)
	a = a[:(len(a)+7)&^7]
	a[0] = kind
	binary.LittleEndian.PutUint32(a[4:], uint32(len(a)))
	binary.LittleEndian.PutUint32(a[16:], uint32(len(value)))
	a[20] = 24
	return a
}

// listEntry is an entry of an attribute list: the part of the data that begins
// with cluster first is in record n.
func listEntry(first, n int64) []byte {
	e := make([]byte, 32)
	e[0], e[4], e[7] = attrData, 32, 26
	binary.LittleEndian.PutUint64(e[8:], uint64(first))
	binary.LittleEndian.PutUint64(e[16:], uint64(n))
	return e
}

// split moves the second half of a file's data to another record, by way of an
// attribute list, if it lies in one piece that can be split. That is what a
// badly fragmented MFT or bitmap looks like.
func (d *disk) split(n, other int64) bool {
	f, err := d.v.data(n)
	if err != nil {
		d.t.Fatal(err)
	}
	d.at, d.clusters, d.size = f.Start()/d.v.cluster, f.Size()/d.v.cluster, f.size
	d.half = (d.clusters + 1) / 2
	if f.Runs() > 1 || d.clusters == 1 {
		return false
	}
	d.list(n, d.half, other)
	d.put(other, n, scattered(attrData, d.half, d.at+d.half, d.clusters-d.half, 0))
	return true
}

// list gives a file its first half and an attribute list with one entry more.
func (d *disk) list(n, first, other int64) {
	d.put(n, 0, resident(attrList, append(listEntry(0, n), listEntry(first, other)...)), scattered(attrData, 0, d.at, d.half, d.size))
}

// TestAttributeLists has an MFT and a bitmap whose places several records tell.
func TestAttributeLists(t *testing.T) {
	tables, bitmaps := 0, 0
	for i, img := range probetest.Images(t, os.DirFS("testdata")) {
		b := img.Bytes
		want := mustProbe(t, b).Bytes()
		d := newDisk(t, b)
		if d.split(fileMFT, 15) {
			tables++
		}
		if d.split(fileBitmap, 14) {
			bitmaps++
		}
		if got := mustProbe(t, d.b).Bytes(); got != want {
			t.Errorf("image %d: %d bytes used, %d before", i, got, want)
		}
	}
	if tables == 0 || bitmaps == 0 {
		t.Errorf("%d tables and %d bitmaps split", tables, bitmaps)
	}
}

// TestBadLists has attribute lists that lead astray.
func TestBadLists(t *testing.T) {
	part := func(d *disk, edit func(a []byte)) {
		a := scattered(attrData, d.half, 1, 1, 0)
		edit(a)
		d.put(14, fileBitmap, a)
	}
	for want, edit := range map[string]func(d *disk){
		"MFT record 14 is damaged":  func(d *disk) { clear(d.b[d.v.mft.Start()+14*d.v.record:][:4]) },
		"MFT record 14 belongs to":  func(d *disk) { d.put(14, 9, scattered(attrData, d.half, 1, 1, 0)) },
		"begins with cluster":       func(d *disk) { d.list(6, d.half+1, 14); part(d, func(a []byte) { a[16]++; a[24]++ }) },
		"there is no MFT record":    func(d *disk) { d.list(6, d.half, 1<<40) },
		"the attribute list of MFT": func(d *disk) { d.put(6, 0, resident(attrList, make([]byte, 32))) },
		"its bitmap has":            func(d *disk) { d.put(6, 0, resident(attrData, make([]byte, 32))) },
		"has an attribute list of":  func(d *disk) { d.put(6, 0, scattered(attrList, 0, 2, 1, 1<<20)) },
		"clusters":                  func(d *disk) { part(d, func(a []byte) { a[72] = 0x40 }) },
		"holes":                     func(d *disk) { part(d, func(a []byte) { a[64] = 4 }) },
		"cannot be read":            func(d *disk) { part(d, func(a []byte) { a[64] = 0x4f }) },
		"does not fit":              func(d *disk) { part(d, func(a []byte) { a[65] = 2 }) },
	} {
		tested := false
		for _, img := range probetest.Images(t, os.DirFS("testdata")) {
			d := newDisk(t, img.Bytes)
			if !d.split(fileBitmap, 14) {
				continue
			}
			tested = true
			edit(d)
			res, err := Probe(bytes.NewReader(d.b), int64(len(d.b)))
			if err != nil || res.Used != nil || !strings.Contains(res.Whole, want) {
				t.Errorf("%+v, error %v, want %q", res, err, want)
			}
		}
		if !tested {
			t.Error("no image has a bitmap that can be split")
		}
	}
}

// FuzzProbe changes bytes of sound filesystems: patches is a list of a
// three-byte offset and a new value each. Offsets are those in the MFT, but for
// every fourth.
func FuzzProbe(f *testing.F) {
	all := probetest.Images(f, os.DirFS("testdata"))
	for i := range all {
		f.Add(byte(i), []byte{0, 0, 13, 2, 1, 2, 3, 4})
		f.Add(byte(i), []byte{0, 0x18, 0x40, 0x80, 0, 0x0c, 0x50, 3})
	}
	f.Fuzz(func(t *testing.T, base byte, patches []byte) {
		b := bytes.Clone(all[int(base)%len(all)].Bytes)
		mft := int(binary.LittleEndian.Uint64(b[48:])) * int(binary.LittleEndian.Uint16(b[11:])) * int(b[13])
		i := 0
		for at, value := range probetest.Patches(patches) {
			if i%4 != 0 {
				at = mft + at%(100<<10)
			}
			b[at%len(b)] = value
			i++
		}
		res, err := Probe(bytes.NewReader(b), int64(len(b)))
		probetest.Check(t, int64(len(b)), res, err)
	})
}
