// Package exfat finds the used clusters of exFAT filesystems, after
// Microsoft's exFAT file system specification 1.00. There is no count of free
// clusters in them, so the bitmap is believed only if every cluster of every
// file is used by it: all directories are read.
package exfat

import (
	"bytes"
	"errors"
	"io"

	"huck/imager/usedmap/internal/cluster"
	"huck/imager/usedmap/internal/probe"
)

// Probe finds the used sectors of the exFAT filesystem in r, size bytes long:
// boot regions, tables, and the clusters that its bitmap marks. The result is
// nil if there is none. The error is a *probe.Refused or one of reading; the
// result is valid beside it.
func Probe(r io.ReaderAt, size int64) (*probe.Result, error) {
	if size < 512 {
		return nil, nil
	}
	b := boot(make([]byte, 512))
	if err := probe.Read(r, b, 0); err != nil {
		return nil, err
	}
	if !b.isExFAT() {
		return nil, nil
	}
	res := &probe.Result{Content: "exfat", UUID: b.uuid()}
	g, err := newGeometry(b, size)
	if err != nil {
		return res.TakeWhole("its boot sector makes no sense: %v", err), nil
	}
	if b.dirty() {
		return res.Refuse("it is marked dirty: it is mounted or was not unmounted cleanly: run fsck.exfat")
	}
	used, err := g.used(r, res)
	var c contradiction
	if errors.As(err, &c) {
		return res.TakeWhole("%s", string(c)), nil
	}
	if err != nil {
		return res, err
	}
	res.Used = used
	res.EndsAt(g.end, size)
	return res, nil
}

// used returns the used bytes, or a contradiction.
func (g *geometry) used(r io.ReaderAt, res *probe.Result) (*probe.Set, error) {
	if err := g.verify(r); err != nil {
		return nil, err
	}
	t := &table{geometry: g, disk: r}
	if err := t.mirrored(); err != nil {
		return nil, err
	}
	root, err := t.chain("its root directory", g.root(), maxDirectory)
	if err != nil {
		return nil, err
	}
	m, sys, err := t.bitmap(root)
	if err != nil {
		return nil, err
	}
	res.Label = sys.label
	if err := t.check(m, sys, root); err != nil {
		return nil, err
	}
	set := new(probe.Set)
	set.Add(0, 2*regionSectors*g.sector)
	set.Add(g.fat, g.fats()*g.fatSize)
	err = m.Each(func(c, n int64) { set.Add(g.offset(c+2), n*g.cluster) })
	return set, err
}

// bitmap finds the bitmap in the root directory. Its first bit is that of
// cluster 2.
func (t *table) bitmap(root place) (*cluster.Bitmap, *system, error) {
	w := &tree{table: t, sys: new(system), seen: make(map[int64]struct{}), file: func(place) error { return nil }}
	if err := w.read(root, true); err != nil {
		return nil, nil, err
	}
	var maps []*cluster.File
	for _, p := range w.sys.bitmaps {
		f, err := t.open(p)
		if err != nil {
			return nil, nil, err
		}
		if p.size < uint64(t.clusters()+7)/8 {
			return nil, nil, contradict("its bitmap has %d bytes for %d clusters", p.size, t.clusters())
		}
		maps = append(maps, f)
	}
	if int64(len(maps)) != t.fats() || w.sys.upcase == nil {
		return nil, nil, contradict("its root has %d bitmaps for %d tables, up-case table: %t", len(maps), t.fats(), w.sys.upcase != nil)
	}
	if len(maps) == 2 {
		if err := same(maps[0], maps[1], (t.clusters()+7)/8); err != nil {
			return nil, nil, err
		}
	}
	return cluster.NewBitmap(maps[0], t.clusters()), w.sys, nil
}

// same compares the first n bytes of the two bitmaps of TexFAT.
func same(x, y io.ReaderAt, n int64) error {
	a, b := make([]byte, min(piece, n)), make([]byte, min(piece, n))
	for at := int64(0); at < n; at += piece {
		a, b := a[:min(piece, n-at)], b[:min(piece, n-at)]
		if err := probe.Read(x, a, at); err != nil {
			return err
		}
		if err := probe.Read(y, b, at); err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			return contradict("its two bitmaps disagree")
		}
	}
	return nil
}

// check wants all that the filesystem holds to be used by its bitmap.
func (t *table) check(m *cluster.Bitmap, sys *system, root place) error {
	var held int64
	file := func(p place) error {
		return t.each(p, func(c, n int64) error {
			if held += n; held > t.clusters() {
				return contradict("its files have more clusters than there are")
			}
			free, err := m.Next(c-2, c-2+n, false)
			if err == nil && free < c-2+n {
				err = contradict("%s has cluster %d, which is free by the bitmap", p.what, free+2)
			}
			return err
		})
	}
	for _, p := range append(sys.bitmaps, *sys.upcase, root) {
		if err := file(p); err != nil {
			return err
		}
	}
	w := &tree{table: t, sys: new(system), file: file}
	return w.walk(root)
}
