package usedmap

import (
	"encoding/binary"
	"errors"
	"io"

	"huck/imager/usedmap/internal/probe"
)

// Mark is a magic number, by which content is recognised.
type Mark struct {
	Content string
	// Offset and Size are where it is, in bytes.
	Offset, Size int64
}

// Marks finds magic numbers in a partition or disk in r, size bytes long, that
// stand where other content may have free blocks: behind the first 4 KiB, or
// relative to the end. It does not ask whether what they announce is sound: who
// looks for a filesystem's UUID does not either. Errors are those of reading;
// what was found is valid beside one.
func Marks(r io.ReaderAt, size int64) ([]Mark, error) {
	var marks []Mark
	head := make([]byte, min(size, identifyBytes))
	err := probe.Read(r, head, 0)
	if err == nil {
		for _, s := range farSignatures() {
			if at(head, s.at, s.magic) {
				marks = append(marks, Mark{s.content, s.at, int64(len(s.magic))})
			}
		}
	}
	for _, s := range append(secondLUKS(), endSignatures(size)...) {
		found, rerr := s.isIn(r, size)
		if err = errors.Join(err, rerr); found {
			marks = append(marks, Mark{s.content, s.at, int64(len(s.magic))})
		}
	}
	pool, zerr := zfsMarks(r, size)
	return append(marks, pool...), errors.Join(err, zerr)
}

// farSignatures are those behind the first 4 KiB, which all content that Probe
// knows has for itself.
func farSignatures() []signature {
	far := []signature{{content: "btrfs", at: 0x10040, magic: "_BHRfS_M"}}
	for _, s := range signatures() {
		if s.at >= 4096 {
			far = append(far, s)
		}
	}
	for page := int64(8 << 10); page <= 64<<10; page *= 2 {
		for _, magic := range []string{"SWAPSPACE2", "SWAP-SPACE", "S1SUSPEND", "S2SUSPEND", "ULSUSPEND"} {
			far = append(far, signature{content: "swap", at: page - 10, magic: magic})
		}
	}
	return far
}

// secondLUKS are where LUKS2 may have its second header, which is enough to make
// a partition LUKS ("LUKS2 On-Disk Format Specification", section 2.2).
func secondLUKS() (all []signature) {
	for at := int64(0x4000); at <= 0x400000; at *= 2 {
		all = append(all, signature{content: luks, at: at, magic: "SKUL\xba\xbe"})
	}
	return all
}

// minUberblocks is how many of them make a ZFS: libblkid wants as many.
const minUberblocks = 4

// zfsMarks finds the uberblocks in the four labels of a ZFS vdev: two at its
// start, two at its end, each 256 KiB with a ring of uberblocks in its second
// half (OpenZFS, vdev_impl.h).
func zfsMarks(r io.ReaderAt, size int64) (marks []Mark, err error) {
	const label, ring, slot, magic = 256 << 10, 128 << 10, 1 << 10, 0x00bab10c
	end := size &^ (label - 1)
	if end < 4*label {
		return nil, nil
	}
	b := make([]byte, ring)
	for _, at := range []int64{0, label, end - 2*label, end - label} {
		if rerr := probe.Read(r, b, at+label-ring); rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		for i := int64(0); i < ring; i += slot {
			if binary.LittleEndian.Uint64(b[i:]) == magic {
				marks = append(marks, Mark{"zfs_member", at + label - ring + i, 8})
			}
		}
	}
	return marks, err
}
