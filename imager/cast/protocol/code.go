package protocol

import (
	"fmt"
	"math/bits"

	"github.com/klauspost/reedsolomon"
)

const (
	// MaxChunk is the longest encoded chunk in bytes: a region, since a chunk
	// that does not shrink is sent as it is (FORMAT.md, Encoded chunk).
	MaxChunk = 256 << 10
	// MaxChunks bounds the chunks of an image, as FORMAT.md does.
	MaxChunks = 1 << 24
	// MaxSymbols is how many symbol numbers a chunk has, source and parity.
	MaxSymbols = 256
)

// Shape is how an encoded chunk is cut into symbols (Symbols).
type Shape struct {
	// Length of the encoded chunk in bytes.
	Length int
	// K is the number of source symbols, L the length in bytes of all symbols
	// but the last source symbol, which can be shorter.
	K, L int
}

// NewShape cuts a chunk of length bytes into as few and as even symbols of at
// most size bytes as possible. It fails if that takes more than MaxSymbols.
func NewShape(length, size int) (Shape, error) {
	if length < 1 || length > MaxChunk || size < 1 {
		return Shape{}, fmt.Errorf("protocol: chunk of %d bytes in symbols of %d: %w", length, size, ErrMalformed)
	}
	k := (length + size - 1) / size
	l := (length + k - 1) / k
	// Even symbols can be one fewer where size is tiny: 5 bytes in 4 of 2.
	k = (length + l - 1) / l
	if k > MaxSymbols {
		return Shape{}, fmt.Errorf("protocol: chunk of %d bytes takes %d symbols of %d: %w", length, k, size, ErrMalformed)
	}
	return Shape{length, k, l}, nil
}

// SymbolLen returns the length in bytes of symbol number n.
func (s Shape) SymbolLen(n int) int {
	if n == s.K-1 {
		return s.Length - n*s.L
	}
	return s.L
}

// Source returns source symbol n of the encoded chunk.
func (s Shape) Source(encoded []byte, n int) []byte {
	return encoded[n*s.L : n*s.L+s.SymbolLen(n)]
}

// Parity computes parity symbol n, from K to 255, of the encoded chunk into
// dst, which has L bytes (Code).
func (s Shape) Parity(dst, encoded []byte, n int) {
	var gf reedsolomon.LowLevel
	dst = dst[:s.L]
	clear(dst)
	for c := range s.K {
		gf.GalMulSliceXor(coefficient(n, c), s.Source(encoded, c), dst)
	}
}

// coefficient is the Cauchy matrix: parity symbol n is the sum over c of
// source symbol c times 1/(n ⊕ c) in GF(2^8) with polynomial 0x11d.
func coefficient(n, c int) byte { return reedsolomon.Inv(byte(n ^ c)) }

// Set is a set of symbol numbers.
type Set [MaxSymbols / 64]uint64

// Has reports whether n is in the set.
func (s *Set) Has(n int) bool { return s[n/64]&(1<<(n%64)) != 0 }

// Add puts n into the set.
func (s *Set) Add(n int) { s[n/64] |= 1 << (n % 64) }

// Len returns how many numbers are in the set.
func (s *Set) Len() int {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// Symbol is a parity symbol that was received.
type Symbol struct {
	Number  int
	Payload []byte // L bytes
}

// Recover fills the source symbols that are not in have into encoded, which
// has Length bytes and all the others. It takes as many of the parity symbols
// as are missing and overwrites their payloads (Code).
func (s Shape) Recover(encoded []byte, have *Set, parity []Symbol) error {
	var gf reedsolomon.LowLevel
	var missing []int
	for c := range s.K {
		if !have.Has(c) {
			missing = append(missing, c)
		}
	}
	e := len(missing)
	if len(parity) < e {
		return fmt.Errorf("protocol: %d source symbols missing, %d parity symbols", e, len(parity))
	}
	parity = parity[:e]
	matrix := make([]byte, e*e)
	row := func(i int) []byte { return matrix[i*e : i*e+e] }
	for i, p := range parity {
		for c := range s.K {
			if have.Has(c) {
				gf.GalMulSliceXor(coefficient(p.Number, c), s.Source(encoded, c), p.Payload)
			}
		}
		for j, c := range missing {
			row(i)[j] = coefficient(p.Number, c)
		}
	}
	// Every square part of a Cauchy matrix is regular, so are all its leading
	// parts: no pivot below is zero.
	for i := range e {
		inv := reedsolomon.Inv(row(i)[i])
		gf.GalMulSlice(inv, row(i), row(i))
		gf.GalMulSlice(inv, parity[i].Payload, parity[i].Payload)
		for j := range e {
			if f := row(j)[i]; j != i && f != 0 {
				gf.GalMulSliceXor(f, row(i), row(j))
				gf.GalMulSliceXor(f, parity[i].Payload, parity[j].Payload)
			}
		}
	}
	for i, c := range missing {
		copy(s.Source(encoded, c), parity[i].Payload)
	}
	return nil
}
