package lvm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"huck/imager/usedmap/internal/probe"
)

// The layout is LVM2's, lib/label/label.h and lib/format_text/layout.h; all
// integers are little-endian, all offsets in bytes.
const (
	sectorSize   = 512
	labelSectors = 4 // the label may be in any of the first four
	labelMagic   = "LABELONE"
	labelType    = "LVM2 001"

	uuidLen = 32
	// areasAt is where in the PV header, behind its UUID and the device's size,
	// the lists of areas begin.
	areasAt = uuidLen + 8
	areaLen = 16 // offset and size

	mdaHeaderLen = 512
	mdaMagic     = " LVM2 x[5A%r0N*>"
	mdaVersion   = 1
	locationsAt  = 40
	// ignoredMDA in a location's flags says that the metadata area is not kept
	// up to date.
	ignoredMDA = 1
	// extUsed in the flags of the PV header's extension says that the PV is
	// part of a volume group.
	extUsed = 1

	// maxText bounds the metadata read; a thousand logical volumes take
	// half a MiB.
	maxText = 8 << 20
)

// checksum is LVM's: the usual CRC-32 polynomial, another initial value and no
// final inversion.
func checksum(parts ...[]byte) uint32 {
	sum := ^uint32(0xf597a6cf)
	for _, b := range parts {
		sum = crc32.Update(sum, crc32.IEEETable, b)
	}
	return ^sum
}

// area is a stretch of the PV, in bytes. Its size may be 0: all the rest.
type area struct{ offset, size int64 }

// header is what label and PV header say.
type header struct {
	uuid  string // 32 characters
	size  int64
	data  []area
	mdas  []area
	boot  []area // areas for boot loaders
	inUse bool   // part of a volume group
}

// readLabel returns the PV header, or nil without error if the first sectors
// hold no LVM2 label. bad says what is wrong with the one there is.
func readLabel(r io.ReaderAt, size int64) (h *header, bad, err error) {
	head := make([]byte, min(size, labelSectors*sectorSize))
	if err := probe.Read(r, head, 0); err != nil {
		return nil, nil, err
	}
	for n := range len(head) / sectorSize {
		b := head[n*sectorSize:][:sectorSize]
		if string(b[24:32]) != labelType {
			continue
		}
		if h != nil {
			return h, fmt.Errorf("it has two labels"), nil
		}
		h, bad = parseLabel(b, uint64(n), size)
		if bad != nil {
			return new(header), bad, nil
		}
	}
	return h, nil, nil
}

func parseLabel(b []byte, sector uint64, size int64) (*header, error) {
	le := binary.LittleEndian
	at := le.Uint32(b[20:])
	switch {
	case string(b[:8]) != labelMagic || le.Uint64(b[8:]) != sector:
		return nil, fmt.Errorf("its label is damaged")
	case le.Uint32(b[16:]) != checksum(b[20:]):
		return nil, fmt.Errorf("its label's checksum is wrong")
	case at < 32 || at > sectorSize-areasAt:
		return nil, fmt.Errorf("its label is damaged")
	}
	return parseHeader(b[at:], size)
}

// parseHeader reads the PV header and its extension.
func parseHeader(b []byte, size int64) (*header, error) {
	h := &header{uuid: string(b[:uuidLen]), size: int64(binary.LittleEndian.Uint64(b[uuidLen:]))}
	if h.size < 0 || h.size > size {
		return nil, fmt.Errorf("it is said to have %d bytes, the partition has %d", uint64(h.size), size)
	}
	b = b[areasAt:]
	for _, list := range []*[]area{&h.data, &h.mdas} {
		var err error
		if *list, b, err = areas(b, size); err != nil {
			return nil, err
		}
	}
	if len(b) < 8 || binary.LittleEndian.Uint32(b) == 0 {
		return h, nil // of before 2012: without the extension
	}
	h.inUse = binary.LittleEndian.Uint32(b[4:])&extUsed != 0
	var err error
	h.boot, _, err = areas(b[8:], size)
	return h, err
}

