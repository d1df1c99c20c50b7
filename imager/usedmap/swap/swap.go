// Package swap recognises Linux swap space, of which only the header is worth
// keeping (Linux, include/linux/swap.h, union swap_header).
package swap

import (
	"bytes"
	"encoding/binary"
	"io"

	"huck/imager/usedmap/internal/probe"
)

const maxPage = 64 << 10

// Probe finds the header of the swap space in r, size bytes long. The result
// is nil if there is none. The error is a *probe.Refused if a hibernated
// system's memory is in it, or one of reading; the result is valid beside it.
func Probe(r io.ReaderAt, size int64) (*probe.Result, error) {
	head := make([]byte, min(size, maxPage))
	if err := probe.Read(r, head, 0); err != nil {
		return nil, err
	}
	// The signature ends the first page, and only it tells how large a page is.
	for page := 4 << 10; page <= len(head); page *= 2 {
		magic := string(head[page-10 : page])
		res := &probe.Result{Content: "swap"}
		switch {
		case hibernated(magic):
			return res.Refuse("a hibernated system is in it: resume it and shut it down first")
		case magic == "SWAP-SPACE":
			return res.TakeWhole("it is of the old kind, version 0"), nil
		case magic == "SWAPSPACE2":
			return header(res, head[:page], size)
		}
	}
	return nil, nil
}

// hibernated tells the signatures that a suspended system leaves: the kernel's,
// uswsusp's and TuxOnIce's.
func hibernated(magic string) bool {
	for _, s := range []string{"S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "\xed\xc3\x02\xe9\x98\x56\xe5\x0c"} {
		if len(magic) >= len(s) && magic[:len(s)] == s {
			return true
		}
	}
	return false
}

// header reads the header of version 1, which is in the byte order of the
// machine that made it.
func header(res *probe.Result, page []byte, size int64) (*probe.Result, error) {
	info := page[1024:]
	var order binary.ByteOrder = binary.LittleEndian
	if order.Uint32(info) != 1 {
		order = binary.BigEndian
	}
	last := int64(order.Uint32(info[4:]))
	res.UUID = probe.UUID(info[12:28])
	label, _, _ := bytes.Cut(info[28:44], []byte{0})
	res.Label = string(label)
	switch {
	case order.Uint32(info) != 1:
		return res.TakeWhole("it is of a version this program does not know"), nil
	case (last+1)*int64(len(page)) > size:
		return res.TakeWhole("it has %d pages of %d bytes, the partition %d bytes", last+1, len(page), size), nil
	}
	res.Used = new(probe.Set)
	res.Used.Add(0, int64(len(page)))
	res.EndsAt((last+1)*int64(len(page)), size)
	return res, nil
}
