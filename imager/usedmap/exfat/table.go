package exfat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"huck/imager/usedmap/internal/cluster"
	"huck/imager/usedmap/internal/probe"
)

// contradiction tells what in the filesystem does not add up.
type contradiction string

func (c contradiction) Error() string { return string(c) }

func contradict(format string, a ...any) error { return contradiction(fmt.Sprintf(format, a...)) }

const (
	piece = 1 << 20 // how much of a table is read at once to compare

	pageSize  = 4 << 10 // of the table, as kept
	pageCount = 1 << 10 // pages kept, 4 MiB in all

	// maxRuns bounds what is kept of a file's place to some 32 MiB.
	maxRuns = 1 << 20
	// lastCluster is what an entry of the table says at a chain's end.
	lastCluster = 0xffffffff
)

// table is the file allocation table: it tells what cluster follows another in
// files that do not lie in one piece.
type table struct {
	*geometry
	disk  io.ReaderAt
	pages [pageCount]page
}

type page struct {
	number int64
	b      []byte
}

// next returns the cluster after cluster c, which must be valid.
func (t *table) next(c int64) (int64, error) {
	number := c * 4 / pageSize
	p := &t.pages[number%pageCount]
	if p.b == nil || p.number != number {
		b := make([]byte, min(pageSize, t.fatSize-number*pageSize))
		if err := probe.Read(t.disk, b, t.fat+number*pageSize); err != nil {
			return 0, err
		}
		*p = page{number, b}
	}
	return int64(binary.LittleEndian.Uint32(p.b[c*4%pageSize:])), nil
}

// mirrored compares the two tables of TexFAT, only one of which counts while
// something changes.
func (t *table) mirrored() error {
	if t.fats() == 1 {
		return nil
	}
	a, b := make([]byte, min(piece, t.fatSize)), make([]byte, min(piece, t.fatSize))
	for at := int64(0); at < t.fatSize; at += piece {
		a, b := a[:min(piece, t.fatSize-at)], b[:min(piece, t.fatSize-at)]
		if err := probe.Read(t.disk, a, t.fat+at); err != nil {
			return err
		}
		if err := probe.Read(t.disk, b, t.fat+t.fatSize+at); err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			return contradict("the two copies of its table disagree")
		}
	}
	return nil
}

// place is where a file lies, as a directory tells it.
type place struct {
	what  string
	first int64  // cluster
	size  uint64 // bytes
	// together means that the clusters follow one another and the table says
	// nothing of them.
	together bool
}

// each calls f for every run of n clusters, from number c on, of the file at
// p. A file of no bytes has none.
func (t *table) each(p place, f func(c, n int64) error) error {
	if p.size > uint64(t.clusters()*t.cluster) {
		return contradict("%s has %d bytes, all clusters %d", p.what, p.size, t.clusters()*t.cluster)
	}
	left := (int64(p.size) + t.cluster - 1) / t.cluster
	if left == 0 {
		return nil
	}
	if !t.valid(p.first) || p.together && left > t.clusters()+2-p.first {
		return contradict("%s has cluster %d of %d and %d more", p.what, p.first, t.clusters(), left-1)
	}
	if p.together {
		return f(p.first, left)
	}
	for c := p.first; ; {
		first, n := c, int64(0)
		for {
			next, err := t.next(c)
			if err != nil {
				return err
			}
			n, left = n+1, left-1
			if (next == lastCluster) != (left == 0) || left != 0 && !t.valid(next) {
				return contradict("%s: cluster %d follows cluster %d, with %d to come", p.what, next, c, left)
			}
			joined := next == c+1
			c = next
			if !joined {
				break
			}
		}
		if err := f(first, n); err != nil || left == 0 {
			return err
		}
	}
}

// open makes the file at p one that can be read.
func (t *table) open(p place) (*cluster.File, error) {
	f := cluster.NewFile(t.disk)
	err := t.each(p, func(c, n int64) error {
		if f.Runs() == maxRuns {
			return contradict("%s lies in more than %d pieces", p.what, maxRuns)
		}
		f.Add(t.offset(c), n*t.cluster)
		return nil
	})
	return f, err
}

// chain returns the place of a file whose size only the table tells, but that
// has at most limit bytes.
func (t *table) chain(what string, first, limit int64) (place, error) {
	p := place{what: what, first: first}
	for c := first; c != lastCluster; {
		if !t.valid(c) || p.size >= uint64(limit) {
			return p, contradict("%s: cluster %d of %d after %d bytes", what, c, t.clusters(), p.size)
		}
		next, err := t.next(c)
		if err != nil {
			return p, err
		}
		c, p.size = next, p.size+uint64(t.cluster)
	}
	return p, nil
}
