package install

import "math/bits"

// bitset is a set of small numbers.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) has(i int) bool { return b[i/64]>>(i%64)&1 != 0 }
func (b bitset) add(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bitset) remove(i int)   { b[i/64] &^= 1 << (i % 64) }

// fill adds all numbers below n.
func (b bitset) fill(n int) {
	for i := range b {
		b[i] = ^uint64(0)
	}
	if n%64 != 0 {
		b[len(b)-1] = 1<<(n%64) - 1
	}
}

// appendDiff appends the numbers from lo to hi-1 that are in b and not in c to
// dst until it holds limit.
func (b bitset) appendDiff(dst []uint32, c bitset, lo, hi, limit int) []uint32 {
	for w := lo / 64; w*64 < hi && len(dst) < limit; w++ {
		word := b[w] &^ c[w]
		if w == lo/64 {
			word &= ^uint64(0) << (lo % 64)
		}
		for ; word != 0 && len(dst) < limit; word &= word - 1 {
			i := w*64 + bits.TrailingZeros64(word)
			if i >= hi {
				return dst
			}
			dst = append(dst, uint32(i))
		}
	}
	return dst
}
