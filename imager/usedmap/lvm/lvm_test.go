package lvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"huck/imager/usedmap/internal/probe"
	"huck/imager/usedmap/internal/probetest"
)

const kib = 1 << 10

// images returns the physical volumes in testdata, by name. LVM 2.03.16 made
// them, with extents of 64 KiB and nothing in the logical volumes.
func images(t testing.TB) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	for _, img := range probetest.Images(t, os.DirFS("testdata")) {
		all[img.Name] = img.Bytes
	}
	return all
}

// nothing finds in a logical volume that nothing is used.
func nothing(r io.ReaderAt, size int64) (probe.Result, error) {
	return probe.Result{Content: "test", Used: new(probe.Set)}, nil
}

func TestImages(t *testing.T) {
	for name, want := range map[string]struct {
		used     int64 // KiB, with nothing in linear volumes
		warnings int
	}{
		"linear":     {64, 0},
		"orphan":     {64, 0},
		"two-areas":  {128 + 64, 0},
		"layers":     {64 + 64*(2+2+1+1+2+2+3+3+2+2), 8},
		"one-of-two": {64 + 64*31, 2},
	} {
		b := images(t)[name]
		res, err := Probe(bytes.NewReader(b), int64(len(b)), nothing)
		if err != nil || res == nil || res.Used == nil || len(res.Warnings) != want.warnings {
			t.Errorf("%s: %+v, error %v", name, res, err)
			continue
		}
		if got := res.Used.Bytes() / kib; got != want.used {
			t.Errorf("%s: %d KiB used, want %d", name, got, want.used)
		}
		if fixed := fix(bytes.Clone(b)); !bytes.Equal(fixed, b) {
			t.Errorf("%s: a sound image changes when its checksums are set", name)
		}
	}
}

// fix sets all checksums in a physical volume right, as far as it has sense.
func fix(b []byte) []byte {
	le := binary.LittleEndian
	for n := range labelSectors {
		s := b[n*sectorSize:][:sectorSize]
		if string(s[24:32]) != labelType {
			continue
		}
		le.PutUint32(s[16:], checksum(s[20:]))
		h, bad := parseLabel(s, uint64(n), int64(len(b)))
		if bad != nil {
			continue
		}
		for _, a := range h.mdas {
			if a.size >= 2*mdaHeaderLen {
				fixArea(b[a.offset:][:a.size])
			}
		}
	}
	return b
}

func fixArea(m []byte) {
	le := binary.LittleEndian
	at, n := le.Uint64(m[locationsAt:]), le.Uint64(m[locationsAt+8:])
	if at >= mdaHeaderLen && at < uint64(len(m)) && n > 0 && n <= uint64(len(m)-mdaHeaderLen) {
		first := min(n, uint64(len(m))-at)
		le.PutUint32(m[locationsAt+16:], checksum(m[at:at+first], m[mdaHeaderLen:mdaHeaderLen+n-first]))
	}
	le.PutUint32(m, checksum(m[4:mdaHeaderLen]))
}

// text returns the metadata in image b.
func text(t testing.TB, b []byte) string {
	t.Helper()
	h, bad, err := readLabel(bytes.NewReader(b), int64(len(b)))
	if bad != nil || err != nil {
		t.Fatal(bad, err)
	}
	s, bad, err := readText(bytes.NewReader(b), h)
	if bad != nil || err != nil {
		t.Fatal(bad, err)
	}
	return string(s)
}

// setText puts other metadata into all areas of image b.
func setText(t testing.TB, b []byte, text string) {
	t.Helper()
	h, bad, err := readLabel(bytes.NewReader(b), int64(len(b)))
	if bad != nil || err != nil {
		t.Fatal(bad, err)
	}
	for _, a := range h.mdas {
		m := b[a.offset:][:a.size]
		binary.LittleEndian.PutUint64(m[locationsAt:], mdaHeaderLen)
		binary.LittleEndian.PutUint64(m[locationsAt+8:], uint64(len(text)))
		copy(m[mdaHeaderLen:], text)
		fixArea(m)
	}
}

