// Package ntfs finds the used clusters of NTFS filesystems of versions 1.2 to
// 3.1. There is no count of free clusters and no checksum in them, so the
// bitmap is believed only if every cluster of every file is used by it: all
// records of the MFT are read. Clusters marked bad are used by the bitmap, and
// taken.
//
// The layout is that of Linux, fs/ntfs3.
package ntfs

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"unicode/utf16"

	"huck/imager/usedmap/internal/cluster"
	"huck/imager/usedmap/internal/probe"
)

// piece is about how much of the MFT is read at once.
const piece = 1 << 20

// Probe finds the used clusters of the NTFS filesystem in r, size bytes long.
// The result is nil if there is none. The error is a *probe.Refused or one of
// reading; the result is valid beside it. That ntfs-3g has it mounted cannot be
// told: it leaves no trace.
func Probe(r io.ReaderAt, size int64) (*probe.Result, error) {
	if size < bootSize {
		return nil, nil
	}
	b := boot(make([]byte, bootSize))
	if err := probe.Read(r, b, 0); err != nil {
		return nil, err
	}
	if !b.isNTFS() {
		return nil, nil
	}
	res := &probe.Result{Content: "ntfs", UUID: b.uuid()}
	g, err := newGeometry(b, size)
	if err != nil {
		return res.TakeWhole("its boot sector makes no sense: %v", err), nil
	}
	res, err = probeVolume(r, size, g, res)
	var c contradiction
	if errors.As(err, &c) {
		return res.TakeWhole("%s", string(c)), nil
	}
	return res, err
}

func probeVolume(r io.ReaderAt, size int64, g *geometry, res *probe.Result) (*probe.Result, error) {
	v, err := open(r, g)
	if err != nil {
		return res, err
	}
	cause, err := v.unrest(res)
	if err != nil {
		return res, err
	}
	if cause != "" {
		return res.Refuse(cause)
	}
	f, err := v.data(fileBitmap)
	if err != nil {
		return res, err
	}
	if f.resident != nil || f.written < (v.clusters+7)/8 {
		return res, contradict("its bitmap has %d bytes for %d clusters", f.written, v.clusters)
	}
	m := cluster.NewBitmap(f, v.clusters)
	hibernated, err := v.walk(m)
	if err != nil {
		return res, err
	}
	if hibernated {
		return res.Refuse("Windows is hibernated on it: start Windows and shut it down (shutdown /s /t 0), or turn fast startup off")
	}
	if err := v.use(m, size, res); err != nil {
		return res, err
	}
	return res, v.pagingFiles(res)
}

// pagingFiles finds where the contents of paging files are, but for their first
// page: of the hibernation file that tells whether there is anything in it.
func (v *volume) pagingFiles(res *probe.Result) error {
	const page = 4096
	for _, n := range v.paging {
		f, err := v.data(n)
		var odd contradiction
		switch {
		case errors.As(err, &odd):
			continue // compressed, say: then it is data like any other
		case err != nil:
			return err
		}
		if res.Paging == nil {
			res.Paging = new(probe.Set)
		}
		f.Each(max(page, v.cluster), res.Paging.Add)
	}
	return nil
}

// use sets the result's used bytes.
func (v *volume) use(m *cluster.Bitmap, size int64, res *probe.Result) error {
	used := new(probe.Set)
	used.Add(0, min(bootFile, size))
	if err := m.Each(func(c, n int64) { used.Add(c*v.cluster, n*v.cluster) }); err != nil {
		return err
	}
	// The sectors that make no whole cluster, and the copy of the boot sector
	// that follows them. Who shrank or grew the partition alone left it
	// elsewhere than the partition's last sector, where Windows looks for it.
	end := min(size, (v.sectors+1)*v.sector)
	used.Add(v.clusters*v.cluster, end-v.clusters*v.cluster)
	last := (size - 1) &^ (v.sector - 1)
	used.Add(last, size-last)
	res.EndsAt(end, size)
	res.Used = used
	return nil
}

