package btrfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"huck/imager/usedmap/internal/probe"
)

// contradiction tells what in the filesystem does not add up.
type contradiction string

func (c contradiction) Error() string { return string(c) }

func contradict(format string, a ...any) error { return contradiction(fmt.Sprintf(format, a...)) }

const (
	nodeHeader  = 101
	keySize     = 17
	pointerSize = keySize + 16
	itemSize    = keySize + 8
	maxLevel    = 7
)

// Kinds of items and the trees they are in (Linux,
// include/uapi/linux/btrfs_tree.h).
const (
	keyRoot       = 132
	keyExtent     = 168
	keyMetadata   = 169
	keyBlockGroup = 192
	keyDevice     = 216
	keyChunk      = 228

	treeRoot        = 1
	treeExtents     = 2
	treeChunks      = 3
	treeBlockGroups = 11
)

// key is what the items of a tree are ordered by.
type key struct {
	object uint64
	kind   byte
	offset uint64
}

// parseKey reads the key that b begins with.
func parseKey(b []byte) (key, bool) {
	if len(b) < keySize {
		return key{}, false
	}
	le := binary.LittleEndian
	return key{le.Uint64(b), b[8], le.Uint64(b[9:])}, true
}

func (k key) less(l key) bool {
	if k.object != l.object {
		return k.object < l.object
	}
	if k.kind != l.kind {
		return k.kind < l.kind
	}
	return k.offset < l.offset
}

// pointer tells where a node is and what it must be.
type pointer struct {
	at         uint64 // logical address
	generation uint64
	level      byte
	owner      uint64 // the tree; 0 if it is not known
	first      *key   // nil for a root
}

// forest reads trees.
type forest struct {
	super
	disk   io.ReaderAt
	chunks chunks
	// nodes are those read, all their copies, by place on the disk.
	nodes *probe.Set
	// worn counts copies of nodes that are damaged beside a good one.
	worn int
}

// node is a tree node, checked.
type node []byte

func (n node) items() int  { return int(binary.LittleEndian.Uint32(n[96:])) }
func (n node) level() byte { return n[100] }

// key returns that of item i.
func (n node) key(i int) key {
	size := itemSize
	if n.level() > 0 {
		size = pointerSize
	}
	k, _ := parseKey(n[nodeHeader+i*size:])
	return k
}

// child returns where pointer i leads.
func (n node) child(i int, owner uint64) pointer {
	b := n[nodeHeader+i*pointerSize:]
	k := n.key(i)
	le := binary.LittleEndian
	return pointer{le.Uint64(b[keySize:]), le.Uint64(b[keySize+8:]), n.level() - 1, owner, &k}
}

// item returns the data of item i of a leaf.
func (n node) item(i int) ([]byte, bool) {
	b := n[nodeHeader+i*itemSize:]
	le := binary.LittleEndian
	at, size := int64(le.Uint32(b[keySize:])), int64(le.Uint32(b[keySize+4:]))
	if room := int64(len(n) - nodeHeader); at < int64(n.items())*itemSize || at > room || size > room-at {
		return nil, false
	}
	return n[nodeHeader+at : nodeHeader+at+size], true
}

// read returns the node that p tells of, from the first of its copies that is
// good.
func (f *forest) read(p pointer) (node, error) {
	c, err := f.chunks.find(p.at, uint64(f.nodeSize()))
	if err != nil {
		return nil, err
	}
	n := node(make([]byte, f.nodeSize()))
	var wrong error
	for _, stripe := range c.stripes[:c.copies] {
		at := int64(stripe + p.at - c.logical)
		if err := probe.Read(f.disk, n, at); err != nil {
			return nil, err
		}
		if err := f.check(n, p); err != nil {
			wrong = err
			continue
		}
		if wrong != nil {
			f.worn++
		}
		for _, stripe := range c.stripes[:c.copies] {
			f.nodes.Add(int64(stripe+p.at-c.logical), f.nodeSize())
		}
		return n, nil
	}
	return nil, wrong
}

