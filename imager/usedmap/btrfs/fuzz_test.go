package btrfs

import (
	"bytes"
	"encoding/binary"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"huck/imager/usedmap/internal/probe"
	"huck/imager/usedmap/internal/probetest"
)

const pageSize = 4096

// sparse is a disk of which only the pages are kept that are not zero.
type sparse struct {
	size  int64
	pages map[int64][]byte // by offset
}

func (s *sparse) ReadAt(b []byte, off int64) (int, error) {
	n := int(min(int64(len(b)), s.size-off))
	for done := 0; done < n; {
		at := (off + int64(done)) % pageSize
		part := b[done:min(n, done+int(pageSize-at))]
		if p, ok := s.pages[off+int64(done)-at]; ok {
			copy(part, p[at:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// write changes bytes within a page.
func (s *sparse) write(b []byte, off int64) {
	at := off % pageSize
	p := make([]byte, pageSize)
	copy(p, s.pages[off-at])
	copy(p[at:], b)
	s.pages[off-at] = p
}

func (s *sparse) clone() *sparse { return &sparse{s.size, maps.Clone(s.pages)} }

// images returns the filesystems in testdata, by name. They were made by
// mkfs.btrfs 6.2; what is unused in them is zero.
func images(t testing.TB) map[string]*sparse {
	t.Helper()
	all := make(map[string]*sparse)
	for _, img := range probetest.Images(t, os.DirFS("testdata")) {
		s := &sparse{int64(len(img.Bytes)), make(map[int64][]byte)}
		for off := int64(0); off < s.size; off += pageSize {
			if p := img.Bytes[off:][:pageSize]; len(bytes.Trim(p, "\x00")) != 0 {
				s.pages[off] = p
			}
		}
		all[img.Name] = s
	}
	return all
}

func TestImages(t *testing.T) {
	for name, s := range images(t) {
		res, err := Probe(s, s.size)
		if err != nil || res == nil || res.Used == nil || res.Used.Bytes() > 2<<20 {
			t.Errorf("%s: %+v, error %v", name, res, err)
		}
	}
}

// forest opens an image as Probe does.
func (s *sparse) forest(t *testing.T) *forest {
	t.Helper()
	b := make(super, superSize)
	if err := probe.Read(s, b, superOffset); err != nil {
		t.Fatal(err)
	}
	f := &forest{super: b, disk: s, nodes: new(probe.Set)}
	if err := f.readChunks(); err != nil {
		t.Fatal(err)
	}
	return f
}

// editLeaf changes the first leaf of a tree that holds an item of the given
// kind, in the given number of its copies, and sets its checksum. The item's
// header and data are handed to edit.
func (s *sparse) editLeaf(t *testing.T, tree uint64, kind byte, copies int, edit func(n node, head, item []byte)) {
	t.Helper()
	f := s.forest(t)
	p := f.chunkRoot()
	if tree == treeRoot {
		p = f.root()
	} else if tree != treeChunks {
		var err error
		if p, err = f.tree(tree); err != nil {
			t.Fatal(err)
		}
	}
	todo := []pointer{p}
	for len(todo) > 0 {
		p, todo = todo[0], todo[1:]
		n, err := f.read(p)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n.items() {
			if n.level() > 0 {
				todo = append(todo, n.child(i, p.owner))
				continue
			}
			if n.key(i).kind != kind {
				continue
			}
			b, _ := n.item(i)
			edit(n, n[nodeHeader+i*itemSize:nodeHeader+(i+1)*itemSize], b)
			s.put(t, f, p.at, n, copies)
			return
		}
	}
	t.Fatalf("tree %d has no item of kind %d", tree, kind)
}

func (s *sparse) put(t *testing.T, f *forest, at uint64, n node, copies int) {
	t.Helper()
	copy(n, f.checksum(n))
	c, err := f.chunks.find(at, uint64(len(n)))
	if err != nil {
		t.Fatal(err)
	}
	for _, stripe := range c.stripes[:min(copies, c.copies)] {
		for i := 0; i < len(n); i += pageSize {
			s.write(n[i:i+pageSize], int64(stripe+at-c.logical)+int64(i))
		}
	}
}

// TestContradiction has trees that are sound one by one and cannot be right.
func TestContradiction(t *testing.T) {
	le := binary.LittleEndian
	add := func(b []byte, n uint64) { le.PutUint64(b, le.Uint64(b)+n) }
	all := images(t)
	for _, c := range []struct {
		tree uint64
		kind byte
		edit func(n node, head, item []byte)
		want string
	}{
		{treeExtents, keyExtent, func(_ node, head, _ []byte) { add(head[9:], 1) }, "out of line"},
		{treeExtents, keyExtent, func(_ node, head, _ []byte) { add(head[9:], ^uint64(0)-4095) }, "bytes used by its count"},
		{treeExtents, keyExtent, func(_ node, head, _ []byte) { le.PutUint64(head[9:], 0) }, "in no chunk"},
		{treeExtents, keyExtent, func(_ node, head, _ []byte) { le.PutUint64(head[9:], 1<<40) }, "in no chunk"},
		{treeExtents, keyExtent, func(_ node, head, _ []byte) { head[8] = 3 }, "bytes used by its count"},
		{treeExtents, keyBlockGroup, func(_ node, _, item []byte) { add(item, 4096) }, "bytes used by its count"},
		{treeExtents, keyBlockGroup, func(_ node, head, _ []byte) { add(head[9:], 4096) }, "is no chunk"},
		{treeExtents, keyBlockGroup, func(_ node, head, _ []byte) { head[8]++ }, ""},
		{treeExtents, keyBlockGroup, func(_ node, head, _ []byte) { le.PutUint32(head[21:], 7) }, "is no chunk"},
		{treeExtents, keyBlockGroup, func(_ node, head, _ []byte) { le.PutUint32(head[17:], 1<<31) }, "makes no sense"},
		{treeExtents, keyBlockGroup, func(n node, _, _ []byte) { le.PutUint32(n[96:], 0) }, ""},
		{treeExtents, keyBlockGroup, func(n node, _, _ []byte) { le.PutUint32(n[96:], 1<<31) }, "items"},
		{treeExtents, keyBlockGroup, func(n node, _, _ []byte) { add(n[48:], 4096) }, "is that of address"},
		{treeExtents, keyBlockGroup, func(n node, _, _ []byte) { n[100]++ }, "level 1"},
		{treeExtents, keyBlockGroup, func(n node, _, _ []byte) { n[88]++ }, "of tree 3"},
		{treeExtents, keyBlockGroup, func(n node, _, _ []byte) { n[80]++ }, "of generation"},
		{treeExtents, keyBlockGroup, func(n node, _, _ []byte) { n[32]++ }, "of another filesystem"},
		{treeExtents, keyExtent, func(n node, _, _ []byte) { n[nodeHeader+7] = 0xff }, ""},
		{treeChunks, keyDevice, func(_ node, head, _ []byte) { add(head[9:], 1) }, "it has a device 2"},
		{treeChunks, keyChunk, func(_ node, _, item []byte) { item[24] |= 8 }, "single and dup only"},
		{treeChunks, keyChunk, func(_ node, _, item []byte) { add(item, 1<<50) }, "bytes, the device"},
		{treeChunks, keyChunk, func(_ node, _, item []byte) { add(item[48:], 1) }, "of device 2"},
		{treeChunks, keyChunk, func(_ node, _, item []byte) { le.PutUint64(item[56:], 1<<50) }, "lies at"},
		{treeChunks, keyChunk, func(_ node, head, _ []byte) { le.PutUint32(head[21:], 40) }, "has an item of 40 bytes"},
		{treeChunks, keyChunk, func(_ node, head, _ []byte) { head[8]++ }, ""},
	} {
		for name, s := range all {
			s := s.clone()
			s.editLeaf(t, c.tree, c.kind, 2, c.edit)
			res, err := Probe(s, s.size)
			if err != nil || res.Used != nil || res.Whole == "" || !strings.Contains(res.Whole, c.want) {
				t.Errorf("%s: %+v, error %v, want %q", name, res, err, c.want)
			}
		}
	}
}

// leaf makes a leaf of tree owner in the place of n.
func leaf(n node, owner uint64, heads, items [][]byte) node {
	le := binary.LittleEndian
	b := node(make([]byte, len(n)))
	copy(b, n[:nodeHeader])
	le.PutUint64(b[88:], owner)
	le.PutUint32(b[96:], uint32(len(items)))
	end := len(n)
	for i := range items {
		end -= copy(b[end-len(items[i]):], items[i])
		head := b[nodeHeader+i*itemSize:][:itemSize]
		copy(head, heads[i])
		le.PutUint32(head[keySize:], uint32(end-nodeHeader))
	}
	return b
}

// TestBlockGroupTree has the block groups in a tree of their own, which
// mkfs.btrfs 6.2 cannot make: it takes the place of the free space tree.
func TestBlockGroupTree(t *testing.T) {
	s := images(t)["mixed"]
	want, err := Probe(s, s.size)
	if err != nil || want.Used == nil {
		t.Fatalf("%+v, error %v", want, err)
	}
	f := s.forest(t)
	space, err := f.tree(10)
	if err != nil {
		t.Fatal(err)
	}
	old, err := f.read(space)
	if err != nil || old.level() != 0 {
		t.Fatalf("level %d, error %v", old.level(), err)
	}
	var groups [2][][]byte
	s.editLeaf(t, treeExtents, keyBlockGroup, 2, func(n node, _, _ []byte) {
		var rest [2][][]byte
		for i := range n.items() {
			b, _ := n.item(i)
			to := &rest
			if n.key(i).kind == keyBlockGroup {
				to = &groups
			}
			to[0] = append(to[0], bytes.Clone(n[nodeHeader+i*itemSize:][:itemSize]))
			to[1] = append(to[1], bytes.Clone(b))
		}
		copy(n, leaf(n, treeExtents, rest[0], rest[1]))
	})
	s.put(t, f, space.at, leaf(old, treeBlockGroups, groups[0], groups[1]), 2)
	s.editLeaf(t, treeRoot, keyRoot, 2, func(n node, _, _ []byte) {
		for i := range n.items() {
			if n.key(i).object == 10 && n.key(i).kind == keyRoot {
				n[nodeHeader+i*itemSize] = treeBlockGroups
			}
		}
	})
	if res, err := Probe(s, s.size); err != nil || res.Used != nil || res.Whole != "0 block groups in 4 chunks" {
		t.Errorf("without the feature: %+v, error %v", res, err)
	}
	s.write([]byte{roCompatBlockGroupTree}, superOffset+0xb4)
	s.fix(superOffset)
	res, err := Probe(s, s.size)
	if err != nil || res.Used == nil || res.Used.Bytes() != want.Used.Bytes() {
		t.Errorf("%+v, error %v", res, err)
	}
}

// TestFreeNodes has a tree node that its extent tree does not know.
func TestFreeNodes(t *testing.T) {
	f := &forest{nodes: new(probe.Set)}
	f.nodes.Add(4096, 4096)
	used := new(probe.Set)
	used.Add(0, 8192)
	if err := f.covered(used); err != nil {
		t.Error(err)
	}
	f.nodes.Add(16384, 4096)
	if err := f.covered(used); err == nil || !strings.Contains(err.Error(), "4096 bytes of its trees are free") {
		t.Errorf("error %v", err)
	}
}

// TestSecondCopy damages the first copy of a node: the other one is taken.
func TestSecondCopy(t *testing.T) {
	s := images(t)["dup"]
	want, err := Probe(s, s.size)
	if err != nil || want.Used == nil {
		t.Fatalf("%+v, error %v", want, err)
	}
	s.editLeaf(t, treeExtents, keyBlockGroup, 1, func(n node, _, _ []byte) { n[80]++ })
	res, err := Probe(s, s.size)
	if err != nil || res.Used == nil || res.Used.Bytes() != want.Used.Bytes() || len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "second copy") {
		t.Errorf("%+v, error %v", res, err)
	}
}

// TestOverlap has chunks that lie over one another.
func TestOverlap(t *testing.T) {
	one := func(logical, length, at uint64) chunk {
		return chunk{logical: logical, length: length, stripes: [2]uint64{at}, copies: 1}
	}
	for want, cs := range map[string]chunks{
		"":                   {one(8, 8, 100), one(0, 8, 108)},
		"chunks 0 and 7":     {one(7, 8, 100), one(0, 8, 108)},
		"two chunks lie at":  {one(8, 8, 100), one(0, 8, 107)},
		"two chunks lie at ": {{logical: 8, length: 8, stripes: [2]uint64{100, 104}, copies: 2}},
	} {
		_, err := cs.sort()
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// FuzzProbe changes bytes of sound filesystems and sets the checksums of their
// nodes: patches is a list of the number of a page that is not zero, an offset
// in it, two bytes each, and a new value.
func FuzzProbe(f *testing.F) {
	all := images(f)
	names := slices.Sorted(maps.Keys(all))
	offsets := make(map[string][]int64)
	for i, name := range names {
		offsets[name] = slices.Sorted(maps.Keys(all[name].pages))
		f.Add(byte(i), true, []byte{0, 0, 0, 0x78, 1, 0, 1, 0, 100, 1})
		f.Add(byte(i), true, []byte{0, 3, 0, 101, 1, 0, 4, 0, 110, 0xa8})
		f.Add(byte(i), false, []byte{0, 3, 0, 101, 1})
	}
	f.Fuzz(func(t *testing.T, base byte, sums bool, patches []byte) {
		name := names[int(base)%len(names)]
		s := all[name].clone()
		for ; len(patches) >= 5; patches = patches[5:] {
			at := offsets[name][(int(patches[0])<<8|int(patches[1]))%len(offsets[name])]
			s.write(patches[4:5], at+int64(patches[2])<<8%pageSize+int64(patches[3]))
			if sums {
				s.fix(at)
			}
		}
		res, err := Probe(s, s.size)
		probetest.Check(t, s.size, res, err)
	})
}

// fix sets the checksum of the superblock or node that holds the page at an
// offset right, as far as it has sense.
func (s *sparse) fix(at int64) {
	b := super(slices.Clone(s.pages[superOffset]))
	n := []byte(b)
	if at != superOffset {
		size := b.nodeSize()
		if size < pageSize || size > 64<<10 || size&(size-1) != 0 {
			return
		}
		at &^= size - 1
		n = make([]byte, size)
		if _, err := s.ReadAt(n, at); err != nil {
			return
		}
	}
	s.write(b.checksum(n), at)
}
