package lvm

import (
	"fmt"
	"io"
	"sort"
)

// reader reads a linear logical volume from its physical one.
type reader struct {
	r     io.ReaderAt
	parts []part // by off, without gaps
	size  int64
}

// part is n bytes of a logical volume from off on, at at in the physical one.
type part struct{ off, at, n int64 }

// each calls f, until it returns false, for the stretches of the physical
// volume in which the n bytes from off on lie, as far as there are so many.
func (l *reader) each(off, n int64, f func(at, n int64) bool) {
	i := sort.Search(len(l.parts), func(i int) bool { return l.parts[i].off+l.parts[i].n > off })
	for ; i < len(l.parts) && n > 0; i++ {
		p := l.parts[i]
		here := min(n, p.off+p.n-off)
		if !f(p.at+off-p.off, here) {
			return
		}
		off, n = off+here, n-here
	}
}

// ReadAt implements io.ReaderAt.
func (l *reader) ReadAt(b []byte, off int64) (done int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("usedmap: read at %d of a logical volume", off)
	}
	l.each(off, int64(len(b)), func(at, n int64) bool {
		var m int
		m, err = l.r.ReadAt(b[done:done+int(n)], at)
		done += m
		if int64(m) == n {
			err = nil // io.EOF beside a full read
		}
		return err == nil
	})
	if err == nil && done < len(b) {
		err = io.EOF
	}
	return done, err
}