// check compares a node with what p tells of it.
func (f *forest) check(n node, p pointer) error {
	le := binary.LittleEndian
	if sum := f.checksum(n); !bytes.HasPrefix(n, sum) {
		return contradict("node %d has checksum %x, its bytes give %x", p.at, n[:len(sum)], sum)
	}
	if at := le.Uint64(n[48:]); at != p.at || !bytes.Equal(n[32:48], f.metadataUUID()) {
		return contradict("node %d is that of address %d or of another filesystem", p.at, at)
	}
	if g, owner := le.Uint64(n[80:]), le.Uint64(n[88:]); g != p.generation || n.level() != p.level || p.owner != 0 && owner != p.owner {
		return contradict("node %d of tree %d is of generation %d and level %d, where tree %d, %d and %d are due",
			p.at, owner, g, n.level(), p.owner, p.generation, p.level)
	}
	size := itemSize
	if p.level > 0 {
		size = pointerSize
	}
	count := int64(le.Uint32(n[96:]))
	if p.level > maxLevel || count > (f.nodeSize()-nodeHeader)/int64(size) || count == 0 && (p.first != nil || p.level > 0) {
		return contradict("node %d has level %d and %d items", p.at, p.level, count)
	}
	for i := 1; i < int(count); i++ {
		if !n.key(i - 1).less(n.key(i)) {
			return contradict("node %d is not in order", p.at)
		}
	}
	if p.first != nil && n.key(0) != *p.first {
		return contradict("node %d begins with another key than its parent says", p.at)
	}
	return nil
}

// walk calls f for every item of the tree at p, in order. No node is read
// twice: each begins with the key its parent gives it, and all keys ascend.
func (f *forest) walk(p pointer, item func(k key, b []byte) error) error {
	var last key // no item has this key
	return f.descend(p, func(k key, b []byte) error {
		if !last.less(k) {
			return contradict("tree %d is not in order", p.owner)
		}
		last = k
		return item(k, b)
	})
}

func (f *forest) descend(p pointer, item func(k key, b []byte) error) error {
	n, err := f.read(p)
	if err != nil {
		return err
	}
	for i := range n.items() {
		if n.level() > 0 {
			if err := f.descend(n.child(i, p.owner), item); err != nil {
				return err
			}
			continue
		}
		b, ok := n.item(i)
		if !ok {
			return contradict("item %d of node %d makes no sense", i, p.at)
		}
		if err := item(n.key(i), b); err != nil {
			return err
		}
	}
	return nil
}

// lookup returns the first item of tree p that is of the given kind and
// object, a copy of it; nil if there is none.
func (f *forest) lookup(p pointer, object uint64, kind byte) ([]byte, error) {
	want := key{object: object, kind: kind}
	for {
		n, err := f.read(p)
		if err != nil {
			return nil, err
		}
		i := 0
		if n.level() > 0 { // the last child that begins at or before what is wanted
			for i+1 < n.items() && !want.less(n.key(i+1)) {
				i++
			}
			p = n.child(i, p.owner)
			continue
		}
		for ; i < n.items(); i++ {
			if k := n.key(i); k.object == object && k.kind == kind {
				b, ok := n.item(i)
				if !ok {
					return nil, contradict("item %d of node %d makes no sense", i, p.at)
				}
				return b, nil
			}
		}
		return nil, nil
	}
}

// tree finds the root of another tree in the root tree.
func (f *forest) tree(id uint64) (pointer, error) {
	const at, generation, level, size = 176, 160, 238, 239
	p := f.root()
	p.owner = treeRoot
	b, err := f.lookup(p, id, keyRoot)
	if err != nil {
		return p, err
	}
	if len(b) < size {
		return p, contradict("its root tree tells nothing of tree %d", id)
	}
	le := binary.LittleEndian
	return pointer{at: le.Uint64(b[at:]), generation: le.Uint64(b[generation:]), level: b[level], owner: id}, nil
}