// areas reads a list of areas, which ends with one of zeros, and returns the
// bytes behind it.
func areas(b []byte, size int64) (list []area, rest []byte, err error) {
	for len(b) >= areaLen {
		a := area{int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:]))}
		b = b[areaLen:]
		if a == (area{}) {
			return list, b, nil
		}
		if a.offset < 0 || a.size < 0 || a.offset > size || a.size > size-a.offset {
			return nil, nil, fmt.Errorf("an area of %d bytes at %d is not in it", uint64(a.size), uint64(a.offset))
		}
		list = append(list, a)
	}
	return nil, nil, fmt.Errorf("a list of its areas has no end")
}

// readText returns the volume group's metadata, or an empty text if the PV
// belongs to none. bad says why they cannot be relied on.
func readText(r io.ReaderAt, h *header) (text []byte, bad, err error) {
	read := false
	for _, a := range h.mdas {
		b, ignored, bad, err := readMDA(r, a)
		switch {
		case bad != nil || err != nil:
			return nil, bad, err
		case ignored:
			continue
		case read && !bytes.Equal(b, text):
			return nil, fmt.Errorf("its metadata areas differ"), nil
		}
		text, read = b, true
	}
	switch {
	case !read:
		return nil, fmt.Errorf("its metadata are on other volumes of its group"), nil
	case len(text) == 0 && h.inUse:
		return nil, fmt.Errorf("it belongs to a volume group, but has no metadata of it"), nil
	}
	return text, nil, nil
}

// readMDA reads the metadata text of one area: its header, and the text in the
// ring behind that.
func readMDA(r io.ReaderAt, a area) (text []byte, ignored bool, bad, err error) {
	wrong := func(format string, v ...any) ([]byte, bool, error, error) {
		return nil, false, fmt.Errorf("its metadata area at %d: "+format, append([]any{a.offset}, v...)...), nil
	}
	if a.size < 2*mdaHeaderLen {
		return wrong("%d bytes are too few", a.size)
	}
	b := make([]byte, mdaHeaderLen)
	if err := probe.Read(r, b, a.offset); err != nil {
		return nil, false, nil, err
	}
	le := binary.LittleEndian
	switch {
	case string(b[4:20]) != mdaMagic || le.Uint32(b[20:]) != mdaVersion:
		return wrong("its header is damaged")
	case le.Uint32(b) != checksum(b[4:]):
		return wrong("its header's checksum is wrong")
	case le.Uint64(b[24:]) != uint64(a.offset) || le.Uint64(b[32:]) != uint64(a.size):
		return wrong("it says it is %d bytes at %d", le.Uint64(b[32:]), le.Uint64(b[24:]))
	}
	loc := b[locationsAt:]
	at, n, sum := le.Uint64(loc), le.Uint64(loc[8:]), le.Uint32(loc[16:])
	ring := uint64(a.size) - mdaHeaderLen
	switch {
	case le.Uint32(loc[20:])&ignoredMDA != 0:
		return nil, true, nil, nil
	case n == 0:
		return nil, false, nil, nil
	case n > ring || at < mdaHeaderLen || at >= uint64(a.size):
		return wrong("its text is %d bytes at %d", n, at)
	case n > maxText:
		return wrong("its text has %d bytes, this program reads %d", n, maxText)
	}
	text = make([]byte, n)
	first := min(n, uint64(a.size)-at)
	if err := probe.Read(r, text[:first], a.offset+int64(at)); err != nil {
		return nil, false, nil, err
	}
	if err := probe.Read(r, text[first:], a.offset+mdaHeaderLen); err != nil {
		return nil, false, nil, err
	}
	if checksum(text) != sum {
		return wrong("its text's checksum is wrong")
	}
	return slices.Clip(bytes.TrimRight(text, "\x00")), false, nil, nil
}
