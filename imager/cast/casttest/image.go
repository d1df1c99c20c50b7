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

// Bytes returns the sum of the chunks' lengths.
func (m *Image) Bytes() int {
	n := 0
	for _, b := range m.Encoded {
		n += len(b)
	}
	return n
}

// Chunks implements cast.Source.
func (m *Image) Chunks() int { return len(m.Encoded) }

// Chunk implements cast.Source.
func (m *Image) Chunk(_ context.Context, n uint32) ([]byte, error) {
	if m.Broken[n] {
		return nil, &image.ChunkError{ID: image.ID{1}, Why: "broken for a test"}
	}
	return m.Encoded[n], nil
}

// Sink wants chunks of an Image; it implements cast.Sink.
type Sink struct {
	image *Image

	mu       sync.Mutex
	missing  map[uint32]bool
	complete chan struct{}
	// Wrong counts deliveries that were not the image's, Twice those of a
	// chunk that was not missing.
	Wrong, Twice int
}

// NewSink returns a sink that wants the chunks for which want is true; nil is
// all of them.
func NewSink(m *Image, want func(n uint32) bool) *Sink {
	s := &Sink{image: m, missing: make(map[uint32]bool), complete: make(chan struct{})}
	for n := range uint32(m.Chunks()) {
		if want == nil || want(n) {
			s.missing[n] = true
		}
	}
	s.finish()
	return s
}

func (s *Sink) finish() {
	if len(s.missing) == 0 {
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
	return len(s.missing)
}

// Useful implements cast.Sink.
func (s *Sink) Useful(n uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.missing[n]
}

// Missing implements cast.Sink.
func (s *Sink) Missing(from uint32, buf []uint32) []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := uint32(s.image.Chunks())
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
	if !s.missing[n] {
		s.Twice++
		return nil
	}
	delete(s.missing, n)
	s.finish()
	return nil
}
