package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"huck/imager/image"
)

// commits is how many packs of one writer may be on their way to the disk at
// once, so that fsync of one overlaps filling the next, and a disk slower than
// its writer holds it back.
const commits = 2

// errClosed is what a closed writer answers.
var errClosed = errors.New("store: writer is closed")

// NewWriter implements WriteStore.
func (d *Dir) NewWriter(ctx context.Context) (Writer, error) {
	l, err := d.sharedTidy(ctx)
	if err != nil {
		return nil, err
	}
	// Under the lock nothing that the index knows can go away.
	if err := d.index.refresh(); err != nil {
		l.release()
		return nil, err
	}
	w := d.newWriter()
	w.lock = l
	return w, nil
}

func (d *Dir) newWriter() *dirWriter {
	return &dirWriter{d: d, pending: make(map[image.ID]struct{}), written: make(map[string]bool), slots: make(chan struct{}, commits)}
}

// dirWriter fills packs. Its mutex guards the bookkeeping, and the start of a
// new pack: many goroutines write their chunks into one pack at the same time,
// each at the place it reserved.
type dirWriter struct {
	d    *Dir
	lock *lock // nil for GC, which holds the exclusive one
	// copying makes Put store what the index knows already: GC moves chunks.
	copying bool
	slots   chan struct{} // as many tokens as packs on their way

	mu      sync.Mutex
	cur     *packFile             // being filled, or nil
	leaving []*packFile           // full, not yet durable
	pending map[image.ID]struct{} // chunks of cur and leaving
	written map[string]bool       // names of the packs made durable
	err     error                 // what spent the writer
}

// packFile is a pack in the making.
type packFile struct {
	f       *os.File
	size    uint32
	entries []entry
	writes  sync.WaitGroup // Puts that reserved a place and still write
	done    chan struct{}  // closed when it is durable or lost

	mu  sync.Mutex
	err error // of the first write that failed
}

func (p *packFile) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
}

func (p *packFile) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Has implements Writer.
func (w *dirWriter) Has(id image.ID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.has(id)
}

func (w *dirWriter) has(id image.ID) bool {
	if _, ok := w.pending[id]; ok {
		return true
	}
	if w.copying {
		return false
	}
	_, _, ok := w.d.index.lookup(id)
	return ok
}

// Put implements Writer.
func (w *dirWriter) Put(ctx context.Context, id image.ID, size int, encoded []byte) (added bool, err error) {
	if size <= 0 || size > image.RegionSize || len(encoded) == 0 || len(encoded) > size {
		return false, fmt.Errorf("store: chunk %s of %d bytes encoded as %d", id.Short(), size, len(encoded))
	}
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("store: %w", err)
	}
	p, offset, full, err := w.reserve(id, size, len(encoded))
	if p == nil {
		return false, err
	}
	_, err = p.f.WriteAt(encoded, offset)
	if err != nil {
		err = fmt.Errorf("store: write chunk %s: %w", id.Short(), err)
		p.fail(err)
		w.fail(err)
	}
	p.writes.Done()
	if full {
		w.send(p)
	}
	return err == nil, err
}

// reserve finds a place for a chunk. It returns no pack if the chunk is there
// already, and full if the caller is to send the pack off once it has written.
func (w *dirWriter) reserve(id image.ID, size, encoded int) (p *packFile, offset int64, full bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || w.has(id) {
		return nil, 0, false, w.err
	}
	if w.cur == nil {
		if w.cur, err = w.newPack(); err != nil {
			w.err = err
			return nil, 0, false, err
		}
	}
	p = w.cur
	offset = int64(p.size)
	p.entries = append(p.entries, entry{id, p.size, uint32(encoded), uint32(size)})
	p.size += uint32(encoded)
	p.writes.Add(1)
	w.pending[id] = struct{}{}
	if full = p.size >= packTarget || len(p.entries) >= packChunks; full {
		w.retire()
	}
	return p, offset, full, nil
}

// newPack starts a pack.
func (w *dirWriter) newPack() (*packFile, error) {
	f, err := w.d.createTemp()
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(appendPackHeader(nil)); err != nil {
		discard(f)
		return nil, fmt.Errorf("store: write pack: %w", err)
	}
	return &packFile{f: f, size: packHeader, entries: make([]entry, 0, 512), done: make(chan struct{})}, nil
}

// retire ends the filling of the current pack. The caller holds the mutex.
func (w *dirWriter) retire() *packFile {
	p := w.cur
	w.cur = nil
	w.leaving = append(w.leaving, p)
	return p
}

// send makes a retired pack durable beside the caller, who waits if too many
// are on their way. The goroutine ends with the pack; Flush and Close wait
// for it.
func (w *dirWriter) send(p *packFile) {
	w.slots <- struct{}{}
	go func() {
		defer func() { <-w.slots }()
		if err := w.seal(p); err != nil {
			w.fail(err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for i := range p.entries {
			delete(w.pending, p.entries[i].id) // the index has it now
		}
		for i := range w.leaving {
			if w.leaving[i] == p {
				w.leaving = append(w.leaving[:i], w.leaving[i+1:]...)
				break
			}
		}
		close(p.done)
	}()
}

// seal completes a pack, makes it durable and enters it into the index.
func (w *dirWriter) seal(p *packFile) error {
	p.writes.Wait()
	if err := p.failed(); err != nil {
		discard(p.f)
		return err
	}
	b, name := appendTable(nil, p.entries)
	if _, err := p.f.WriteAt(b, int64(p.size)); err != nil {
		discard(p.f)
		return fmt.Errorf("store: write pack: %w", err)
	}
	// What is about to be acknowledged must be what a reader will find.
	if _, got, err := readTable(p.f, int64(p.size)+int64(len(b))); err != nil || got != name {
		discard(p.f)
		return fmt.Errorf("store: pack reads back differently: %v", err)
	}
	if err := w.d.commit(p.f, filepath.Join(packDir, name.String()+packSuffix), os.Rename); err != nil {
		return err
	}
	w.d.index.add(name.String(), p.entries)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written[name.String()] = true
	return nil
}

// wrote reports whether the writer made a pack of this name.
func (w *dirWriter) wrote(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written[name]
}

func (w *dirWriter) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// Flush implements Writer.
func (w *dirWriter) Flush(ctx context.Context) error {
	w.mu.Lock()
	var last *packFile
	if w.cur != nil && w.err == nil {
		last = w.retire()
	}
	waiting := append([]*packFile(nil), w.leaving...)
	w.mu.Unlock()
	if last != nil {
		w.send(last)
	}
	for _, p := range waiting {
		select {
		case <-p.done:
		case <-ctx.Done():
			return fmt.Errorf("store: flush: %w", ctx.Err())
		}
	}
	w.mu.Lock()
	err := w.err
	w.mu.Unlock()
	if err != nil {
		return err
	}
	// Chunks that were not added because another program's pack has them are
	// promised too: that program may not have come to its own fsync yet.
	return syncDir(w.d.dir(packDir))
}

// Close implements Writer.
func (w *dirWriter) Close() error {
	w.mu.Lock()
	if w.err == errClosed {
		w.mu.Unlock()
		return nil
	}
	w.err = errClosed
	cur, waiting := w.cur, append([]*packFile(nil), w.leaving...)
	w.cur = nil
	w.mu.Unlock()
	if cur != nil {
		cur.writes.Wait()
		discard(cur.f)
	}
	for _, p := range waiting {
		<-p.done
	}
	if w.lock != nil {
		w.lock.release()
	}
	return nil
}