// TestTextDoesNotAddUp edits sound metadata. None may give a map.
func TestTextDoesNotAddUp(t *testing.T) {
	all := images(t)
	for _, c := range []struct{ image, old, new, want string }{
		{"linear", "vg0 {", "vg0 ", "syntax error"},
		{"linear", "extent_count = 3", "extent_count = \"3\"", "no sound extent_count"},
		{"linear", "extent_count = 3", "extent_count = -3", "no sound extent_count"},
		{"linear", "extent_count = 3", "extent_count = 3.5", "syntax error"},
		{"linear", "extent_count = 3", "extent_count = 4", "begins at extent 3, 4 come before it"},
		{"linear", "extent_count = 3", "extent_count = 99999999999999999999", "syntax error"},
		{"linear", "extent_count = 2", "extent_count = 0", "come before it"},
		{"linear", "extent_count = 2", "extent_count = 200", "this physical volume 31 in all"},
		{"linear", "\"pv0\", 5", "\"pv0\", 1", "belongs to two segments"},
		{"linear", "\"pv0\", 5", "\"pv0\", 30", "this physical volume 31 in all"},
		{"linear", "\"pv0\", 5", "\"pv0\", -1", "this physical volume 31 in all"},
		{"linear", "\"pv0\", 5", "\"pv0\"", "no list of its places"},
		{"linear", "\"pv0\", 5", "5, \"pv0\"", "which the group does not have"},
		{"linear", "\"pv0\", 5", "\"pv7\", 5", "which the group does not have"},
		{"linear", "\"pv0\", 5", "\"pv0\" 5", "syntax error"},
		{"linear", "stripe_count = 1", "stripe_count = 2", "no list of its places"},
		{"linear", "stripe_count = 1", "stripe_count = 0", "no list of its places"},
		{"linear", "type = \"striped\"", "type = \"spread\"", "one of type \"spread\" has stripes on a physical volume"},
		{"linear", "segment2 {", "segment3 {", "segment 2 is called segment3"},
		{"linear", "segment2 {", "segment1 {", "stands twice"},
		{"linear", "segment_count = 2", "segment_count = 3", "another number is said"},
		{"linear", "two {", "one {", "section one stands twice"},
		{"linear", "id = \"", "id = \"x", "is not among the group's"},
		{"linear", "pe_start = 128", "pe_start = 120", "not where its header has them"},
		{"linear", "pe_start = 128", "pe_start = 128000", "no sound pe_start"},
		{"linear", "pe_count = 31", "pe_count = 32", "no sound pe_count"},
		{"linear", "pe_count = 31", "pe_count = 4", "this physical volume 4 in all"},
		{"linear", "extent_size = 128", "extent_size = 0", "no sound extent_size"},
		{"linear", "extent_size = 128", "extent_size = 1280", "no sound pe_count"},
		{"linear", "extent_size = 128", "extent_size = 128\nextent_size = 1", "stands twice"},
		{"linear", "flags = []\ndev_size", "flags = [\"MISSING\"]\ndev_size", "has the flag MISSING"},
		{"linear", "version = 1", "version = 2", "not those of one volume group"},
		{"linear", "Text Format Volume Group", "Text Format Volume Gruop", "not those of one volume group"},
		{"linear", "contents =", "other {\n}\ncontents =", "not those of one volume group"},
		{"linear", "physical_volumes {", "physical_volumen {", "no physical volumes"},
		{"linear", "creation_host", "\"creation_host", "syntax error"},
		{"linear", "seqno", "\x01", "syntax error"},
		{"linear", "seqno = 4", "seqno = 4\n" + strings.Repeat("a {\n", 20) + strings.Repeat("}\n", 20), "too many or too deep"},
		{"two-areas", "pe_count = ", "pe_count = 9", "no sound pe_count"},
		{"layers", "stripe_size = 8", "stripe_size = 8\nstripe_size = 9", "stands twice"},
		{"layers", "extent_count = 4", "extent_count = 5", "5 extents on 2 stripes"},
		{"layers", "\"pv0\", 20", "\"pv0\", 14", "belongs to two segments"},
		{"layers", "mirror_count = 2", "mirror_count = 1", "no list of its places"},
		{"one-of-two", "pv1 {", "pv0 {", "section pv0 stands twice"},
	} {
		b := bytes.Clone(all[c.image])
		s := text(t, b)
		if !strings.Contains(s, c.old) {
			t.Fatalf("%q is not in\n%s", c.old, s)
		}
		if c.old == "id = \"" { // of the physical volume, not of the group
			at := strings.Index(s, "pv0 {")
			s = s[:at] + strings.Replace(s[at:], c.old, c.new, 1)
		} else {
			s = strings.Replace(s, c.old, c.new, 1)
		}
		setText(t, b, s)
		res, err := Probe(bytes.NewReader(b), int64(len(b)), nothing)
		if err != nil || res == nil || res.Used != nil || !strings.Contains(res.Whole, c.want) || !strings.HasPrefix(res.Whole, "its metadata do not add up: ") {
			t.Errorf("%s with %q for %q: %+v, error %v, want %q", c.image, c.new, c.old, res, err, c.want)
		}
	}
}

