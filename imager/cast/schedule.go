package cast

import "time"

// Need returns the number of a chunk to read now; it is to be answered by
// Supply. False is none.
func (s *Sender) Need() (uint32, bool) {
	if !s.dirty || len(s.loading) >= maxReads {
		return 0, false
	}
	for c := range s.upcoming {
		if !s.loading[c] && !s.cache.has(c) {
			s.loading[c] = true
			return c, true
		}
	}
	s.dirty = false
	return 0, false
}

// readAhead is how many chunks of either kind are read before their turn.
const readAhead = 8

// maxReads is how many reads can be under way.
const maxReads = 2 * readAhead

// upcoming yields the chunks that will be sent next.
func (s *Sender) upcoming(yield func(uint32) bool) {
	for i, c := range s.repairs.order {
		if i == readAhead {
			break
		}
		if !yield(c) {
			return
		}
	}
	n := 0
	for c := range s.fresh.from(s.pos) {
		if n == readAhead || !yield(c) {
			return
		}
		n++
	}
}

// begin starts the next run whose chunk has been read.
func (s *Sender) begin(now time.Time) bool {
	c, repair, ok := s.pick(now)
	if !ok {
		return false
	}
	s.loaded, _ = s.cache.get(c)
	k := s.loaded.shape.K
	s.run = run{chunk: c, k: k, left: k, extra: -1}
	if repair {
		s.run.next, s.run.left = s.repairs.take(c, k)
		s.sinceFresh += s.run.left
	} else {
		s.run.extra = s.parity.symbols(k)
		s.run.left += s.run.extra
		s.fresh.remove(c)
		s.pos = c + 1
		s.sinceFresh = 0
	}
	if !s.part(c) {
		s.hold = time.Time{}
	}
	s.dirty = true
	s.stats.Chunks++
	return true
}

// pick chooses the next chunk: repairs first, since receivers hold memory for
// them, but not for ever.
func (s *Sender) pick(now time.Time) (c uint32, repair, ok bool) {
	if now.Before(s.hold) {
		c, ok = s.pickRepair()
		return c, true, ok && s.part(c)
	}
	if s.sinceFresh < repairBurst || s.fresh.count == 0 {
		if c, ok := s.pickRepair(); ok {
			return c, true, true
		}
	}
	// A chunk that is still being read is passed over only if one after it
	// is there: the disk is slow, but not equally.
	n := 0
	for c := range s.fresh.from(s.pos) {
		if s.cache.has(c) {
			return c, false, true
		}
		if n++; n == readAhead {
			break
		}
	}
	c, ok = s.pickRepair()
	return c, true, ok
}

func (s *Sender) pickRepair() (uint32, bool) {
	for i, c := range s.repairs.order {
		if i == readAhead {
			break
		}
		if s.cache.has(c) {
			return c, true
		}
	}
	return 0, false
}

// ready reports that begin would find a chunk.
func (s *Sender) ready(now time.Time) bool {
	_, _, ok := s.pick(now)
	return ok
}

// part reports whether number c is that of a part of the chunk map. Who asks for
// one knows nothing else to ask for: parts go as repairs do, before the chunks.
func (s *Sender) part(c uint32) bool { return c >= uint32(s.cfg.Chunks) }
