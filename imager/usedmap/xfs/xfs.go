// Package xfs finds the used blocks of XFS filesystems, versions 4 and 5.
//
// Each allocation group lists its free extents twice: in a btree by block
// number and in one by size. The used blocks are those not listed: the group's
// headers, backup superblock included, the internal log and the blocks that
// wait in the free list are among them. The lists are believed only if they are
// equal, add up to the group's and the filesystem's counters, have the right
// checksums (version 5) and leave alone what is known to hold metadata.
//
// The layout is that of Linux, fs/xfs/libxfs/xfs_format.h and
// xfs_log_format.h, and of "XFS Algorithms & Data Structures", 3rd edition.
package xfs

import (
	"errors"
	"fmt"
	"io"

	"huck/imager/usedmap/internal/probe"
)

// Probe finds the used blocks of the XFS filesystem in r, size bytes long. The
// result is nil if there is none. The error is a *probe.Refused or one of
// reading; the result is valid beside it.
func Probe(r io.ReaderAt, size int64) (*probe.Result, error) {
	if size < minSector {
		return nil, nil
	}
	s := super(make([]byte, minSector))
	if err := probe.Read(r, s, 0); err != nil {
		return nil, err
	}
	if s.u32(0) != superMagic {
		return nil, nil
	}
	res := &probe.Result{Content: "xfs", UUID: probe.UUID(s.uuid()), Label: s.label()}
	if s.hasChecksums() {
		if err := checkSuper(r, s, size); errors.As(err, new(contradiction)) {
			return res.TakeWhole("its superblock %v", err), nil
		} else if err != nil {
			return res, err
		}
	}
	switch {
	case s.inProgress():
		return res.Refuse("mkfs.xfs or xfs_copy did not finish in it")
	case s.hasChecksums() && s.incompat()&incompatNeedsRepair != 0:
		return res.Refuse("it is marked as damaged: run xfs_repair")
	case s.unknown() != "":
		return res.TakeWhole("it has features this program does not know: %s", s.unknown()), nil
	}
	g, err := newGeometry(s, size)
	if err != nil {
		return res.TakeWhole("its superblock makes no sense: %v", err), nil
	}
	return g.probe(r, size, res)
}

// checkSuper checks the superblock's checksum, which is that of its sector.
func checkSuper(r io.ReaderAt, s super, size int64) error {
	if s.sectorSize() < minSector || s.sectorSize() > size {
		return contradiction(fmt.Sprintf("makes no sense: sectors of %d bytes", s.sectorSize()))
	}
	b := make([]byte, s.sectorSize())
	if err := probe.Read(r, b, 0); err != nil {
		return err
	}
	if err := checkSum(b, superCRC); err != nil {
		return contradiction(err.Error())
	}
	return nil
}

// contradiction tells what in the filesystem does not add up.
type contradiction string

func (c contradiction) Error() string { return string(c) }

func contradict(format string, a ...any) error { return contradiction(fmt.Sprintf(format, a...)) }

func (g *geometry) probe(r io.ReaderAt, size int64, res *probe.Result) (*probe.Result, error) {
	switch {
	case g.realtime() != 0:
		return res.TakeWhole("it has a realtime section, which this program does not know"), nil
	case g.logStart() == 0:
		return res.TakeWhole("its log is on another device, so that nothing tells whether it is at rest"), nil
	}
	used, err := g.used(r)
	var c contradiction
	switch {
	case errors.Is(err, errDirty):
		return res.Refuse(errDirty.Error())
	case errors.As(err, &c):
		return res.TakeWhole("%s: run xfs_repair", string(c)), nil
	case err != nil:
		return res, err
	}
	res.Used = used
	res.EndsAt(g.count*g.blockSize(), size)
	return res, nil
}

// errDirty tells that what is on the disk is not all: the rest is in the log.
var errDirty = errors.New("its log needs recovery: it is mounted or was not unmounted cleanly")

// used returns the used bytes, or a contradiction, or errDirty.
func (g *geometry) used(r io.ReaderAt) (*probe.Set, error) {
	logGroup, logAt, err := g.place(g.logStart(), g.logBlocks())
	if err != nil || g.logBlocks() == 0 {
		return nil, contradict("its log, %d blocks, is said to be in block %d", g.logBlocks(), g.logStart())
	}
	l := &log{r, g.offset(logGroup, logAt), g.logBlocks() * g.blockSize() / logBlock}
	if clean, err := l.clean(); err != nil {
		return nil, err
	} else if !clean {
		return nil, errDirty
	}
	chunk := max(1, inodesAChunk*g.inodeSize()/g.blockSize())
	rootGroup, rootAt, err := g.place(g.rootInode()>>g.inodesLog(), chunk)
	if err != nil {
		return nil, contradict("its root directory is said to be inode %d", g.rootInode())
	}
	set := new(probe.Set)
	var free uint64
	for n := range g.agCount() {
		a := &group{geometry: g, r: r, n: n, known: new(probe.Set)}
		a.known.Add(0, g.headers)
		if n == logGroup {
			a.known.Add(logAt, g.logBlocks())
		}
		if n == rootGroup {
			a.known.Add(rootAt, chunk)
		}
		if err := a.take(set); err != nil {
			return nil, err
		}
		free += a.reserve
	}
	if free != g.freeBlocks() {
		return nil, contradict("its allocation groups have %d free blocks, its superblock %d", free, g.freeBlocks())
	}
	return set, nil
}
