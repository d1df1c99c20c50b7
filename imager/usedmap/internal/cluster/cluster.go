// Package cluster holds what filesystems with an allocation bitmap share:
// files that are scattered over the disk in runs, and the bitmap itself.
package cluster

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"sort"

	"huck/imager/usedmap/internal/probe"
)

// File reads a file that lies in runs on a disk. Safe for concurrent use once
// its runs are added, if the disk is.
type File struct {
	r    io.ReaderAt
	runs []run
	size int64
}

// run is bytes from offset at of the disk on; they end at end of the file.
type run struct{ at, end int64 }

// NewFile makes an empty file on the disk r.
func NewFile(r io.ReaderAt) *File { return &File{r: r} }

// Add appends n bytes that lie at offset at of the disk. It panics if n is not
// positive or at negative.
func (f *File) Add(at, n int64) {
	if n <= 0 || at < 0 {
		panic(fmt.Sprintf("cluster: run %d+%d", at, n))
	}
	if last := len(f.runs) - 1; last >= 0 && f.runs[last].at+f.length(last) == at {
		f.runs[last].end += n
	} else {
		f.runs = append(f.runs, run{at, f.size + n})
	}
	f.size += n
}

func (f *File) length(i int) int64 {
	if i == 0 {
		return f.runs[0].end
	}
	return f.runs[i].end - f.runs[i-1].end
}

// Size is the sum of all runs in bytes.
func (f *File) Size() int64 { return f.size }

// Runs is in how many pieces the file lies.
func (f *File) Runs() int { return len(f.runs) }

// Start is where on the disk the file begins; -1 if it has no runs.
func (f *File) Start() int64 {
	if len(f.runs) == 0 {
		return -1
	}
	return f.runs[0].at
}

// Each calls do for the stretches of the disk in which the file lies from offset
// from on.
func (f *File) Each(from int64, do func(at, n int64)) {
	for i, r := range f.runs {
		n := f.length(i)
		if skip := max(0, from-(r.end-n)); skip < n {
			do(r.at+skip, n-skip)
		}
	}
}

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(b []byte, off int64) (int, error) {
	done := 0
	i := sort.Search(len(f.runs), func(i int) bool { return f.runs[i].end > off })
	for ; i < len(f.runs) && done < len(b); i++ {
		left := f.runs[i].end - off
		n := int(min(left, int64(len(b)-done)))
		if err := probe.Read(f.r, b[done:done+n], f.runs[i].at+f.length(i)-left); err != nil {
			return done, err
		}
		done, off = done+n, off+int64(n)
	}
	if done < len(b) {
		return done, io.EOF
	}
	return done, nil
}

const (
	pageBits  = 16 << 13 // bits in a page of 16 KiB
	pageCount = 512      // pages kept, 8 MiB in all
)

// Bitmap is an allocation bitmap on a disk: bit n, counted from the lowest of
// the first byte on, is set where cluster n is used. It keeps parts of what it
// read. Not safe for concurrent use.
type Bitmap struct {
	r     io.ReaderAt
	n     int64
	pages [pageCount]page
}

type page struct {
	number int64
	b      []byte
}

// NewBitmap makes a bitmap of the first n bits that r holds.
func NewBitmap(r io.ReaderAt, n int64) *Bitmap { return &Bitmap{r: r, n: n} }

// page returns the page that holds bit c.
func (m *Bitmap) page(c int64) ([]byte, error) {
	number := c / pageBits
	p := &m.pages[number%pageCount]
	if p.b != nil && p.number == number {
		return p.b, nil
	}
	left := (m.n + 7) / 8
	b := make([]byte, min(pageBits/8, left-number*pageBits/8))
	if err := probe.Read(m.r, b, number*pageBits/8); err != nil {
		return nil, err
	}
	*p = page{number, b}
	return b, nil
}

// Next returns the first cluster from c on, before end, that is used, or is
// free; end if there is none. Clusters past the bitmap's end are neither.
func (m *Bitmap) Next(c, end int64, used bool) (int64, error) {
	stop := min(end, m.n)
	for c < stop {
		b, err := m.page(c)
		if err != nil {
			return 0, err
		}
		first := c - c%pageBits
		last := min(stop, first+pageBits)
		if i := next(b, c-first, last-first, used); i < last-first {
			return first + i, nil
		}
		c = last
	}
	return end, nil
}

// next returns the first bit from c on, before end, that is as wanted; end if
// there is none.
func next(b []byte, c, end int64, set bool) int64 {
	var skip uint64
	if !set {
		skip = ^skip
	}
	for c < end {
		if c%8 == 0 && c/8+8 <= int64(len(b)) { // long stretches are the rule
			if w := binary.LittleEndian.Uint64(b[c/8:]) ^ skip; w != 0 {
				return min(end, c+int64(bits.TrailingZeros64(w)))
			}
			c += 64
			continue
		}
		if v := (b[c/8] ^ byte(skip)) >> (c % 8); v != 0 {
			return min(end, c+int64(bits.TrailingZeros8(v)))
		}
		c = c&^7 + 8
	}
	return end
}

// Each calls add for each run of n used clusters, ascending.
func (m *Bitmap) Each(add func(c, n int64)) error {
	for c := int64(0); c < m.n; {
		from, err := m.Next(c, m.n, true)
		if err != nil {
			return err
		}
		if c, err = m.Next(from, m.n, false); err != nil {
			return err
		}
		if c > from {
			add(from, c-from)
		}
	}
	return nil
}