// TestOtherStates edits metadata so that they stay sound, but a linear volume
// must not be looked into.
func TestOtherStates(t *testing.T) {
	b := images(t)["linear"]
	s := text(t, b)
	for _, c := range []struct{ old, new, want string }{
		{"two {\n", "two {\n", ""},
		{"\"READ\", \"WRITE\", \"VISIBLE\"", "\"READ\", \"VISIBLE\"", ""},
		{"flags = []\ncreation", "flags = [\"ACTIVATION_SKIP\"]\ncreation", ""},
		{"\"READ\", \"WRITE\", \"VISIBLE\"", "\"READ\", \"WRITE\"", "one taken whole: it is hidden"},
		{"\"READ\", \"WRITE\", \"VISIBLE\"", "\"READ\", \"VISIBLE\", \"LOCKED\"", "one taken whole: its status is LOCKED"},
		{"flags = []\ncreation", "flags = [\"NEW\"]\ncreation", "one taken whole: it has the flag NEW"},
		{"type = \"striped\"", "type = \"striped+NEW\"", ""},
		{"stripes = [\n\"pv0\", 3\n]", "stripes = [\n\"one\", 0\n]", "one taken whole: another volume"},
	} {
		b := bytes.Clone(b)
		at := strings.Index(s, "logical_volumes")
		changed := s[:at] + strings.Replace(s[at:], c.old, c.new, 1)
		if !strings.Contains(s[at:], c.old) {
			t.Fatalf("%q is not in\n%s", c.old, s)
		}
		setText(t, b, changed)
		res, err := Probe(bytes.NewReader(b), int64(len(b)), nothing)
		if err != nil || res.Used == nil || strings.Contains(fmt.Sprint(res.Warnings), "whole") != (c.want != "") || !strings.Contains(fmt.Sprint(res.Warnings), c.want) {
			t.Errorf("%q for %q: %+v, error %v", c.new, c.old, res, err)
			continue
		}
		want := int64(64 * kib)
		if c.want != "" {
			want += 5 * 64 * kib
		}
		if res.Used.Bytes() != want {
			t.Errorf("%q for %q: %d bytes used, want %d", c.new, c.old, res.Used.Bytes(), want)
		}
	}
}

