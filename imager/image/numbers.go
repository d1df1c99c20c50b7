package image

import (
	"hash/maphash"
	"math/bits"
)

// Numbers finds numbers by the IDs of what they number, which stand elsewhere.
// It is an open hash table of 5 to 11 bytes for each ID, where a Go map of IDs
// takes ten times that. Numbers are below 2³²-1.
type Numbers struct {
	id    func(n uint32) *ID
	seed  maphash.Seed // so that nobody can make IDs that collide
	slots []uint32     // number plus one, or 0; as many as a power of two
	used  int
}

// NewNumbers returns a table with room for so many IDs; it grows when there are
// more. id returns the ID of what n numbers, as long as n is in the table.
func NewNumbers(room int, id func(n uint32) *ID) *Numbers {
	return &Numbers{id: id, seed: maphash.MakeSeed(), slots: make([]uint32, 1<<bits.Len(uint(room)*4/3))}
}

// Len returns how many IDs are in the table.
func (t *Numbers) Len() int { return t.used }

// slot returns where id is, or is to be if it is not there.
func (t *Numbers) slot(id *ID) *uint32 {
	mask := uint64(len(t.slots) - 1)
	for at := maphash.Bytes(t.seed, id[:]) & mask; ; at = (at + 1) & mask {
		if s := &t.slots[at]; *s == 0 || *t.id(*s - 1) == *id {
			return s
		}
	}
}

// Find returns the number of an ID.
func (t *Numbers) Find(id *ID) (n uint32, ok bool) {
	s := *t.slot(id)
	return s - 1, s != 0
}

// Set makes n the number of its ID and returns the one that was.
func (t *Numbers) Set(n uint32) (before uint32, was bool) {
	if t.used+1 > len(t.slots)/4*3 {
		t.grow()
	}
	s := t.slot(t.id(n))
	before, was = *s-1, *s != 0
	if !was {
		t.used++
	}
	*s = n + 1
	return before, was
}

// grow makes room for twice as many.
func (t *Numbers) grow() {
	old := t.slots
	t.slots = make([]uint32, max(4, 2*len(old)))
	for _, s := range old {
		if s != 0 {
			*t.slot(t.id(s - 1)) = s
		}
	}
}
