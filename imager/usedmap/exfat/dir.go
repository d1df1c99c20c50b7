package exfat

import (
	"encoding/binary"
	"fmt"
	"io"
	"unicode/utf16"

	"huck/imager/usedmap/internal/probe"
)

// Kinds of directory entries (specification, section 6.2). Those of a file
// follow one another: file, stream, names.
const (
	entrySize   = 32
	entryEnd    = 0x00
	entryBitmap = 0x81
	entryUpcase = 0x82
	entryLabel  = 0x83
	entryFile   = 0x85
	entryStream = 0xc0

	inUse     = 0x80
	secondary = 0x40
	benign    = 0x20 // not known is no reason to stop

	attrDirectory = 0x10

	// maxDirectory is the most a directory may have, by the specification.
	maxDirectory = 256 << 20
	// maxDirectories bounds what is kept of directories to some 60 MiB.
	maxDirectories = 1 << 20
)

// entry is a directory entry.
type entry []byte

func (e entry) kind() byte        { return e[0] }
func (e entry) flags() byte       { return e[1] }
func (e entry) u16(at int) uint16 { return binary.LittleEndian.Uint16(e[at:]) }
func (e entry) first() int64      { return int64(binary.LittleEndian.Uint32(e[20:])) }
func (e entry) size() uint64      { return binary.LittleEndian.Uint64(e[24:]) }

// place returns where the clusters of a secondary entry lie.
func (e entry) place(what string) place {
	return place{what, e.first(), e.size(), e.flags()&2 != 0}
}

// system is what the root directory holds for the filesystem as a whole.
type system struct {
	bitmaps []place
	upcase  *place
	label   string
}

// add takes note of an entry that is not a file's.
func (s *system) add(e entry) error {
	switch e.kind() {
	case entryBitmap:
		s.bitmaps = append(s.bitmaps, place{what: "its bitmap", first: e.first(), size: e.size()})
		if int(e.flags()&1) != len(s.bitmaps)-1 { // so there are two at most
			return contradict("its bitmaps are not numbered")
		}
	case entryUpcase:
		s.upcase = &place{what: "its up-case table", first: e.first(), size: e.size()}
	case entryLabel:
		u := make([]uint16, min(11, int(e.flags())))
		for i := range u {
			u[i] = e.u16(2 + 2*i)
		}
		s.label = string(utf16.Decode(u))
	default:
		if e.kind()&benign == 0 {
			return contradict("a directory entry of kind %02x is not known to this program", e.kind())
		}
	}
	return nil
}

// reader reads a directory entry by entry.
type reader struct {
	what string
	r    io.ReaderAt
	size int64
	at   int64
	b    []byte // read ahead
}

// next returns the next entry, or nil at the end.
func (d *reader) next() (entry, error) {
	if len(d.b) == 0 {
		if d.at >= d.size {
			return nil, nil
		}
		d.b = make([]byte, min(64<<10, d.size-d.at))
		if err := probe.Read(d.r, d.b, d.at); err != nil {
			return nil, err
		}
		d.at += int64(len(d.b))
	}
	e := entry(d.b[:entrySize])
	d.b = d.b[entrySize:]
	if e.kind() == entryEnd {
		d.at, d.b = d.size, nil
		return nil, nil
	}
	return e, nil
}

// set reads the secondary entries that belong to the file entry e, and checks
// their checksum (specification, section 6.3.3).
func (d *reader) set(e entry) ([]entry, error) {
	set := []entry{e}
	for range int(e.flags()) {
		s, err := d.next()
		if err != nil {
			return nil, err
		}
		if s == nil || s.kind()&(inUse|secondary) != inUse|secondary {
			return nil, contradict("%s: a file's entries are not complete", d.what)
		}
		set = append(set, s)
	}
	var sum uint16
	for i, s := range set {
		for at, c := range s {
			if i == 0 && (at == 2 || at == 3) {
				continue
			}
			sum = sum>>1 | sum<<15
			sum += uint16(c)
		}
	}
	if sum != e.u16(2) || len(set) < 2 || set[1].kind() != entryStream {
		return nil, contradict("%s: a file's entries have checksum %04x, their bytes give %04x", d.what, e.u16(2), sum)
	}
	return set, nil
}

// tree walks all directories.
type tree struct {
	*table
	todo []place
	seen map[int64]struct{} // first clusters of directories
	sys  *system
	file func(place) error // is called for every file, directories among them
}

// walk reads the root directory and all below it.
func (t *tree) walk(root place) error {
	t.seen = make(map[int64]struct{})
	if err := t.found(root); err != nil {
		return err
	}
	for len(t.todo) > 0 {
		p := t.todo[len(t.todo)-1]
		t.todo = t.todo[:len(t.todo)-1]
		if err := t.read(p, p.first == root.first); err != nil {
			return err
		}
	}
	return nil
}

// found keeps a directory to be read.
func (t *tree) found(p place) error {
	if _, ok := t.seen[p.first]; ok && p.size > 0 {
		return contradict("two directories begin with cluster %d", p.first)
	}
	if len(t.seen) == maxDirectories || p.size > maxDirectory {
		return contradict("it has more than %d directories, or one of more than %d bytes", maxDirectories, maxDirectory)
	}
	if p.size > 0 {
		t.seen[p.first] = struct{}{}
		t.todo = append(t.todo, p)
	}
	return nil
}

// read reads the directory at p.
func (t *tree) read(p place, root bool) error {
	f, err := t.open(p)
	if err != nil {
		return err
	}
	d := &reader{what: fmt.Sprintf("directory in cluster %d", p.first), r: f, size: f.Size()}
	for {
		e, err := d.next()
		if err != nil || e == nil {
			return err
		}
		switch {
		case e.kind()&inUse == 0:
		case e.kind() == entryFile:
			err = t.readFile(d, e)
		case e.kind()&secondary != 0:
			err = contradict("%s: an entry of kind %02x belongs to no file", d.what, e.kind())
		case root:
			err = t.sys.add(e)
		}
		if err != nil {
			return err
		}
	}
}

// readFile reads the entries of a file, of which e is the first, and notes the
// clusters that they tell of.
func (t *tree) readFile(d *reader, e entry) error {
	const allocated = 1
	set, err := d.set(e)
	if err != nil {
		return err
	}
	for _, s := range set[1:] {
		if s.flags()&allocated == 0 || s.kind() != entryStream && s.kind()&benign == 0 {
			continue
		}
		p := s.place(fmt.Sprintf("%s: a file", d.what))
		if err := t.file(p); err != nil {
			return err
		}
		if s.kind() == entryStream && e.u16(4)&attrDirectory != 0 {
			if err := t.found(p); err != nil {
				return err
			}
		}
	}
	return nil
}
