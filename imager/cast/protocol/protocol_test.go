package protocol_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/reedsolomon"

	"huck/imager/cast/protocol"
)

func TestShape(t *testing.T) {
	for _, c := range []struct{ length, size, k, l, last int }{
		{262144, 1408, 187, 1402, 1372},
		{262144, 1152, 228, 1150, 1094},
		{4096, 1408, 3, 1366, 1364},
		{1408, 1408, 1, 1408, 1408},
		{1409, 1408, 2, 705, 704},
		{1, 1408, 1, 1, 1},
		{5, 2, 3, 2, 1},
	} {
		s, err := protocol.NewShape(c.length, c.size)
		if err != nil {
			t.Fatal(err)
		}
		if s.K != c.k || s.L != c.l || s.SymbolLen(s.K-1) != c.last {
			t.Errorf("%d in %d: k %d, l %d, last %d; want %d, %d, %d", c.length, c.size, s.K, s.L, s.SymbolLen(s.K-1), c.k, c.l, c.last)
		}
	}
	for _, c := range [][2]int{{0, 1408}, {protocol.MaxChunk + 1, 1408}, {10, 0}, {protocol.MaxChunk, 1023}} {
		if _, err := protocol.NewShape(c[0], c[1]); err == nil {
			t.Errorf("%d in %d: no error", c[0], c[1])
		}
	}
}

// TestShapeEveryLength: the symbols of every length add up and none is empty.
func TestShapeEveryLength(t *testing.T) {
	for _, size := range []int{1024, 1152, 1408, 8900} {
		for length := 1; length <= protocol.MaxChunk; length += 1 + length/500 {
			s, err := protocol.NewShape(length, size)
			if err != nil {
				t.Fatal(err)
			}
			if last := s.SymbolLen(s.K - 1); (s.K-1)*s.L+last != length || last < 1 || last > s.L || s.L > size || s.K > 256 {
				t.Fatalf("%d in %d: %+v with last %d", length, size, s, last)
			}
		}
	}
}

// TestParityIsKlauspost: the matrix is the one reedsolomon.WithCauchyMatrix
// makes, so that a published code judges ours.
func TestParityIsKlauspost(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for _, k := range []int{1, 2, 10, 58, 187} {
		chunk := random(rnd, k*64)
		s, err := protocol.NewShape(len(chunk), 64)
		if err != nil || s.K != k || s.L != 64 {
			t.Fatal(s, err)
		}
		enc, err := reedsolomon.New(k, 256-k, reedsolomon.WithCauchyMatrix())
		if err != nil {
			t.Fatal(err)
		}
		shards := make([][]byte, 256)
		for i := range shards {
			if shards[i] = make([]byte, 64); i < k {
				copy(shards[i], s.Source(chunk, i))
			}
		}
		if err := enc.Encode(shards); err != nil {
			t.Fatal(err)
		}
		for n := k; n < 256; n++ {
			got := make([]byte, 64)
			s.Parity(got, chunk, n)
			if !bytes.Equal(got, shards[n]) {
				t.Fatalf("k %d: parity %d differs", k, n)
			}
		}
	}
}

func random(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// TestRecover: any k symbols make the chunk.
func TestRecover(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 2))
	for range 300 {
		chunk := random(rnd, 1+rnd.IntN(6000))
		s, err := protocol.NewShape(len(chunk), 1+rnd.IntN(200)+len(chunk)/200)
		if err != nil {
			t.Fatal(err)
		}
		var have protocol.Set
		var parity []protocol.Symbol
		got := random(rnd, len(chunk)) // garbage where nothing was received
		for _, n := range rnd.Perm(256)[:s.K] {
			if n < s.K {
				have.Add(n)
				copy(s.Source(got, n), s.Source(chunk, n))
				continue
			}
			p := make([]byte, s.L)
			s.Parity(p, chunk, n)
			parity = append(parity, protocol.Symbol{Number: n, Payload: p})
		}
		if have.Len() < s.K {
			if err := s.Recover(got, &have, parity[:s.K-have.Len()-1]); err == nil {
				t.Fatal("recovered from too few symbols")
			}
		}
		if err := s.Recover(got, &have, parity); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, chunk) {
			t.Fatalf("%+v with %d parity symbols: wrong bytes", s, len(parity))
		}
	}
}

func BenchmarkRecover4of187(b *testing.B) {
	rnd := rand.New(rand.NewPCG(2, 2))
	chunk := random(rnd, protocol.MaxChunk)
	s, _ := protocol.NewShape(len(chunk), 1408)
	var have protocol.Set
	for n := range s.K {
		if n%50 != 0 {
			have.Add(n)
		}
	}
	parity := make([]protocol.Symbol, 4)
	for i := range parity {
		parity[i] = protocol.Symbol{Number: 187 + i, Payload: make([]byte, s.L)}
	}
	b.SetBytes(int64(len(chunk)))
	for b.Loop() { // on any payloads: Recover overwrites them
		if err := s.Recover(chunk, &have, parity); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParity(b *testing.B) {
	chunk := make([]byte, protocol.MaxChunk)
	s, _ := protocol.NewShape(len(chunk), 1408)
	dst := make([]byte, s.L)
	for b.Loop() {
		s.Parity(dst, chunk, 200)
	}
}
