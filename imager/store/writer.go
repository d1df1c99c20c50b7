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
	w := &dirWriter{d: d, pending: make(map[image.ID]struct{}), written: make(map[string]bool),
		slots: make(chan struct{}, commits), filling: make(chan struct{}, 1), pieces: make(chan []byte, pieces)}
	for range pieces {
		w.pieces <- nil // made on first use
	}
	return w
}

// dirWriter fills packs, one at a time.
type dirWriter struct {
	d    *Dir
	lock *lock // nil for GC, which holds the exclusive one
	// copying makes Put store what the index knows already: GC moves chunks.
	copying bool
	slots   chan struct{} // as many tokens as packs on their way
	pieces  chan []byte   // empty pieces of packs

	// filling has a token while somebody adds to cur, which may wait for the
	// disk: unlike a mutex it can be waited for together with a context.
	filling chan struct{}
	cur     *packFile // being filled, or nil

	mu      sync.Mutex            // held for a moment, never while waiting
	leaving []*packFile           // full, not yet durable
	pending map[image.ID]struct{} // chunks of cur and leaving
	written map[string]bool       // names of the packs made durable
	err     error                 // what spent the writer
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
	if err := w.enter(ctx); err != nil {
		return false, err
	}
	added, full, err := w.put(ctx, entry{id: id, encoded: uint32(len(encoded)), size: uint32(size)}, encoded)
	w.leave()
	if full != nil {
		w.send(full)
	}
	return added, err
}

// enter waits until nobody else fills packs.
func (w *dirWriter) enter(ctx context.Context) error {
	select {
	case w.filling <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("store: %w", ctx.Err())
	}
}

func (w *dirWriter) leave() { <-w.filling }

// put adds a chunk that is not there yet to the current pack. If that is then
// full, the caller is to send it off.
func (w *dirWriter) put(ctx context.Context, e entry, encoded []byte) (added bool, full *packFile, err error) {
	w.mu.Lock()
	err = w.err
	known := w.has(e.id)
	w.mu.Unlock()
	if err != nil || known {
		return false, nil, err
	}
	if w.cur == nil {
		if w.cur, err = w.newPack(ctx); err != nil {
			w.fail(err)
			return false, nil, err
		}
	}
	p := w.cur
	e.offset = p.size
	if err := p.append(ctx, encoded); err != nil {
		w.fail(err)
		return false, nil, err
	}
	p.entries = append(p.entries, e)
	w.mu.Lock()
	w.pending[e.id] = struct{}{}
	w.mu.Unlock()
	if p.size >= packTarget || len(p.entries) >= packChunks {
		full, err = w.retire(ctx)
	}
	return err == nil, full, err
}

// retire ends the filling of the current pack with its table.
func (w *dirWriter) retire(ctx context.Context) (*packFile, error) {
	p := w.cur
	table, name := appendTable(nil, p.entries)
	if err := p.append(ctx, table); err != nil {
		w.fail(err)
		return nil, err
	}
	p.name = name
	p.end()
	w.cur = nil
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leaving = append(w.leaving, p)
	return p, nil
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

// seal makes a pack durable and enters it into the index.
func (w *dirWriter) seal(p *packFile) error {
	<-p.written
	if p.err != nil {
		discard(p.f)
		return p.err
	}
	if err := p.f.Truncate(int64(p.size)); err != nil {
		discard(p.f)
		return fmt.Errorf("store: write pack: %w", err)
	}
	// What is about to be acknowledged must be what a reader will find.
	entries, got, err := readTable(p.f, int64(p.size))
	if err != nil || got != p.name {
		discard(p.f)
		return fmt.Errorf("store: pack reads back differently: %v", err)
	}
	name := p.name.String()
	if err := w.d.commit(p.f, filepath.Join(packDir, name+packSuffix), os.Rename); err != nil {
		return err
	}
	w.d.index.add(name, entries)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written[name] = true
	return nil
}

// wrote reports whether the writer made a pack of this name.
func (w *dirWriter) wrote(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written[name]
}

// spent returns what spent the writer, if anything has.
func (w *dirWriter) spent() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
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
	if err := w.enter(ctx); err != nil {
		return err
	}
	var last *packFile
	if w.cur != nil && w.spent() == nil {
		last, _ = w.retire(ctx) // which spends the writer if it fails
	}
	w.mu.Lock()
	waiting := append([]*packFile(nil), w.leaving...)
	w.mu.Unlock()
	w.leave()
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
	if err := w.spent(); err != nil {
		return err
	}
	// Chunks that were not added because another program's pack has them are
	// promised too: that program may not have come to its own fsync yet.
	return syncDir(w.d.dir(packDir))
}

// Close implements Writer.
func (w *dirWriter) Close() error {
	w.filling <- struct{}{} // whoever has the token waits for the disk at most
	defer w.leave()
	w.mu.Lock()
	if w.err == errClosed {
		w.mu.Unlock()
		return nil
	}
	w.err = errClosed
	waiting := append([]*packFile(nil), w.leaving...)
	w.mu.Unlock()
	if w.cur != nil {
		w.cur.drop()
		w.cur = nil
	}
	for _, p := range waiting {
		<-p.done
	}
	if w.lock != nil {
		w.lock.release()
	}
	return nil
}
