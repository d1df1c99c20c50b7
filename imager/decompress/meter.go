package decompress

import "io"

// Meter tells how much of some files is read: their sizes are known before it,
// those of what is in them are not. A nil Meter is none.
type Meter struct {
	tell        func(done, total int64)
	done, total int64
}

// NewMeter makes a meter that calls tell, which may be nil, with the bytes read
// and to be read.
func NewMeter(tell func(done, total int64)) *Meter {
	if tell == nil {
		return nil
	}
	return &Meter{tell: tell}
}

// Expect adds a file of n bytes to what is to be read; all before the first is
// read.
func (m *Meter) Expect(n int64) {
	if m != nil {
		m.total += n
	}
}

// Reader counts what is read of r. Only one of a meter's readers may be read at
// a time.
func (m *Meter) Reader(r io.Reader) io.Reader {
	if m == nil {
		return r
	}
	return metered{m, r}
}

type metered struct {
	m *Meter
	r io.Reader
}

// Read implements io.Reader.
func (r metered) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if n > 0 {
		r.m.done += int64(n)
		r.m.tell(r.m.done, r.m.total)
	}
	return n, err
}
