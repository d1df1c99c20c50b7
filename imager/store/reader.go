package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"huck/imager/image"
)

// maxOpen is how many packs a reader keeps open that are not read just now. An
// image is mostly read in the order it was written, so that a few will do.
const maxOpen = 4

// NewReader implements Store.
func (d *Dir) NewReader() Reader { return &dirReader{d: d} }

// dirReader keeps the packs that were read last open: the kernel reads ahead in
// a file that is read in order, and only as long as it stays open.
type dirReader struct {
	d *Dir

	mu     sync.Mutex
	recent []*openPack // the one opened last is the last
}

// openPack is a pack that users read. It is closed after the last of them, once
// it is not among the recent ones any more.
type openPack struct {
	*os.File
	name  string
	users int
	old   bool
}

// Encoded implements Reader.
func (r *dirReader) Encoded(ctx context.Context, id image.ID, buf []byte) ([]byte, error) {
	err := r.d.find(ctx, id, func(e *entry, pack string) error {
		p, err := r.open(pack)
		if err != nil {
			return err
		}
		defer r.release(p)
		buf = slices.Grow(buf[:0], int(e.encoded))[:e.encoded]
		return readEncoded(p, buf, e, pack)
	})
	return buf, err
}

// open returns a pack, to be given back with release.
func (r *dirReader) open(name string) (*openPack, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.recent {
		if p.name == name {
			p.users++
			return p, nil
		}
	}
	f, err := r.d.openPack(name)
	if err != nil {
		return nil, err
	}
	p := &openPack{File: f, name: name, users: 1}
	r.recent = append(r.recent, p)
	if len(r.recent) > maxOpen {
		r.recent[0].retire()
		r.recent = slices.Delete(r.recent, 0, 1)
	}
	return p, nil
}

func (r *dirReader) release(p *openPack) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.users--; p.old {
		p.retire()
	}
}

// retire closes a pack, now or when it is given back. Closing what was only
// read cannot lose anything.
func (p *openPack) retire() {
	p.old = true
	if p.users == 0 {
		p.Close()
	}
}

// Close implements Reader.
func (r *dirReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.recent {
		p.retire()
	}
	r.recent = nil
	return nil
}

// find calls read with the place of a chunk. Where the pack is gone, or the
// index does not know the chunk, it looks again and reads once more.
func (d *Dir) find(ctx context.Context, id image.ID, read func(e *entry, pack string) error) error {
	// The second round is for a chunk that is new, or that GC moved.
	for round := 0; ; round++ {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		e, pack, ok := d.index.lookup(id)
		if ok {
			err := read(e, pack)
			if err == nil || !errors.Is(err, fs.ErrNotExist) || round > 0 {
				return err
			}
		} else if round > 0 {
			return d.missing(id)
		}
		if err := d.index.refresh(); err != nil {
			return err
		}
	}
}

// openPack opens a pack for reading.
func (d *Dir) openPack(name string) (*os.File, error) {
	f, err := os.Open(filepath.Join(d.dir(packDir), name+packSuffix))
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return f, nil
}

// readEncoded fills b with a chunk of a pack.
func readEncoded(f io.ReaderAt, b []byte, e *entry, pack string) error {
	if err := readFull(f, b, int64(e.offset)); err != nil {
		return &image.ChunkError{ID: e.id, Why: fmt.Sprintf("pack %s: %v", shortName(pack), err)}
	}
	return nil
}
