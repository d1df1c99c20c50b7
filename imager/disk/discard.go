package disk

import (
	"fmt"
	"io"
)

// discarder is what Discarder returns.
type discarder struct {
	size   int64
	sector int
}

func (d *discarder) Name() string    { return "discard" }
func (d *discarder) Size() int64     { return d.size }
func (d *discarder) SectorSize() int { return d.sector }
func (d *discarder) Sync() error     { return nil }
func (d *discarder) Close() error    { return nil }

func (d *discarder) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, checkRange("read", d.Name(), off, int64(len(p)), d.size)
	}
	n := int(min(int64(len(p)), max(d.size-off, 0)))
	clear(p[:n])
	if n < len(p) {
		return n, fmt.Errorf("disk: read %s at %d: %w", d.Name(), off, io.EOF)
	}
	return n, nil
}

func (d *discarder) WriteV(off int64, bufs ...[]byte) (int, error) {
	n := 0
	for _, b := range bufs {
		if err := checkRange("write", d.Name(), off+int64(n), int64(len(b)), d.size); err != nil {
			return n, err
		}
		n += len(b)
	}
	return n, nil
}

func (d *discarder) Discard(off, n int64) error {
	return checkRange("discard", d.Name(), off, n, d.size)
}

func (d *discarder) Zero(off, n int64) error { return checkRange("zero", d.Name(), off, n, d.size) }
