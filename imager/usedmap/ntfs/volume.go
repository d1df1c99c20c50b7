package ntfs

import (
	"bytes"
	"encoding/binary"
	"io"

	"huck/imager/usedmap/internal/cluster"
	"huck/imager/usedmap/internal/probe"
)

// The records of files that every volume has (Linux, fs/ntfs3/ntfs.h).
const (
	fileMFT    = 0
	fileLog    = 2
	fileVolume = 3
	fileRoot   = 5
	fileBitmap = 6
)

const (
	// maxRuns bounds what is kept of a file's place to some 32 MiB.
	maxRuns = 1 << 20
	// maxList is the most an attribute list may have, by the format.
	maxList = 256 << 10
)

// volume is an NTFS filesystem.
type volume struct {
	*geometry
	disk    io.ReaderAt
	mft     *cluster.File
	records int64   // that were ever written
	paging  []int64 // records of files that hold swapped-out memory
}

// file is the unnamed data of a file.
type file struct {
	*cluster.File
	size, written int64  // bytes; beyond written all are zero
	resident      []byte // the data itself, if it lies in the record
}

// open finds the MFT, the first record of which tells where all of it is.
func open(disk io.ReaderAt, g *geometry) (*volume, error) {
	v := &volume{geometry: g, disk: disk, mft: cluster.NewFile(disk), records: 1}
	v.mft.Add(g.mft, g.record)
	f, err := v.data(fileMFT)
	if err != nil {
		return nil, err
	}
	if f.Start() != g.mft {
		return nil, contradict("the MFT begins with cluster %d, not %d", f.Start()/g.cluster, g.mft/g.cluster)
	}
	v.mft, v.records = f.File, f.written/g.record
	return v, nil
}

// read returns record n.
func (v *volume) read(n int64) (record, error) {
	r := record(make([]byte, v.record))
	if n > v.mft.Size()/v.record-1 {
		return nil, contradict("there is no MFT record %d", n)
	}
	if err := probe.Read(v.mft, r, n*v.record); err != nil {
		return nil, err
	}
	if r.magic() != "FILE" || !unfix(r) || !r.inUse() {
		return nil, contradict("MFT record %d is damaged or not in use", n)
	}
	return r, nil
}

// data returns where the unnamed data of file n is.
func (v *volume) data(n int64) (*file, error) {
	r, err := v.read(n)
	if err != nil {
		return nil, err
	}
	if r.base() != 0 {
		return nil, contradict("MFT record %d belongs to another", n)
	}
	list, err := v.list(n, r)
	if err != nil {
		return nil, err
	}
	f := &file{File: cluster.NewFile(v.disk)}
	if list == nil {
		err = v.add(n, r, 0, f)
	} else {
		err = v.follow(n, list, f)
	}
	if err != nil {
		return nil, err
	}
	if f.resident == nil && (f.written < 0 || f.written > f.size || f.size > f.Size()) {
		return nil, contradict("the data of MFT record %d has %d bytes, %d of them written, in %d bytes of clusters", n, f.size, f.written, f.Size())
	}
	return f, nil
}

// list returns the attribute list of record r, number n; nil if it has none.
func (v *volume) list(n int64, r record) (list []byte, err error) {
	err = r.each(n, func(a attribute) error {
		if a.kind() != attrList {
			return nil
		}
		if !a.scattered() {
			list = a.value()
			return nil
		}
		f := &file{File: cluster.NewFile(v.disk)}
		if err := v.addPart(n, a, f); err != nil {
			return err
		}
		if f.size < 0 || f.size > maxList || f.size > f.Size() {
			return contradict("MFT record %d has an attribute list of %d bytes", n, f.size)
		}
		list = make([]byte, f.size)
		return probe.Read(f, list, 0)
	})
	return list, err
}

// follow adds to f what the attribute list of file n tells of its data.
func (v *volume) follow(n int64, list []byte, f *file) error {
	for len(list) >= 26 {
		length := int(binary.LittleEndian.Uint16(list[4:]))
		if length < 26 || length > len(list) {
			return contradict("the attribute list of MFT record %d cannot be read", n)
		}
		if kind := binary.LittleEndian.Uint32(list); kind == attrData && list[6] == 0 {
			at := reference(list[16:])
			r, err := v.read(at)
			if err != nil {
				return err
			}
			if at != n && r.base() != n {
				return contradict("MFT record %d belongs to %d, not to %d", at, r.base(), n)
			}
			if err := v.add(at, r, binary.LittleEndian.Uint64(list[8:]), f); err != nil {
				return err
			}
			if n == fileMFT {
				v.mft = f.File // its later parts are in records that the earlier ones tell of
			}
		}
		list = list[length:]
	}
	return nil
}

// add adds the part of a file's data that is in record r, number n, and begins
// with the given cluster of the file.
func (v *volume) add(n int64, r record, first uint64, f *file) error {
	return r.each(n, func(a attribute) error {
		switch {
		case a.kind() != attrData || !a.unnamed():
		case !a.scattered():
			f.resident = bytes.Clone(a.value())
		case uint64(a.first()) == first:
			return v.addPart(n, a, f)
		}
		return nil
	})
}

// addPart adds what the scattered attribute a of record n says.
func (v *volume) addPart(n int64, a attribute, f *file) error {
	if a.first() != f.Size()/v.cluster {
		return contradict("the value in MFT record %d begins with cluster %d, not %d", n, a.first(), f.Size()/v.cluster)
	}
	if a.first() == 0 {
		f.size, f.written = a.size(), a.written()
	}
	return v.runs(n, a, func(at, count int64) error {
		if at < 0 || f.Runs() >= maxRuns || count > v.clusters-f.Size()/v.cluster {
			return contradict("the value in MFT record %d has holes or too many pieces", n)
		}
		f.Add(at*v.cluster, count*v.cluster)
		return nil
	})
}
