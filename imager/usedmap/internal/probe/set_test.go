package probe

import (
	"math/rand/v2"
	"testing"
)

// TestSet compares a Set with a plain array of bools.
func TestSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		var want [4000]bool
		s := &Set{}
		if round%3 == 0 {
			s.limit = 20 // then it may hold more, never less
		}
		var at int64
		for range rng.IntN(200) {
			n := rng.Int64N(30)
			if at += rng.Int64N(40); round%2 == 0 || at+n > int64(len(want)) {
				at = rng.Int64N(int64(len(want)) - 30)
			}
			s.Add(at, n)
			for i := range n {
				want[at+i] = true
			}
		}
		var got [4000]bool
		var sum, last int64
		last = -1
		ranges := 0
		for off, n := range s.All() {
			if off <= last || n <= 0 {
				t.Fatalf("range %d+%d after %d", off, n, last)
			}
			for i := range n {
				got[off+i] = true
			}
			sum += n
			last = off + n
			ranges++
		}
		if s.Bytes() != sum {
			t.Fatalf("Bytes %d, ranges sum to %d", s.Bytes(), sum)
		}
		if s.limit == 0 && got != want {
			t.Fatalf("round %d: sets differ", round)
		}
		if s.limit != 0 && ranges > s.limit {
			t.Fatalf("%d ranges, limit %d", ranges, s.limit)
		}
		for i := range want {
			if want[i] && !got[i] {
				t.Fatalf("round %d: byte %d lost", round, i)
			}
		}
	}
}

func TestSetStops(t *testing.T) {
	s := &Set{}
	s.Add(0, 1)
	s.Add(10, 1)
	for range s.All() {
		break
	}
	if s.Bytes() != 2 {
		t.Error(s.Bytes())
	}
}

// TestWithout takes random sets from one another.
func TestWithout(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for round := range 300 {
		var in [2][600]bool
		var sets [2]Set
		for i := range sets {
			for range rng.IntN(30) {
				off, n := rng.IntN(500), rng.IntN(100)
				sets[i].Add(int64(off), int64(n))
				for j := off; j < off+n; j++ {
					in[i][j] = true
				}
			}
		}
		var got [600]bool
		for off, n := range sets[0].Without(&sets[1]).All() {
			for j := off; j < off+n; j++ {
				got[j] = true
			}
		}
		for j := range got {
			if want := in[0][j] && !in[1][j]; got[j] != want {
				t.Fatalf("round %d, byte %d: %v", round, j, got[j])
			}
		}
	}
}
