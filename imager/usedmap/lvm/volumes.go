package lvm

import (
	"cmp"
	"io"
)

// Volume is a logical volume that lies, from its first extent to its last, on
// one physical volume.
type Volume struct {
	// Group and Name are the names that people gave; GroupID and ID are the
	// UUIDs as the metadata have them, with dashes.
	Group, Name, GroupID, ID string
	// Pieces is where it stands, in its own order and without gaps.
	Pieces []Piece
}

// Piece is Size bytes of the physical volume from Offset on.
type Piece struct{ Offset, Size int64 }

// Volumes lists the logical volumes on the physical volume in r, size bytes
// long, that are linear and whole on it, in the order of the metadata; none if r
// is no physical volume. An error is of reading, or says what is wrong with it.
func Volumes(r io.ReaderAt, size int64) ([]Volume, error) {
	h, bad, err := readLabel(r, size)
	if err != nil || bad != nil || h == nil {
		return nil, cmp.Or(err, bad)
	}
	g, bad, err := readGroup(r, size, h)
	if err != nil || bad != nil {
		return nil, cmp.Or(err, bad)
	}
	var list []Volume
	for _, v := range g.volumes {
		if v.opaque != "" || len(v.areas) == 0 {
			continue
		}
		lv := Volume{Group: g.name, Name: v.name, GroupID: g.id, ID: v.id}
		for _, p := range g.linear(r, v).parts {
			lv.Pieces = append(lv.Pieces, Piece{p.at, p.n})
		}
		list = append(list, lv)
	}
	return list, nil
}
