package install_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"

	"huck/imager/api"
	"huck/imager/image"
)

type apiResult = api.Result

var errPower = errors.New("power is off")

// memDisk is a disk in memory that fails on demand. Like a real one it may
// lose what was written since the last Sync.
type memDisk struct {
	sector int

	mu       sync.Mutex
	b        []byte // what reads see
	writes   int    // and zeros among them
	zeroed   []image.Extent
	written  int64
	syncs    int
	cut      int // power fails in write number cut, from 1 on; 0 is never
	pending  []pendingWrite
	durable  []byte // what the last Sync has saved; nil if losses are not simulated
	rng      *rand.Rand
	badWrite int64                        // a write covering this offset fails; -1 is none
	badRead  int64                        // likewise
	lie      int64                        // a write covering this offset changes this byte; -1 is none
	syncErr  error                        // of every Sync
	readGate func(off int64, n int) error // called before every read
	gate     func()                       // called before every write
}

type pendingWrite struct {
	off int64
	p   []byte
}

func newDisk(size int64) *memDisk {
	return &memDisk{b: make([]byte, size), badWrite: -1, badRead: -1, lie: -1}
}

// newDiskOf is a disk of size bytes that begins with b.
func newDiskOf(b []byte, size int64) *memDisk {
	d := newDisk(size)
	copy(d.b, b)
	return d
}

func (d *memDisk) Name() string    { return "mem0" }
func (d *memDisk) Size() int64     { return int64(len(d.b)) }
func (d *memDisk) SectorSize() int { return d.sector }
func (d *memDisk) Close() error    { return nil }

func covers(off int64, n int, at int64) bool { return at >= off && at < off+int64(n) }

func (d *memDisk) ReadAt(p []byte, off int64) (int, error) {
	if d.readGate != nil {
		if err := d.readGate(off, len(p)); err != nil {
			return 0, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if covers(off, len(p), d.badRead) {
		return 0, fmt.Errorf("read mem0 at %d: medium error", d.badRead)
	}
	if off < 0 || off+int64(len(p)) > int64(len(d.b)) {
		return 0, io.ErrUnexpectedEOF
	}
	return copy(p, d.b[off:]), nil
}

func (d *memDisk) WriteV(off int64, bufs ...[]byte) (int, error) {
	return d.write(off, bytes.Join(bufs, nil))
}

func (d *memDisk) write(off int64, p []byte) (int, error) {
	if d.gate != nil {
		d.gate()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if off < 0 || off+int64(len(p)) > int64(len(d.b)) {
		return 0, fmt.Errorf("write mem0 at %d: past the end", off)
	}
	if covers(off, len(p), d.badWrite) {
		return 0, fmt.Errorf("write mem0 at %d: medium error", d.badWrite)
	}
	if d.cut > 0 && d.writes >= d.cut {
		return 0, errPower
	}
	d.writes++
	d.written += int64(len(p))
	if d.durable != nil {
		for i := 0; i < len(p); i += 512 { // sectors reach the medium in any order
			d.pending = append(d.pending, pendingWrite{off + int64(i), append([]byte(nil), p[i:min(i+512, len(p))]...)})
		}
	}
	copy(d.b[off:], p)
	if covers(off, len(p), d.lie) {
		d.b[d.lie] ^= 1
	}
	if d.cut > 0 && d.writes == d.cut {
		return 0, errPower
	}
	return len(p), nil
}

func (d *memDisk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.syncErr != nil {
		return d.syncErr
	}
	if d.cut > 0 && d.writes >= d.cut {
		return errPower
	}
	d.syncs++
	if d.durable != nil {
		copy(d.durable, d.b)
		d.pending = nil
	}
	return nil
}

// cutAt makes the power fail in write n and a random part of what is not
// synced be lost.
func (d *memDisk) cutAt(n int, seed uint64) {
	d.cut, d.writes, d.pending = n, 0, nil
	d.durable = append([]byte(nil), d.b...)
	d.rng = rand.New(rand.NewPCG(seed, uint64(n)))
}

// powerOn returns whether the power was cut, and brings back what was saved
// then.
func (d *memDisk) powerOn() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.writes >= d.cut
	keep := d.rng.Float64() // none, some, all
	for _, w := range d.pending {
		if d.rng.Float64() < keep*1.2-0.1 {
			copy(d.durable[w.off:], w.p)
		}
	}
	d.b, d.durable, d.pending, d.cut = d.durable, nil, nil, 0
	return was
}

func (d *memDisk) Discard(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := off; i < off+n; i++ {
		d.b[i] = 0xdd
	}
	return nil
}

func (d *memDisk) Zero(off, n int64) error {
	_, err := d.write(off, make([]byte, n))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.zeroed = append(d.zeroed, image.Extent{Start: off, Size: n})
	return err
}
