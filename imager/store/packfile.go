package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"huck/imager/disk"
	"huck/imager/image"
)

const (
	// pieceSize is how much is written to a pack at a time: enough for a disk
	// to run at full speed. A multiple of disk.Align.
	pieceSize = 1 << 20
	// pieces is how many of them a writer has, 8 MiB: while some are with the
	// disk the others are filled, and a disk slower than its writer holds it
	// back.
	pieces = 8
)

// packFile is a pack in the making. It is appended to piece by piece, and a
// goroutine of its own writes the full ones, past the page cache where that is
// possible: what is written through it would have to be copied, and waited for
// at the fsync.
type packFile struct {
	f *os.File
	// direct is f without the page cache, or nil.
	direct *os.File
	free   chan []byte // the writer's empty pieces

	size    uint32 // bytes appended
	entries []entry
	name    image.ID    // of the table, once it is appended
	piece   []byte      // the one being filled, or nil
	out     chan []byte // to be written; has room for all pieces
	// written is closed when all that came through out is written or lost; err
	// is then the first error.
	written chan struct{}
	err     error
	done    chan struct{} // closed when it is durable or lost
}

// newPack starts a pack. Its goroutine ends with seal or drop, one of which
// must be called.
func (w *dirWriter) newPack(ctx context.Context) (*packFile, error) {
	f, err := w.d.createTemp()
	if err != nil {
		return nil, err
	}
	p := &packFile{f: f, free: w.pieces, entries: make([]entry, 0, 512),
		out: make(chan []byte, pieces), written: make(chan struct{}), done: make(chan struct{})}
	// Where it cannot be had, on some filesystems, we do without.
	p.direct, _ = disk.OpenDirect(f)
	go p.write(w.fail)
	if err := p.append(ctx, appendPackHeader(nil)); err != nil {
		p.drop()
		return nil, err
	}
	return p, nil
}

// append adds bytes at the pack's end. It waits while all pieces are with the
// disk; if ctx ends meanwhile, the pack is of no use any more.
func (p *packFile) append(ctx context.Context, b []byte) error {
	p.size += uint32(len(b))
	for len(b) > 0 {
		if p.piece == nil {
			select {
			case p.piece = <-p.free:
			case <-ctx.Done():
				return fmt.Errorf("store: %w", ctx.Err())
			}
			if p.piece == nil {
				p.piece = disk.Buffer(pieceSize)[:0]
			}
		}
		n := min(len(b), cap(p.piece)-len(p.piece))
		p.piece = append(p.piece, b[:n]...)
		b = b[n:]
		if len(p.piece) == cap(p.piece) {
			p.out <- p.piece
			p.piece = nil
		}
	}
	return nil
}

// end ends the appending. Whatever is in the last piece goes to the disk, in
// whole sectors; seal cuts the file to its size.
func (p *packFile) end() {
	if p.piece != nil {
		n := len(p.piece)
		p.piece = p.piece[:(n+disk.Align-1)&^(disk.Align-1)]
		clear(p.piece[n:])
		p.out <- p.piece
		p.piece = nil
	}
	close(p.out)
}

// write writes what comes through out, tells fail if it cannot, and gives the
// pieces back.
func (p *packFile) write(fail func(error)) {
	defer close(p.written)
	var off int64
	for b := range p.out {
		if p.err == nil {
			if p.err = p.writeAt(b, off); p.err != nil {
				fail(p.err)
			}
		}
		off += int64(len(b))
		p.free <- b[:0]
	}
	if p.direct != nil {
		if err := p.direct.Close(); p.err == nil && err != nil {
			p.err = fmt.Errorf("store: write pack: %w", err)
		}
	}
}

func (p *packFile) writeAt(b []byte, off int64) error {
	if p.direct != nil {
		_, err := p.direct.WriteAt(b, off)
		if err == nil {
			return nil
		}
		// EINVAL: a filesystem that takes the flag and not the writes.
		if !errors.Is(err, unix.EINVAL) {
			if pe, ok := errors.AsType[*fs.PathError](err); ok {
				err = pe.Err // its path is one in /proc
			}
			return fmt.Errorf("store: write pack %s: %w", p.f.Name(), err)
		}
	}
	if _, err := p.f.WriteAt(b, off); err != nil {
		return fmt.Errorf("store: write pack: %w", err)
	}
	return nil
}

// drop gives a pack up whose appending has not ended.
func (p *packFile) drop() {
	p.end()
	<-p.written
	discard(p.f)
}
