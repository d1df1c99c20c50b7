package probe

import (
	"iter"
	"slices"
)

// maxRanges bounds a Set's memory to 64 MiB.
const maxRanges = 4 << 20

// Set is a set of bytes, kept as ranges. Beyond four million ranges it closes
// the smallest gaps, so it may say that a little more is used than was added,
// never less. The zero value is empty. Not safe for concurrent use.
type Set struct {
	ranges []span
	sorted bool // ranges ascend and do not touch
	gap    int64
	limit  int // 0 means maxRanges
}

type span struct{ off, end int64 }

// Add adds n bytes from offset off on, both at least 0. Ascending offsets are
// cheapest.
func (s *Set) Add(off, n int64) {
	if n <= 0 {
		return
	}
	last := len(s.ranges) - 1
	switch {
	case last < 0:
		s.sorted = true
	case s.sorted && off >= s.ranges[last].off && off <= s.ranges[last].end+s.gap:
		s.ranges[last].end = max(s.ranges[last].end, off+n)
		return
	case off < s.ranges[last].end:
		s.sorted = false
	}
	s.ranges = append(s.ranges, span{off, off + n})
	if len(s.ranges) > s.max() {
		s.shrink()
	}
}

func (s *Set) max() int {
	if s.limit != 0 {
		return s.limit
	}
	return maxRanges
}

// shrink brings the ranges down to half the limit, so that it is not needed
// again soon.
func (s *Set) shrink() {
	s.normalize()
	for len(s.ranges) > s.max()/2 {
		s.gap = max(1, 2*s.gap)
		s.merge()
	}
}

func (s *Set) normalize() {
	if s.sorted {
		return
	}
	slices.SortFunc(s.ranges, func(a, b span) int {
		switch {
		case a.off < b.off:
			return -1
		case a.off > b.off:
			return 1
		}
		return 0
	})
	s.merge()
	s.sorted = true
}

// merge joins ranges that are gap bytes apart or less.
func (s *Set) merge() {
	out := s.ranges[:0]
	for _, r := range s.ranges {
		if n := len(out); n > 0 && r.off <= out[n-1].end+s.gap {
			out[n-1].end = max(out[n-1].end, r.end)
			continue
		}
		out = append(out, r)
	}
	s.ranges = out
}

// All yields offset and length of the ranges, in bytes, ascending and apart.
func (s *Set) All() iter.Seq2[int64, int64] {
	s.normalize()
	return func(yield func(int64, int64) bool) {
		for _, r := range s.ranges {
			if !yield(r.off, r.end-r.off) {
				return
			}
		}
	}
}

// Bytes returns how many bytes the set holds.
func (s *Set) Bytes() int64 {
	var n int64
	for _, l := range s.All() {
		n += l
	}
	return n
}

// Without returns the bytes of s that are not in o.
func (s *Set) Without(o *Set) *Set {
	left := new(Set)
	o.normalize()
	i := 0
	for off, n := range s.All() {
		end := off + n
		for i < len(o.ranges) && o.ranges[i].end <= off {
			i++
		}
		for j := i; j < len(o.ranges) && o.ranges[j].off < end; j++ {
			left.Add(off, o.ranges[j].off-off)
			off = o.ranges[j].end
		}
		left.Add(off, end-off)
	}
	return left
}