// unrest reads what the volume says of itself and tells why it is not at rest;
// empty if it is.
func (v *volume) unrest(res *probe.Result) (cause string, err error) {
	const dirty, checking = 0x1, 0x4000
	r, err := v.read(fileVolume)
	if err != nil {
		return "", err
	}
	flags, known := 0, false
	err = r.each(fileVolume, func(a attribute) error {
		switch {
		case a.kind() == attrVolumeName && !a.scattered():
			res.Label = name(a.value())
		case a.kind() == attrVolumeInfo && !a.scattered() && len(a.value()) >= 12:
			i := a.value()
			known = i[8] == 3 || i[8] == 1 && i[9] == 2
			flags = int(binary.LittleEndian.Uint16(i[10:]))
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if flags&(dirty|checking) != 0 {
		return "it is marked dirty: it is mounted, was not unmounted cleanly or has errors: run chkdsk /f", nil
	}
	if !known {
		return "", contradict("its version is not known to this program")
	}
	clean, err := v.logClean()
	if err != nil || clean {
		return "", err
	}
	return "its journal is open: it is mounted, was not unmounted cleanly or belongs to a hibernated Windows: start Windows and shut it down (shutdown /s /t 0)", nil
}

// name decodes UTF-16.
func name(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

// walk reads all records of the MFT. It wants every cluster that one of them
// holds to be used by the bitmap, and tells whether Windows is hibernated.
func (v *volume) walk(m *cluster.Bitmap) (hibernated bool, err error) {
	b := make([]byte, max(piece, v.record))
	per := int64(len(b)) / v.record
	for n := int64(0); n < v.records; n += per {
		b := b[:min(per, v.records-n)*v.record]
		if err := probe.Read(v.mft, b, n*v.record); err != nil {
			return false, err
		}
		for i := int64(0); len(b) > 0; i++ {
			h, err := v.check(n+i, record(b[:v.record]), m)
			if err != nil {
				return false, err
			}
			hibernated = hibernated || h
			b = b[v.record:]
		}
	}
	return hibernated, nil
}

// check looks at record n, which may be of no use.
func (v *volume) check(n int64, r record, m *cluster.Bitmap) (hibernated bool, err error) {
	if magic := r.magic(); magic == "BAAD" || magic == "FILE" && !unfix(r) {
		return false, contradict("MFT record %d was written in part only", n)
	} else if magic != "FILE" || !r.inUse() {
		return false, nil
	}
	special := ""
	err = r.each(n, func(a attribute) error {
		if a.kind() == attrFileName && !a.scattered() {
			special = cmp.Or(special, pagingFile(a.value()))
		}
		if !a.scattered() {
			return nil
		}
		return v.runs(n, a, func(at, count int64) error {
			if at < 0 {
				return nil
			}
			free, err := m.Next(at, at+count, false)
			if err == nil && free < at+count {
				err = contradict("cluster %d is that of MFT record %d, but free by the bitmap", free, n)
			}
			return err
		})
	})
	if err != nil || special == "" {
		return false, err
	}
	if base := r.base(); base != 0 {
		n = base // its list of attributes has it put the name elsewhere
	}
	if !slices.Contains(v.paging, n) && len(v.paging) < maxPaging {
		v.paging = append(v.paging, n)
	}
	if special != hiberfil {
		return false, nil
	}
	return v.hibernated(n)
}

// The names of Windows' paging files, in the root folder.
const (
	hiberfil  = "hiberfil.sys"
	maxPaging = 16 // there are three
)

// pagingFile returns which of Windows' paging files the file name attribute b
// names, in lower case; empty if none.
func pagingFile(b []byte) string {
	if len(b) < 66 || reference(b) != fileRoot || len(b) < 66+2*int(b[64]) {
		return ""
	}
	n := string(bytes.ToLower([]byte(name(b[66:][:2*int(b[64])]))))
	if n == hiberfil || n == "pagefile.sys" || n == "swapfile.sys" {
		return n
	}
	return ""
}

// hibernated tells whether the hibernation file n holds a state to go on from:
// its first page is not zero.
func (v *volume) hibernated(n int64) (bool, error) {
	f, err := v.data(n)
	if err != nil {
		return false, err
	}
	b := f.resident
	if b == nil {
		b = make([]byte, min(f.written, 4096))
		if err := probe.Read(f, b, 0); err != nil {
			return false, err
		}
	}
	return len(bytes.TrimLeft(b, "\x00")) != 0, nil
}
