package clonezilla

import (
	"context"
	"errors"
	"fmt"
	"io"

	"huck/imager/disk"
)

// runBytes is how many bytes are written at a time at most, or one block.
const runBytes = 1 << 20

// restore writes the used blocks to where they belong on a device that is all
// zeros. Blocks of zeros are left out, so that a file stays sparse.
func (p *partclone) restore(ctx context.Context, to io.WriterAt) error {
	w := &runWriter{to: to, buf: make([]byte, 0, min(max(runBytes, p.blockSize), int(p.blocks)*p.blockSize))}
	sum := make([]byte, 2*p.sums.size)
	var unsummed int64
	block := make([]byte, p.blockSize)
	for n := range p.blocks {
		if !p.has(n) {
			continue
		}
		if err := p.in.read(block, "blocks"); err != nil {
			return err
		}
		if p.sums.every > 0 {
			p.sums.sum.add(block)
			if unsummed++; unsummed == p.sums.every {
				unsummed = 0
				if err := p.compare(sum, n); err != nil {
					return err
				}
			}
		}
		if err := w.write(ctx, n*int64(p.blockSize), block); err != nil {
			return err
		}
	}
	if unsummed > 0 {
		if err := p.compare(sum, p.blocks-1); err != nil {
			return err
		}
	}
	if err := w.flush(ctx); err != nil {
		return err
	}
	return p.end()
}

// compare reads the checksum of the blocks up to the n-th. both has room for two.
func (p *partclone) compare(both []byte, n int64) error {
	want, got := both[:p.sums.size], both[p.sums.size:]
	if err := p.in.read(want, "checksum"); err != nil {
		return err
	}
	if p.sums.sum.put(got); string(got) != string(want) {
		return p.in.bad("the checksum of the blocks up to the %d-th is %x, it says %x", n, got, want)
	}
	if p.sums.reseed {
		p.sums.sum.reset()
	}
	return nil
}

// end insists that nothing follows, and lets a decompressor look at its own
// checksum.
func (p *partclone) end() error {
	var b [1]byte
	switch _, err := io.ReadFull(p.in.r, b[:]); {
	case err == nil:
		return p.in.bad("something follows its last block")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("byte %d, behind its last block: %w", p.in.at, err)
	}
	return nil
}

// runWriter writes neighbouring blocks in one go.
type runWriter struct {
	to  io.WriterAt
	at  int64
	buf []byte
}

func (w *runWriter) write(ctx context.Context, at int64, b []byte) error {
	zero := disk.IsZero(b)
	if len(w.buf) > 0 && (zero || at != w.at+int64(len(w.buf)) || len(w.buf)+len(b) > cap(w.buf)) {
		if err := w.flush(ctx); err != nil {
			return err
		}
	}
	if zero {
		return ctx.Err()
	}
	if len(w.buf) == 0 {
		w.at = at
	}
	w.buf = append(w.buf, b...)
	return nil
}

func (w *runWriter) flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil || len(w.buf) == 0 {
		return err
	}
	_, err := w.to.WriteAt(w.buf, w.at)
	w.buf = w.buf[:0]
	return err
}
