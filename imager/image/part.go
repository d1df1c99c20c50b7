package image

import (
	"fmt"

	"github.com/zeebo/blake3"
)

// partEntries is how many entries of a chunk map make a part: so many that a
// part is no longer than a chunk can be.
const partEntries = RegionSize / mapEntry

// MapParts returns how many parts a chunk map of that many entries has
// (FORMAT.md, Parts of a map).
func MapParts(entries int) int { return (entries + partEntries - 1) / partEntries }

// AppendMapPart appends part i of the chunk map with these entries, not encoded.
func AppendMapPart(b []byte, entries []Entry, i int) []byte {
	for _, e := range entries[i*partEntries : min((i+1)*partEntries, len(entries))] {
		b = appendEntry(b, &e)
	}
	return b
}

// MapBuilder puts a chunk map together from its parts, which may come in any
// order. It is not safe for concurrent use.
type MapBuilder struct {
	digest  ID
	man     *Manifest
	dec     *Decoder
	buf     []byte
	entries []Entry // as many as there are in all, from the first part on
	have    []bool
	left    int
}

// NewMapBuilder returns a builder of the chunk map that an image's manifest
// names. It verifies the manifest.
func NewMapBuilder(digest ID, manifest []byte) (*MapBuilder, error) {
	man, err := openManifest(digest, manifest)
	if err != nil {
		return nil, err
	}
	n := MapParts(man.Map.Regions)
	return &MapBuilder{digest: digest, man: man, have: make([]bool, n), left: n}, nil
}

// Manifest returns the image's manifest.
func (b *MapBuilder) Manifest() *Manifest { return b.man }

// Parts returns how many parts there are.
func (b *MapBuilder) Parts() int { return len(b.have) }

// Has reports whether part i is there.
func (b *MapBuilder) Has(i int) bool { return b.have[i] }

// Complete reports whether all parts are there.
func (b *MapBuilder) Complete() bool { return b.left == 0 }

// Add takes part i, encoded as a chunk is. What cannot be that part is a
// *ChunkError; what is another map's shows when the image is opened.
func (b *MapBuilder) Add(i int, encoded []byte) error {
	if b.have[i] {
		return nil
	}
	if b.entries == nil {
		b.entries, b.dec = make([]Entry, b.man.Map.Regions), NewDecoder()
		b.buf = make([]byte, RegionSize+DecodeSlack)
	}
	to := b.entries[i*partEntries : min((i+1)*partEntries, len(b.entries))]
	part, err := b.dec.decode(b.buf, encoded, b.man.Map.Digest, len(to)*mapEntry)
	if err != nil {
		return err
	}
	for j := range to {
		to[j] = parseEntry(part[j*mapEntry:])
	}
	b.have[i] = true
	if b.left--; b.left == 0 {
		b.dec, b.buf = nil, nil
	}
	return nil
}

// Open opens the image once all parts are there, and verifies the map. After an
// error all parts are missing again.
func (b *MapBuilder) Open() (*Image, error) {
	if b.left > 0 {
		return nil, fmt.Errorf("image: chunk map: %d of %d parts missing", b.left, len(b.have))
	}
	m := &Map{b.entries}
	img, err := b.open(m)
	if err != nil {
		b.entries, b.left = nil, len(b.have)
		clear(b.have)
	}
	return img, err
}

func (b *MapBuilder) open(m *Map) (*Image, error) {
	if got := m.digest(); got != b.man.Map.Digest {
		return nil, fmt.Errorf("image: chunk map hashes to %s, the manifest says %s: %w", got.Short(), b.man.Map.Digest.Short(), ErrFormat)
	}
	if err := m.check(b.man.DiskSize); err != nil {
		return nil, err
	}
	return assemble(b.digest, b.man, m)
}

// digest returns the hash of the map's bytes.
func (m *Map) digest() ID {
	sum := blake3.New()
	buf := appendMapHeader(make([]byte, 0, RegionSize), len(m.Entries))
	for i := range MapParts(len(m.Entries)) {
		_, _ = sum.Write(buf) // never fails
		buf = AppendMapPart(buf[:0], m.Entries, i)
	}
	_, _ = sum.Write(buf)
	return ID(sum.Sum(nil))
}
