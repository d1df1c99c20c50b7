// Package btrfs finds the used blocks of Btrfs filesystems on a single device
// with the profiles single and dup: the extents of the extent tree, mapped by
// the chunk tree to all their copies. Every node is verified by its checksum,
// and the extents must add up to what each block group and the superblock
// count. Files are not looked at: what they hold is what the extent tree has.
//
// The layout is that of Linux, include/uapi/linux/btrfs_tree.h.
package btrfs

import (
	"errors"
	"io"

	"huck/imager/usedmap/internal/probe"
)

// Probe finds the used blocks of the Btrfs filesystem in r, size bytes long.
// The result is nil if there is none. The error is a *probe.Refused or one of
// reading; the result is valid beside it. That it is mounted can be told only
// while there is a log.
func Probe(r io.ReaderAt, size int64) (*probe.Result, error) {
	if size < superOffset+superSize {
		return nil, nil
	}
	s := super(make([]byte, superSize))
	if err := probe.Read(r, s, superOffset); err != nil {
		return nil, err
	}
	if !s.isBtrfs() {
		return nil, nil
	}
	res := &probe.Result{Content: "btrfs", UUID: probe.UUID(s.fsid()), Label: s.label()}
	if cause := s.foreign(); cause != "" {
		if s.devices() > 1 {
			res.Warn("the Btrfs filesystem has %d devices: an image of one of them is of no use without the others", s.devices())
		}
		return res.TakeWhole("%s", cause), nil
	}
	if cause := s.unrest(); cause != "" {
		return res.Refuse(cause)
	}
	if err := s.check(size); err != nil {
		return res.TakeWhole("its superblock makes no sense: %v", err), nil
	}
	used, err := s.used(r, res)
	var c contradiction
	if errors.As(err, &c) {
		return res.TakeWhole("%s", string(c)), nil
	}
	if err != nil {
		return res, err
	}
	res.Used = used
	res.EndsAt(int64(s.size()), size)
	return res, nil
}

// used returns the used bytes, or a contradiction.
func (s super) used(r io.ReaderAt, res *probe.Result) (*probe.Set, error) {
	f := &forest{super: s, disk: r, nodes: new(probe.Set)}
	if err := f.readChunks(); err != nil {
		return nil, err
	}
	c := &census{forest: f, set: new(probe.Set), counts: make([]uint64, len(f.chunks))}
	extents, err := f.tree(treeExtents)
	if err != nil {
		return nil, err
	}
	if err := f.walk(extents, c.take); err != nil {
		return nil, err
	}
	if s.roCompat()&roCompatBlockGroupTree != 0 {
		groups, err := f.tree(treeBlockGroups)
		if err != nil {
			return nil, err
		}
		if err := f.walk(groups, c.take); err != nil {
			return nil, err
		}
	}
	if err := c.compare(); err != nil {
		return nil, err
	}
	if err := f.covered(c.set); err != nil {
		return nil, err
	}
	if f.worn > 0 {
		res.Warn("%d tree nodes were read from their second copy, the first being damaged: run btrfs scrub", f.worn)
	}
	c.set.Add(0, reserved)
	for _, at := range mirrors() {
		if at+superSize <= int64(s.size()) {
			c.set.Add(at, superSize)
		}
	}
	return c.set, nil
}

// readChunks reads the chunk tree.
func (f *forest) readChunks() error {
	boot, err := f.bootChunks()
	if err != nil {
		return err
	}
	f.chunks = boot
	var all chunks
	root := f.chunkRoot()
	root.owner = treeChunks
	err = f.walk(root, func(k key, b []byte) error {
		switch {
		case k.kind == keyDevice && k.offset != f.device():
			return contradict("it has a device %d beside device %d", k.offset, f.device())
		case k.kind != keyChunk:
			return nil
		case len(all) == maxChunks:
			return contradict("more than %d chunks", maxChunks)
		}
		c, _, err := f.parseChunk(k.offset, b)
		all = append(all, c)
		return err
	})
	if err != nil {
		return err
	}
	f.chunks, err = all.sort()
	if err != nil {
		return err
	}
	for _, b := range boot {
		if c, err := f.chunks.find(b.logical, b.length); err != nil || c != b {
			return contradict("chunk %d is another in the superblock than in the chunk tree", b.logical)
		}
	}
	return nil
}

// covered wants the nodes that were read to be used by what they say.
func (f *forest) covered(used *probe.Set) error {
	before := used.Bytes()
	for at, n := range f.nodes.All() {
		used.Add(at, n)
	}
	if after := used.Bytes(); after != before {
		return contradict("%d bytes of its trees are free by its extent tree", after-before)
	}
	return nil
}
