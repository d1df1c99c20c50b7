// Package usedmap finds out what a partition holds, by its content and not by
// its type code, and which of its bytes are used. It reads through an
// io.ReaderAt and trusts nothing it reads: offsets, lengths and counts are
// checked, checksums verified where the filesystem has them, and whatever
// does not add up makes the partition one that must be taken whole.
//
// Used bytes are all that the filesystem, its checker and its boot code may
// read: data, metadata, backup superblocks, boot sectors. The space between a
// filesystem's end and the partition's end is not used.
package usedmap

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"huck/imager/image"
	"huck/imager/ptable"
	"huck/imager/usedmap/btrfs"
	"huck/imager/usedmap/exfat"
	"huck/imager/usedmap/ext"
	"huck/imager/usedmap/f2fs"
	"huck/imager/usedmap/fat"
	"huck/imager/usedmap/internal/probe"
	"huck/imager/usedmap/lvm"
	"huck/imager/usedmap/ntfs"
	"huck/imager/usedmap/swap"
	"huck/imager/usedmap/xfs"
)

type (
	// Result is what Probe found.
	Result = probe.Result
	// Set is a set of used bytes.
	Set = probe.Set
	// Refused is the error about content that is in use or damaged.
	Refused = probe.Refused
)

// Probe finds out what the partition in r, size bytes long, holds. Offsets in
// the result are relative to the partition. An error is a *Refused (mounted,
// dirty, hibernated, …) or one of reading; the result is valid beside an error
// too, and then takes the partition whole.
func Probe(r io.ReaderAt, size int64) (Result, error) {
	return probeWith(r, size, inVolume)
}

// inVolume is Probe for a logical volume: a physical one inside it is taken
// whole, so that the search ends.
func inVolume(r io.ReaderAt, size int64) (Result, error) { return probeWith(r, size, nil) }

func probeWith(r io.ReaderAt, size int64, inside lvm.Inside) (Result, error) {
	volumes := func(r io.ReaderAt, size int64) (*Result, error) { return lvm.Probe(r, size, inside) }
	if size < 0 || size > image.MaxDiskSize {
		return Result{}, fmt.Errorf("usedmap: partition size %d outside 0 to %d", size, int64(image.MaxDiskSize))
	}
	var found []*Result
	var refused error
	for _, p := range []func(io.ReaderAt, int64) (*Result, error){named, volumes, ext.Probe, fat.Probe, ntfs.Probe, exfat.Probe, btrfs.Probe, swap.Probe, xfs.Probe, f2fs.Probe} {
		res, err := p(r, size)
		var no *Refused
		if err != nil && !errors.As(err, &no) {
			if res == nil {
				res = &Result{Content: "unknown"}
			}
			return *res.TakeWhole("it could not be read: %v", err), err
		}
		if res != nil {
			found = append(found, res)
		}
		if err != nil {
			refused = err
		}
	}
	switch len(found) {
	case 0:
		return blank(r, size)
	case 1:
		if refused != nil {
			return *found[0], refused
		}
		err := doubt(found[0], r, size)
		return *found[0], err
	}
	var names []string
	for _, f := range found {
		names = append(names, f.Content)
	}
	// Half a mirror, or a leftover of an earlier filesystem. Which of them counts
	// cannot be told, so none is believed, and one in use is enough to refuse.
	res := Result{Content: "unknown"}
	return *res.TakeWhole("it looks like %s at once", strings.Join(names, " and ")), refused
}

// doubt takes a partition whole that shows something else beside what was found.
// That is then likely to be left from before, sound as it looks, and knows
// nothing of what is in use now.
func doubt(found *Result, r io.ReaderAt, size int64) error {
	if found.Used == nil {
		return nil
	}
	// A bad block there need not be in use; if it is, its reader will tell.
	if marks, _ := zfsMarks(r, size); len(marks) >= minUberblocks {
		found.TakeWhole("it looks like %s and zfs_member at once", found.Content)
		return nil
	}
	return nested(found, r, size)
}

// nested takes a partition whole that has a partition table of its own, as the
// disk of a virtual machine has. Where the content begins with the first sector,
// that is not a table's.
func nested(found *Result, r io.ReaderAt, size int64) error {
	if slices.Contains([]string{"vfat", "ntfs", "exfat", "xfs"}, found.Content) {
		return nil
	}
	const sector = 512
	t, err := ptable.Read(r, size, sector)
	switch {
	case errors.Is(err, ptable.ErrGPT) || errors.Is(err, ptable.ErrMBR):
		found.TakeWhole("a damaged partition table is in front of it")
	case err != nil:
		found.TakeWhole("it could not be read: %v", err)
		return err
	case t.Kind != "none":
		found.TakeWhole("a partition table (%s) is in front of it", t.Kind)
	case len(t.Warnings) > 0:
		found.TakeWhole("what may be a partition table is in front of it: %s", t.Warnings[0])
	}
	return nil
}

// blank tells a partition that begins with zeros from one we do not know.
func blank(r io.ReaderAt, size int64) (Result, error) {
	b := make([]byte, min(size, 1<<20))
	res := Result{Content: "unknown"}
	if err := probe.Read(r, b, 0); err != nil {
		return *res.TakeWhole("it could not be read: %v", err), err
	}
	for _, c := range b {
		if c != 0 {
			return *res.TakeWhole("its content is unknown"), nil
		}
	}
	res.Content = "empty"
	return *res.TakeWhole("it begins with zeros, which tells nothing of the rest"), nil
}
