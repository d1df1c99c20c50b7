// Package probetest has what the tests of all parsers share: small real
// filesystems from testdata, ways to damage them, and what a parser may say of
// one that is damaged.
package probetest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"iter"
	"strings"
	"testing"

	"huck/imager/usedmap/internal/probe"
)

// Image is a filesystem.
type Image struct {
	Name  string // of the file, without its ending
	Bytes []byte
}

// Images returns dir's files *.img.gz, sorted by name.
func Images(t testing.TB, dir fs.FS) []Image {
	t.Helper()
	paths, err := fs.Glob(dir, "*.img.gz")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d images, error %v", len(paths), err)
	}
	var all []Image
	for _, p := range paths {
		z, err := fs.ReadFile(dir, p)
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
		all = append(all, Image{strings.TrimSuffix(p, ".img.gz"), b})
	}
	return all
}

// Patches yields offsets and the bytes to be put there, from a list of a
// three-byte offset and a new value each.
func Patches(list []byte) iter.Seq2[int, byte] {
	return func(yield func(int, byte) bool) {
		for ; len(list) >= 4; list = list[4:] {
			if !yield(int(list[0])<<16|int(list[1])<<8|int(list[2]), list[3]) {
				return
			}
		}
	}
}

// Check fails the test if what a parser says of size bytes cannot be: either
// used ranges within them and no error, or a reason to take all, with or without
// one. Nothing at all, content of another kind, can be.
func Check(t testing.TB, size int64, res *probe.Result, err error) {
	t.Helper()
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
}

// Place is a piece of metadata.
type Place struct {
	At, Len int
	// Fix sets the checksum in the piece right, as far as it has sense; nil if
	// there is none.
	Fix func(b []byte)
}

// Patched is an image with some of its places changed. An io.ReaderAt that
// copies no more of the image than that.
type Patched struct {
	image   []byte
	places  []Place
	changed map[int][]byte // by number of the place
}

// NewPatched changes places of an image: changes is a list of a place, a two-byte
// offset in it and a new value each. fix sets the checksums right afterwards.
func NewPatched(image []byte, places []Place, changes []byte, fix bool) Patched {
	p := Patched{image, places, map[int][]byte{}}
	for ; len(changes) >= 4; changes = changes[4:] {
		i := int(changes[0]) % len(places)
		pl := places[i]
		if p.changed[i] == nil {
			p.changed[i] = bytes.Clone(image[pl.At:][:pl.Len])
		}
		p.changed[i][int(binary.BigEndian.Uint16(changes[1:]))%pl.Len] = changes[3]
	}
	for i, c := range p.changed {
		if fix && places[i].Fix != nil {
			places[i].Fix(c)
		}
	}
	return p
}

// ReadAt implements io.ReaderAt.
func (p Patched) ReadAt(b []byte, at int64) (int, error) {
	n, err := bytes.NewReader(p.image).ReadAt(b, at)
	for i, c := range p.changed {
		from, to := max(p.places[i].At, int(at)), min(p.places[i].At+len(c), int(at)+n)
		if from < to {
			copy(b[from-int(at):], c[from-p.places[i].At:to-p.places[i].At])
		}
	}
	return n, err
}

// CheckFixed fails the test if setting a checksum of a sound image changes it.
func CheckFixed(t testing.TB, img Image, places []Place) {
	t.Helper()
	for _, p := range places {
		if p.Fix == nil {
			continue
		}
		b := bytes.Clone(img.Bytes[p.At:][:p.Len])
		if p.Fix(b); !bytes.Equal(b, img.Bytes[p.At:][:p.Len]) {
			t.Errorf("%s: wrong checksum at %d", img.Name, p.At)
		}
	}
}

// ReadErrors fails the test if a parser does not pass on that a place cannot be
// read, or says so of fewer than least places.
func ReadErrors(t testing.TB, img Image, places []Place, least int, parse func(r io.ReaderAt, size int64) (*probe.Result, error)) {
	t.Helper()
	failed := 0
	for _, p := range places {
		res, err := parse(broken{bytes.NewReader(img.Bytes), p.At}, int64(len(img.Bytes)))
		if err != nil {
			failed++
		}
		if (err == nil) != (res != nil && res.Used != nil) || err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s at %d: %+v, error %v", img.Name, p.At, res, err)
		}
	}
	if failed < least {
		t.Errorf("%s: %d of %d places matter", img.Name, failed, len(places))
	}
}

// broken is a disk with an unreadable byte.
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
