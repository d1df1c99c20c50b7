package xfs

import (
	"encoding/binary"
	"io"
	"sort"

	"huck/imager/usedmap/internal/probe"
)

const (
	logBlock     = 512        // bytes: the log counts in these, whatever the sector size
	recordMagic  = 0xfeedbabe // begins a record's header and never is a cycle
	unmountFlag  = 0x20
	cycleBlocks  = 64 // blocks whose cycles a header has room for; more take further headers
	maxLogRecord = 8 + 512
)

// log is the internal log: a ring of blocks, each of which begins with the
// number of the cycle in which it was written.
type log struct {
	r  io.ReaderAt
	at int64 // byte offset
	n  int64 // blocks of 512 bytes
}

// cycle returns the cycle of block i.
func (l *log) cycle(i int64) (uint32, error) {
	b := make([]byte, 8)
	if err := probe.Read(l.r, b, l.at+i*logBlock); err != nil {
		return 0, err
	}
	if c := binary.BigEndian.Uint32(b); c != recordMagic {
		return c, nil
	}
	return binary.BigEndian.Uint32(b[4:]), nil // a header has its magic first
}

// clean tells whether the last thing in the log is the record of an unmount.
// It says no when in doubt: writes that came out of order after an unmount may
// hide it, but nothing makes one that is not there.
func (l *log) clean() (bool, error) {
	first, err := l.cycle(0)
	if err != nil {
		return false, err
	}
	last, err := l.cycle(l.n - 1)
	if err != nil {
		return false, err
	}
	if first == 0 {
		return last == 0, nil // emptied by a repair: the kernel too takes it as clean
	}
	head, err := l.head(first, last)
	if err != nil {
		return false, err
	}
	return l.unmounted(head)
}

// head returns the block after the one written last. The blocks before it are
// of the first block's cycle, those from it on, if any, of the cycle before.
func (l *log) head(first, last uint32) (int64, error) {
	if first == last {
		return l.n, nil
	}
	var failed error
	head := sort.Search(int(l.n), func(i int) bool {
		c, err := l.cycle(int64(i))
		if err != nil {
			failed = err
		}
		return c != first
	})
	return int64(head), failed
}

// unmounted tells whether the record that ends before block head is that of an
// unmount.
func (l *log) unmounted(head int64) (bool, error) {
	b := make([]byte, logBlock)
	for back := int64(1); back <= min(maxLogRecord, l.n); back++ {
		at := (head - back + l.n) % l.n
		if err := probe.Read(l.r, b, l.at+at*logBlock); err != nil {
			return false, err
		}
		if binary.BigEndian.Uint32(b) != recordMagic {
			continue
		}
		h := record(b)
		if h.block() != at || h.ops() != 1 || h.headers()+ceil(h.length(), logBlock) != back || h.length() == 0 {
			return false, nil
		}
		at = (at + h.headers()) % l.n
		if err := probe.Read(l.r, b, l.at+at*logBlock); err != nil {
			return false, err
		}
		return b[9]&unmountFlag != 0, nil // of the header of the operation
	}
	return false, nil
}

// record is the header of a log record.
type record []byte

func (h record) u32(at int) int64 { return int64(binary.BigEndian.Uint32(h[at:])) }

func (h record) length() int64 { return h.u32(12) } // bytes without headers
func (h record) block() int64  { return h.u32(20) } // the lower half of its sequence number
func (h record) ops() int64    { return h.u32(40) }

// headers returns how many blocks the record's headers take.
func (h record) headers() int64 {
	const version2 = 2
	if size := h.u32(320); h.u32(8)&version2 != 0 && size > cycleBlocks*logBlock {
		return ceil(size, cycleBlocks*logBlock)
	}
	return 1
}
