package cluster_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"huck/imager/usedmap/internal/cluster"
)

func TestFile(t *testing.T) {
	disk := []byte("0123456789abcdef")
	f := cluster.NewFile(bytes.NewReader(disk))
	if f.Start() != -1 {
		t.Errorf("a file without runs begins at %d", f.Start())
	}
	f.Add(10, 3)
	f.Add(13, 1) // goes on where the one before ends
	f.Add(2, 2)
	f.Add(0, 1)
	const want = "abcd230"
	if f.Size() != int64(len(want)) || f.Runs() != 3 || f.Start() != 10 {
		t.Errorf("%d bytes in %d runs from %d on", f.Size(), f.Runs(), f.Start())
	}
	for from := range len(want) + 1 {
		for n := range len(want) + 2 {
			b := make([]byte, n)
			got, err := f.ReadAt(b, int64(from))
			end := min(from+n, len(want))
			if string(b[:got]) != want[from:end] || (err == nil) != (from+n <= len(want)) || err != nil && !errors.Is(err, io.EOF) {
				t.Errorf("%d bytes at %d: %q, error %v", n, from, b[:got], err)
			}
		}
	}
	f.Add(15, 2)
	if _, err := f.ReadAt(make([]byte, 2), 7); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a run past the disk's end: %v", err)
	}
}

// TestBitmap compares with a look at each single bit.
func TestBitmap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 100<<10)
	for c := 0; c < len(b)*8; {
		n := 1 + rng.IntN(1<<rng.IntN(18))
		for ; n > 0 && c < len(b)*8; n-- {
			b[c/8] |= 1 << (c % 8)
			c++
		}
		c += 1 + rng.IntN(1<<rng.IntN(18))
	}
	for _, n := range []int64{0, 1, 7, 8, 100, 131071, 131072, 131073, int64(len(b)) * 8} {
		var got int64
		m := cluster.NewBitmap(bytes.NewReader(b), n)
		err := m.Each(func(c, l int64) {
			for ; got < c; got++ {
				if b[got/8]>>(got%8)&1 != 0 {
					t.Fatalf("bit %d of %d is set", got, n)
				}
			}
			for ; got < c+l; got++ {
				if b[got/8]>>(got%8)&1 == 0 {
					t.Fatalf("bit %d of %d is clear", got, n)
				}
			}
		})
		if err != nil || got > n {
			t.Fatalf("%d bits: up to %d, error %v", n, got, err)
		}
		for ; got < n; got++ {
			if b[got/8]>>(got%8)&1 != 0 {
				t.Fatalf("bit %d of %d is set, at the end", got, n)
			}
		}
	}
	m := cluster.NewBitmap(bytes.NewReader([]byte{0xf0, 0xff}), 20)
	if _, err := m.Next(0, 20, true); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a bitmap shorter than it says: %v", err)
	}
}