// TestDamaged changes bytes outside of the text.
func TestDamaged(t *testing.T) {
	le := binary.LittleEndian
	for _, c := range []struct {
		image string
		fixed bool // the checksums go with the change
		edit  func(b []byte)
		want  string
	}{
		{"linear", false, func(b []byte) { b[512] = 'l' }, "its label is damaged"},
		{"linear", false, func(b []byte) { b[600]++ }, "its label's checksum is wrong"},
		{"linear", true, func(b []byte) { le.PutUint64(b[520:], 2) }, "its label is damaged"},
		{"linear", true, func(b []byte) { le.PutUint32(b[532:], 500) }, "its label is damaged"},
		{"linear", true, func(b []byte) { le.PutUint64(b[576:], 3<<20) }, "it is said to have"},
		{"linear", true, func(b []byte) { le.PutUint64(b[576:], 1<<63) }, "it is said to have"},
		{"linear", true, func(b []byte) { le.PutUint64(b[616:], 1<<62) }, "is not in it"},
		{"linear", true, func(b []byte) { le.PutUint64(b[616:], ^uint64(0)) }, "is not in it"},
		{"linear", true, func(b []byte) { clear(b[616:632]) }, "its metadata are on other volumes"},
		{"linear", true, func(b []byte) { le.PutUint64(b[624:], 512) }, "512 bytes are too few"},
		{"linear", true, func(b []byte) { clear(b[584:600]) }, "is not in it"},
		{"linear", true, func(b []byte) { le.PutUint64(b[592:], 65536) }, "more than its header has room for"},
		{"linear", true, func(b []byte) { copy(b[1024:1536], b[512:1024]); le.PutUint64(b[1032:], 2) }, "two labels"},
		{"linear", true, func(b []byte) {
			for i := 584; i < 1024; i++ {
				b[i] = 1
			}
		}, "is not in it"},
		{"linear", false, func(b []byte) { b[4096+5]++ }, "header is damaged"},
		{"linear", false, func(b []byte) { b[4096+100]++ }, "header's checksum is wrong"},
		{"linear", true, func(b []byte) { le.PutUint64(b[4096+24:], 8192) }, "it says it is"},
		{"linear", true, func(b []byte) { le.PutUint32(b[4096+20:], 2) }, "header is damaged"},
		{"linear", true, func(b []byte) { le.PutUint64(b[4096+40:], 100) }, "bytes at 100"},
		{"linear", true, func(b []byte) { le.PutUint64(b[4096+40:], 1<<40) }, "its text is"},
		{"linear", true, func(b []byte) { le.PutUint64(b[4096+48:], 1<<40) }, "its text is"},
		{"linear", true, func(b []byte) { le.PutUint64(b[4096+48:], 0) }, "has no metadata of it"},
		{"linear", true, func(b []byte) { b[4096+60] |= ignoredMDA }, "its metadata are on other volumes"},
		{"linear", false, func(b []byte) { b[4096+int(le.Uint64(b[4096+40:]))]++ }, "text's checksum is wrong"},
		{"orphan", true, func(b []byte) { le.PutUint32(b[652:], 1) }, "has no metadata of it"},
		{"orphan", true, func(b []byte) { le.PutUint64(b[600:], 4096); le.PutUint64(b[608:], 4096) }, ""},
		{"two-areas", true, func(b []byte) { le.PutUint64(b[4096+48:], 0) }, "its metadata areas differ"},
	} {
		b := bytes.Clone(images(t)[c.image])
		c.edit(b)
		if c.fixed {
			fix(b)
		}
		res, err := Probe(bytes.NewReader(b), int64(len(b)), nothing)
		if err != nil || res == nil || res.Used != nil || res.Whole == "" || !strings.Contains(res.Whole, c.want) {
			t.Errorf("%+v, error %v, want %q", res, err, c.want)
		}
	}
}

// TestNotOne has what is no physical volume, or not all of one.
func TestNotOne(t *testing.T) {
	b := images(t)["linear"]
	for _, n := range []int{0, 100, 512, 600, 1023} {
		if res, err := Probe(bytes.NewReader(b[:n]), int64(n), nothing); res != nil || err != nil {
			t.Errorf("%d bytes: %+v, error %v", n, res, err)
		}
	}
	for _, n := range []int{1024, 4096, 4097, 5000, 64 * kib, 1 << 20, len(b) - 1} {
		if res, err := Probe(bytes.NewReader(b[:n]), int64(n), nothing); res == nil || res.Used != nil || err != nil {
			t.Errorf("%d bytes: %+v, error %v", n, res, err)
		}
	}
	if res, err := Probe(bytes.NewReader(b), int64(len(b)), nil); err != nil || res.Used != nil {
		t.Errorf("inside a volume: %+v, error %v", res, err)
	}
	for _, n := range []int{0, 1024, 4096 + 100} { // shorter than it says
		if _, err := Probe(bytes.NewReader(b[:n]), int64(len(b)), nothing); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes: error %v", n, err)
		}
	}
}

