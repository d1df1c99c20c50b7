package install

import (
	"maps"
	"sync"

	"huck/imager/api"
	"huck/imager/image"
)

// state is what is known of every region and chunk. A chunk is
//
//	unknown    while not all of its places have been compared and none differs,
//	in place   when all have been compared and none differs,
//	missing    when a place differs and nobody has delivered it,
//	settled    when it is in place, or verified and on its way to the disk.
type state struct {
	layout *image.Layout

	mu sync.Mutex
	// By map entry: compared with the disk, and found different.
	looked, differs bitset
	// left counts by chunk the places not compared yet.
	left []uint32
	// By chunk: a place differs; settled or being delivered just now.
	wanted, taken bitset
	missing       int // chunks in wanted and not in taken
	open          int // chunks not settled
	inPlace       int // chunks found in place
	progress      api.Progress

	changed  chan struct{}
	complete chan struct{}
}

// newState returns a state that knows nothing of the disk yet or, without a
// plan, takes all of it for different.
func newState(l *image.Layout, plan bool) *state {
	entries, chunks := len(l.Entries()), l.Chunks()
	s := &state{
		layout: l,
		looked: newBitset(entries), differs: newBitset(entries),
		left:   make([]uint32, chunks),
		wanted: newBitset(chunks), taken: newBitset(chunks),
		open:    chunks,
		changed: make(chan struct{}), complete: make(chan struct{}),
	}
	s.progress = api.Progress{Total: l.UsedBytes(), Received: make(map[string]int64)}
	if plan {
		for i := range entries {
			s.left[l.Number(i)]++
		}
	} else {
		s.looked.fill(entries)
		s.differs.fill(entries)
		s.wanted.fill(chunks)
		s.missing = chunks
	}
	if chunks == 0 {
		close(s.complete)
	}
	return s
}

// blank takes note, before all else, that the disk is all zeros: chunks that
// zeros says are so, too, are in place.
func (s *state) blank(zeros func(n uint32) bool) {
	for i := range s.layout.Entries() {
		n := s.layout.Number(i)
		if !zeros(n) {
			continue
		}
		s.differs.remove(i)
		s.progress.InPlace += s.size(i)
		if s.wanted.has(int(n)) { // its first place
			s.wanted.remove(int(n))
			s.taken.add(int(n))
			s.missing--
			s.settled(n)
		}
	}
}

// size returns the used bytes of region i.
func (s *state) size(i int) int64 { return int64(s.layout.Size(s.layout.Number(i))) }

// lookedAt reports whether region i has been compared with the disk.
func (s *state) lookedAt(i int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.looked.has(i)
}

// differsAt reports whether region i was found different.
func (s *state) differsAt(i int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.differs.has(i)
}

// saw takes note of how region i compares. The first look counts: later ones
// may have seen what we wrote.
func (s *state) saw(i int, same bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looked.has(i) {
		return
	}
	s.looked.add(i)
	n := s.layout.Number(i)
	s.left[n]--
	s.progress.Planned += s.size(i)
	if same {
		s.progress.InPlace += s.size(i)
	} else {
		s.differs.add(i)
	}
	first := !same && !s.wanted.has(int(n))
	if first {
		s.wanted.add(int(n))
	}
	switch {
	case s.taken.has(int(n)): // settle or release will see
	case first:
		s.missing++
		s.signal()
	case s.left[n] == 0 && !s.wanted.has(int(n)):
		s.taken.add(int(n))
		s.settled(n)
	}
}

// need makes the chunk of region i missing: what of it is on the disk can only
// be told with the chunk at hand.
func (s *state) need(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := int(s.layout.Number(i))
	if s.looked.has(i) || s.wanted.has(n) {
		return
	}
	s.wanted.add(n)
	if !s.taken.has(n) {
		s.missing++
		s.signal()
	}
}

// take hands chunk n to the caller, who must settle or release it; false if it
// needs no delivery.
func (s *state) take(n uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken.has(int(n)) {
		return false
	}
	s.taken.add(int(n))
	if s.wanted.has(int(n)) {
		s.missing--
	}
	return true
}

// release gives chunk n back: it was not delivered after all.
func (s *state) release(n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.wanted.has(int(n)):
		s.taken.remove(int(n))
		s.missing++
		s.signal()
	case s.left[n] == 0:
		s.settled(n)
	default:
		s.taken.remove(int(n))
	}
}

// settle ends the delivery of chunk n, all of whose places have been compared;
// written is how many bytes of it count as written.
func (s *state) settle(n uint32, written int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress.Written += written
	s.settled(n)
}

// wrote counts bytes that are on the disk.
func (s *state) wrote(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress.Written += n
}

func (s *state) settled(n uint32) {
	if !s.wanted.has(int(n)) {
		s.inPlace++
	}
	if s.open--; s.open == 0 {
		close(s.complete)
	}
}

// signal tells who waits that chunks have become missing.
func (s *state) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// received counts encoded bytes that a transport brought.
func (s *state) received(via string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress.Received[via] += int64(n)
}

// snapshot returns the progress and the number of chunks in place.
func (s *state) snapshot() (api.Progress, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.progress
	p.Received = maps.Clone(p.Received)
	return p, s.inPlace
}

// openChunks returns how many chunks are not settled.
func (s *state) openChunks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// Useful reports that chunk n is neither known to be in place nor delivered:
// its bytes may still be wanted.
func (j *Job) Useful(n uint32) bool {
	s := j.state
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(n) < len(s.left) && !s.taken.has(int(n))
}

// Missing fills buf, up to its capacity, with chunks known to be missing and
// not delivered, ascending from the number from on and then again from 0, none
// twice, and returns the part of buf it filled.
func (j *Job) Missing(from uint32, buf []uint32) []uint32 {
	s := j.state
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := min(cap(buf), s.missing)
	chunks := len(s.left)
	start := min(int(from), chunks)
	buf = s.wanted.appendDiff(buf[:0], s.taken, start, chunks, limit)
	return s.wanted.appendDiff(buf, s.taken, 0, start, limit)
}

// Changed returns a channel that is closed when chunks next become missing:
// because the plan went on or a delivery was no good.
func (j *Job) Changed() <-chan struct{} {
	s := j.state
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Complete returns a channel that is closed once every chunk is in place, or
// verified and on its way to the disk.
func (j *Job) Complete() <-chan struct{} { return j.state.complete }
