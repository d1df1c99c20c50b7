package disk

import (
	"fmt"
	"io"
	"sync"
)

// discarder is what Discarder returns.
type discarder struct {
	size   int64
	sector int

	mu   sync.Mutex
	head []byte
}

func (d *discarder) Name() string    { return "discard" }
func (d *discarder) Size() int64     { return d.size }
func (d *discarder) SectorSize() int { return d.sector }
func (d *discarder) Blank() bool     { return true }
func (d *discarder) Sync() error     { return nil }
func (d *discarder) Close() error    { return nil }

func (d *discarder) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, checkRange("read", d.Name(), off, int64(len(p)), d.size)
	}
	n := int(min(int64(len(p)), max(d.size-off, 0)))
	clear(p[:n])
	d.mu.Lock()
	if off < int64(len(d.head)) {
		copy(p[:n], d.head[off:])
	}
	d.mu.Unlock()
	if n < len(p) {
		return n, fmt.Errorf("disk: read %s at %d: %w", d.Name(), off, io.EOF)
	}
	return n, nil
}

func (d *discarder) WriteV(off int64, bufs ...[]byte) (int, error) {
	n := 0
	for _, b := range bufs {
		at := off + int64(n)
		if err := checkRange("write", d.Name(), at, int64(len(b)), d.size); err != nil {
			return n, err
		}
		if at < int64(len(d.head)) {
			d.mu.Lock()
			copy(d.head[at:], b)
			d.mu.Unlock()
		}
		n += len(b)
	}
	return n, nil
}

func (d *discarder) Discard(off, n int64) error {
	return checkRange("discard", d.Name(), off, n, d.size)
}

func (d *discarder) Zero(off, n int64) error {
	if err := checkRange("zero", d.Name(), off, n, d.size); err != nil {
		return err
	}
	if off < int64(len(d.head)) {
		d.mu.Lock()
		clear(d.head[off:min(off+n, int64(len(d.head)))])
		d.mu.Unlock()
	}
	return nil
}