func TestReader(t *testing.T) {
	b := make([]byte, 1000)
	for i := range b {
		b[i] = byte(i)
	}
	l := &reader{r: bytes.NewReader(b), parts: []part{{0, 500, 100}, {100, 50, 10}, {110, 900, 100}}, size: 210}
	want := bytes.Join([][]byte{b[500:600], b[50:60], b[900:1000]}, nil)
	for off := range 212 {
		for n := range 230 {
			got := make([]byte, n)
			m, err := l.ReadAt(got, int64(off))
			left := max(0, 210-off)
			if m != min(n, left) || (err == io.EOF) != (n > left) || err != nil && err != io.EOF || !bytes.Equal(got[:m], want[min(off, 210):][:m]) {
				t.Fatalf("%d bytes at %d: %d, error %v", n, off, m, err)
			}
		}
	}
	if _, err := l.ReadAt(b, -1); err == nil {
		t.Error("negative offset")
	}
}

// TestManyRemarks has more volumes worth a remark than are told of.
func TestManyRemarks(t *testing.T) {
	g := &group{name: "vg", extent: 4096}
	for i := range 60 {
		g.volumes = append(g.volumes, &volume{name: fmt.Sprint("v", i), areas: []allocation{{int64(i), 1}}, opaque: "x"})
	}
	res, err := g.content(&probe.Result{Used: new(probe.Set)}, nil, nil)
	if err != nil || len(res.Warnings) != maxWarnings+1 || !strings.HasPrefix(res.Warnings[maxWarnings], "10 more") || res.Used.Bytes() != 60*4096 {
		t.Errorf("%+v, error %v", res, err)
	}
}

// TestBigText bounds the time and memory that foreign metadata take.
func TestBigText(t *testing.T) {
	for _, s := range []string{strings.Repeat("a{}", maxText/3), "a=[" + strings.Repeat("1,", maxText/2-5) + "1]", strings.Repeat("a{b=1 ", maxText/6)} {
		if _, err := parseConfig(s); err == nil || !strings.Contains(err.Error(), "too many") {
			t.Errorf("%.20s…: error %v", s, err)
		}
	}
}

// TestVolumes lists the volumes that are whole and linear, and wants none of a
// damaged physical volume.
func TestVolumes(t *testing.T) {
	for name, want := range map[string]string{
		"linear": "one [{65536 196608} {393216 131072}], two [{262144 131072}]",
		"orphan": "", "layers": "plain [{65536 131072}]", "one-of-two": "",
		"two-areas": "a1 [{131072 65536}], a4 [{327680 65536}], a5 [{393216 65536}], a6 [{458752 65536}], a7 [{524288 65536}], a8 [{589824 65536}]",
	} {
		b := images(t)[name]
		list, err := Volumes(bytes.NewReader(b), int64(len(b)))
		var got []string
		for _, v := range list {
			got = append(got, fmt.Sprint(v.Name, " ", v.Pieces))
			if v.Group != "vg0" || len(v.ID) != 38 || len(v.GroupID) != 38 {
				t.Errorf("%s: %+v", name, v)
			}
		}
		if err != nil || strings.Join(got, ", ") != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		b[4096+100]++ // its metadata area
		if list, err := Volumes(bytes.NewReader(b), int64(len(b))); err == nil || list != nil {
			t.Errorf("%s, damaged: %v, %v", name, list, err)
		}
	}
	if list, err := Volumes(bytes.NewReader(make([]byte, 8192)), 8192); err != nil || list != nil {
		t.Errorf("of zeros: %v, %v", list, err)
	}
}
