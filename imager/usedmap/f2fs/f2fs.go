// Package f2fs finds the used blocks of F2FS filesystems.
//
// All before the main area is taken: superblocks, checkpoints and the tables.
// In the main area the segment information table (SIT) of the newest checkpoint
// and its journal have a bit for each block. They are believed only if they
// agree with the count of each segment and with the checkpoint's.
//
// The layout is that of Linux, Documentation/filesystems/f2fs.rst and
// include/linux/f2fs_fs.h.
package f2fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"huck/imager/usedmap/internal/probe"
)

// Probe finds the used blocks of the F2FS filesystem in r, size bytes long. The
// result is nil if there is none. The error is a *probe.Refused or one of
// reading; the result is valid beside it.
func Probe(r io.ReaderAt, size int64) (*probe.Result, error) {
	if size < superOffset+superSize {
		return nil, nil
	}
	s := super(make([]byte, superSize))
	if err := probe.Read(r, s, superOffset); err != nil {
		return nil, err
	}
	if s.u32(0) != superMagic {
		return nil, nil
	}
	res := &probe.Result{Content: "f2fs", UUID: probe.UUID(s.uuid()), Label: s.label()}
	if err := s.check(size); err != nil {
		return res.TakeWhole("its superblock makes no sense: %v", err), nil
	}
	switch unknown := s.features() &^ featureKnown; {
	case s.severalDevs():
		return res.TakeWhole("it is one of several devices with a filesystem"), nil
	case unknown != 0:
		return res.TakeWhole("it has features this program does not know: %#x", unknown), nil
	}
	v := &volume{s, r}
	return v.probe(size, res)
}

// contradiction tells what in the filesystem does not add up.
type contradiction string

func (c contradiction) Error() string { return string(c) }

func contradict(format string, a ...any) error { return contradiction(fmt.Sprintf(format, a...)) }

func (v *volume) probe(size int64, res *probe.Result) (*probe.Result, error) {
	cause, used, err := v.used()
	var c contradiction
	switch {
	case errors.As(err, &c):
		return res.TakeWhole("%s: run fsck.f2fs", string(c)), nil
	case err != nil:
		return res, err
	case cause != "":
		return res.Refuse(cause)
	}
	res.Used = used
	res.EndsAt(int64(v.blocks())*blockSize, size)
	return res, nil
}

// used returns the used bytes, or why the filesystem is not at rest, or a
// contradiction.
func (v *volume) used() (unrest string, _ *probe.Set, _ error) {
	c, err := v.checkpoint()
	if err != nil {
		return "", nil, err
	}
	if cause := c.unrest(); cause != "" {
		return cause, nil, nil
	}
	for i := range currents {
		if c.nodeSeg(i) >= v.mainSegs() || c.dataSeg(i) >= v.mainSegs() || c.nodeNext(i) >= segBlocks {
			return "", nil, contradict("its checkpoint has a current segment %d or %d of %d", c.nodeSeg(i), c.dataSeg(i), v.mainSegs())
		}
	}
	set := new(probe.Set)
	set.Add(0, v.main()*blockSize)
	if err := v.addMain(c, set); err != nil || v.readOnly() {
		return "", set, err
	}
	// Free, but looked at by each mount: on a target that had the same
	// filesystem once, old nodes in it would be taken for new ones.
	set.Add(v.nextNode(c)*blockSize, blockSize)
	if synced, err := v.synced(c); err != nil || synced {
		return "files were synced to it since its last checkpoint: it is mounted or was not unmounted cleanly", nil, err
	}
	return "", set, nil
}

// addMain adds the valid blocks of the main area.
func (v *volume) addMain(c checkpoint, set *probe.Set) error {
	versions := v.sitVersions(c)
	if versions == nil {
		return contradict("its checkpoint has bitmaps of %d and %d bytes", c.sitBytes(), c.natBytes())
	}
	journal, err := v.sitJournal(c)
	if err != nil {
		return err
	}
	b := make([]byte, blockSize)
	t := tally{checkpoint: c}
	for seg := range v.mainSegs() {
		i, in := seg/sitPerBlck, seg%sitPerBlck
		if in == 0 {
			at := v.sit() + i
			if versions[i/8]&(0x80>>(i%8)) != 0 {
				at += v.sitSegs() / 2 * segBlocks
			}
			if err := probe.Read(v.r, b, at*blockSize); err != nil {
				return err
			}
		}
		e, ok := journal[seg]
		if !ok {
			e = b[in*sitEntry:][:sitEntry]
		}
		if err := v.addSegment(set, seg, e, &t); err != nil {
			return err
		}
	}
	return t.check()
}

// tally counts what a checkpoint counts, too.
type tally struct {
	checkpoint
	valid, nodes, free int64
	void               bool // a current segment was written to, but has no valid block
}

func (t *tally) add(seg int64, valid, kind int) {
	t.valid += int64(valid)
	if kind >= currents {
		t.nodes += int64(valid)
	}
	if valid > 0 {
		return
	}
	current := false
	for i := range currents {
		node, data := seg == t.nodeSeg(i), seg == t.dataSeg(i)
		current = current || node || data
		t.void = t.void || node && t.nodeNext(i) > 0 || data && t.dataNext(i) > 0
	}
	if !current {
		t.free++
	}
}

// check compares the counts. Blocks that files reserved and did not write yet
// are counted as valid by the checkpoint, but not in the SIT; so it may have
// less, but not if something else speaks for a loss: the journal, which has no
// checksum, tells of current segments most of all.
func (t *tally) check() error {
	switch {
	case uint64(t.valid) > t.validBlocks():
		return contradict("%d blocks are valid, its checkpoint has %d", t.valid, t.validBlocks())
	case uint64(t.valid) < t.validBlocks() && t.void:
		return contradict("%d blocks are valid, its checkpoint has %d, and a current segment none", t.valid, t.validBlocks())
	case t.nodes != t.validNodes():
		return contradict("%d blocks hold nodes, its checkpoint has %d", t.nodes, t.validNodes())
	case t.free != t.freeSegs():
		return contradict("%d segments are free, its checkpoint has %d", t.free, t.freeSegs())
	}
	return nil
}

// addSegment adds the valid blocks of a segment.
func (v *volume) addSegment(set *probe.Set, seg int64, entry []byte, t *tally) error {
	head := int(binary.LittleEndian.Uint16(entry))
	want, kind := head&0x3ff, head>>10
	bitmap := entry[2 : 2+segBlocks/8]
	start := v.main() + seg*segBlocks
	got := 0
	for i := 0; i < segBlocks; {
		i = next(bitmap, i, 0)
		end := next(bitmap, i, ^uint64(0))
		set.Add((start+int64(i))*blockSize, int64(end-i)*blockSize)
		got += end - i
		i = end
	}
	if got != want {
		return contradict("segment %d has %d valid blocks, it counts %d", seg, got, want)
	}
	t.add(seg, got, kind)
	return nil
}

// next returns the first bit from i on that differs from those of skip, all
// zeros or all ones; the number of bits if there is none. The first bit of a
// byte is the highest.
func next(bitmap []byte, i int, skip uint64) int {
	for i < segBlocks {
		w := (binary.BigEndian.Uint64(bitmap[i/64*8:]) ^ skip) << (i % 64)
		if w != 0 {
			return i + bits.LeadingZeros64(w)
		}
		i = i&^63 + 64
	}
	return segBlocks
}
