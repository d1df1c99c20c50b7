// Package casttest runs the state machines of package cast over a virtual
// network in virtual time: loss, delay, reordering, duplicates and corruption
// come from a seed, so that every run can be repeated.
package casttest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	"huck/imager/image"
)

// Image is a set of encoded chunks; it implements cast.Source.
type Image struct {
	Encoded [][]byte
	// MapParts is how many of the last are parts of the chunk map.
	MapParts int
	// Broken chunks cannot be read.
	Broken map[uint32]bool
}

// NewImage returns an image of n chunks of random bytes, each of a length from
// min to max.
func NewImage(rnd *rand.Rand, n, min, max int) *Image {
	m := &Image{Encoded: make([][]byte, n), Broken: make(map[uint32]bool)}
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rnd.Uint32())
	}
	bytes := rand.NewChaCha8(seed)
	for i := range m.Encoded {
		m.Encoded[i] = make([]byte, min+rnd.IntN(max-min+1))
		bytes.Read(m.Encoded[i]) // never fails
	}
	return m
}

// newWindows returns an image of n chunks of size bytes that overlap in memory,
// so that a large one takes little.
func newWindows(rnd *rand.Rand, n, size int) *Image {
	const step = 61
	whole := NewImage(rnd, 1, size+n*step, size+n*step).Encoded[0]
	m := &Image{Encoded: make([][]byte, n)}
	for i := range m.Encoded {
		m.Encoded[i] = whole[i*step:][:size:size]
	}
	return m
}

// Bytes returns the sum of the chunks' lengths.
func (m *Image) Bytes() int {
	n := 0
	for _, b := range m.Encoded {
		n += len(b)
	}
	return n
}

// Chunks implements cast.Source.
func (m *Image) Chunks() int { return len(m.Encoded) - m.MapParts }

// Parts implements cast.Source.
func (m *Image) Parts() int { return m.MapParts }

// Chunk implements cast.Source.
func (m *Image) Chunk(_ context.Context, n uint32) ([]byte, error) {
	if m.Broken[n] {
		return nil, &image.ChunkError{ID: image.ID{1}, Why: "broken for a test"}
	}
	return m.Encoded[n], nil
}

// Sink wants chunks of an Image; it implements cast.Sink.
type Sink struct {
	// Count takes every chunk that a Receiver of this package has the symbols
	// of for right, without recovering it: any k symbols make a chunk.
	Count bool
	// Wrong counts deliveries that were not the image's, Twice those of a
	// chunk that was not missing.
	Wrong, Twice int

	image *Image

	mu       sync.Mutex
	missing  []bool
	left     int
	complete chan struct{}
}

// NewSink returns a sink that wants the chunks for which want is true; nil is
// all of them.
func NewSink(m *Image, want func(n uint32) bool) *Sink {
	s := &Sink{image: m, missing: make([]bool, len(m.Encoded)), complete: make(chan struct{})}
	for n := range uint32(len(m.Encoded)) {
		if want == nil || want(n) {
			s.missing[n] = true
			s.left++
		}
	}
	s.finish()
	return s
}

func (s *Sink) finish() {
	if s.left == 0 {
		close(s.complete)
	}
}

// Expect makes m what the sink compares deliveries with.
func (s *Sink) Expect(m *Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.image = m
}

// Left returns how many chunks are missing.
func (s *Sink) Left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left
}

// Useful implements cast.Sink.
func (s *Sink) Useful(n uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return n < uint32(len(s.missing)) && s.missing[n]
}

// Missing implements cast.Sink.
func (s *Sink) Missing(from uint32, buf []uint32) []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := uint32(len(s.missing))
	filled := 0
	for i := range n {
		if filled == len(buf) {
			break
		}
		if c := (from%n + i) % n; s.missing[c] {
			buf[filled] = c
			filled++
		}
	}
	return buf[:filled]
}

// Complete implements cast.Sink.
func (s *Sink) Complete() <-chan struct{} { return s.complete }

// Deliver implements cast.Sink.
func (s *Sink) Deliver(_ context.Context, n uint32, encoded []byte, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !bytes.Equal(encoded, s.image.Encoded[n]) {
		s.Wrong++
		return fmt.Errorf("casttest: %w", &image.ChunkError{ID: image.ID{1}, Why: "wrong bytes"})
	}
	s.place(n)
	return nil
}

// deliver is Deliver for right bytes.
func (s *Sink) deliver(n uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.place(n)
	return nil
}

// place notes that a chunk is there.
func (s *Sink) place(n uint32) {
	if !s.missing[n] {
		s.Twice++
		return
	}
	s.missing[n] = false
	s.left--
	s.finish()
}
