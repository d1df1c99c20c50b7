package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/store"
)

const (
	// batchSize is the disk space read at a time: large enough for a disk to
	// reach its full speed.
	batchSize = 2 << 20
	// readHole is the longest stretch of unused blocks that is read along
	// rather than skipped; a read of its own costs a disk more.
	readHole = 64 << 10
	// readers is how many reads are under way at once, so that the disk does
	// not idle between two.
	readers = 2
	// maxBad is how many stretches of unreadable blocks a manifest has room
	// for. A disk with more of them is past imaging.
	maxBad = 10000
)

// stream moves the planned blocks from the disk to the store: readers fill
// batches in disk order, workers hash, encode and store their chunks. Every
// worker fills in the IDs of its own entries, so the result does not depend on
// who was when.
type stream struct {
	p    *plan
	w    store.Writer
	free chan *batch // empty batches; as many as readers and workers can hold
	full chan *batch

	mu   sync.Mutex
	next int            // first entry that no batch has
	bad  []image.Extent // blocks that could not be read

	telling sync.Mutex // held while Progress runs
	done    int64      // bytes through

	newBytes atomic.Int64
}

// batch is a stretch of the disk in memory.
type batch struct {
	start   int64 // disk offset of buf[0]
	buf     []byte
	first   int // index of the first entry
	entries []image.Entry
}

// at returns the bytes of the disk from off on.
func (b *batch) at(off int64, n int) []byte { return b.buf[off-b.start:][:n] }

func newStream(p *plan, w store.Writer) *stream {
	n := p.cfg.Workers + 2*readers
	s := &stream{p: p, w: w, free: make(chan *batch, n), full: make(chan *batch, n)}
	for range n {
		s.free <- &batch{buf: disk.Buffer(batchSize)}
	}
	return s
}

// run streams everything. All its goroutines have ended when it returns.
func (s *stream) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	var reading sync.WaitGroup
	for range readers {
		reading.Add(1)
		g.Go(func() error {
			defer reading.Done()
			return s.read(ctx)
		})
	}
	g.Go(func() error {
		reading.Wait()
		close(s.full)
		return nil
	})
	for range s.p.cfg.Workers {
		g.Go(func() error { return s.work(ctx) })
	}
	return g.Wait()
}

// read fills batches until none is left.
func (s *stream) read(ctx context.Context) error {
	for {
		var b *batch
		select {
		case b = <-s.free:
		case <-ctx.Done():
			return fmt.Errorf("capture: %w", ctx.Err())
		}
		if !s.take(b) {
			return nil
		}
		if err := s.fill(ctx, b); err != nil {
			return err
		}
		s.full <- b // has room for all batches
	}
}

// take gives b the next entries, as many as fit its buffer.
func (s *stream) take(b *batch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.p.entries
	if s.next == len(all) {
		return false
	}
	b.first, b.start = s.next, all[s.next].Offset()
	for s.next < len(all) && all[s.next].Offset() < b.start+batchSize {
		s.next++
	}
	b.entries = all[b.first:s.next]
	return true
}

// fill reads the used blocks of a batch, and small holes between them.
func (s *stream) fill(ctx context.Context, b *batch) error {
	size := s.p.man.DiskSize
	var from, to int64 // what to read next
	first := 0         // entry that from is in
	for i := range b.entries {
		for r := range b.entries[i].Runs(size) {
			if to != 0 && r.Offset-to > readHole {
				if err := s.readRange(ctx, b, first, from, to); err != nil {
					return err
				}
				to = 0
			}
			if to == 0 {
				from, first = r.Offset, i
			}
			to = r.Offset + int64(r.Len)
		}
	}
	if err := s.readRange(ctx, b, first, from, to); err != nil {
		return err
	}
	s.p.mend(b)
	return nil
}

// readRange reads the disk from from to to. If it cannot, and is to skip what
// cannot be read, it goes through the used blocks one by one.
func (s *stream) readRange(ctx context.Context, b *batch, first int, from, to int64) error {
	err := readFull(s.p.cfg.Device, b.at(from, int(to-from)), from)
	if err == nil {
		return nil
	}
	if !s.p.cfg.SkipBad || errors.Is(err, disk.ErrGone) {
		return fmt.Errorf("capture: read %s, %d bytes at %d: %w", s.p.cfg.Device.Name(), to-from, from, err)
	}
	for i := first; i < len(b.entries); i++ {
		for r := range b.entries[i].Runs(s.p.man.DiskSize) {
			if r.Offset < from || r.Offset >= to {
				continue
			}
			if err := s.readBlocks(ctx, b, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// readBlocks reads a run block by block and puts zeros where it cannot.
func (s *stream) readBlocks(ctx context.Context, b *batch, r image.Run) error {
	for off, end := r.Offset, r.Offset+int64(r.Len); off < end; off += image.BlockSize {
		if err := ctx.Err(); err != nil { // a dying disk takes its time
			return fmt.Errorf("capture: %w", err)
		}
		block := b.at(off, int(min(image.BlockSize, end-off)))
		err := readFull(s.p.cfg.Device, block, off)
		if err == nil {
			continue
		}
		if errors.Is(err, disk.ErrGone) { // or the rest of the disk would become zeros
			return fmt.Errorf("capture: read %s: %w", s.p.cfg.Device.Name(), err)
		}
		clear(block)
		s.p.cfg.Log.Warn("capture: unreadable block", "dev", s.p.cfg.Device.Name(), "offset", off, "err", err)
		if err := s.addBad(image.Extent{Start: off, Size: int64(len(block))}); err != nil {
			return err
		}
	}
	return nil
}

// addBad notes an unreadable block.
func (s *stream) addBad(e image.Extent) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = append(s.bad, e)
	if len(s.bad)%maxBad != 0 {
		return nil
	}
	if s.bad = joined(s.bad); len(s.bad) > maxBad/2 {
		return fmt.Errorf("capture: %s has more than %d unreadable stretches", s.p.cfg.Device.Name(), maxBad/2)
	}
	return nil
}

// badExtents returns what could not be read, by start.
func (s *stream) badExtents() []image.Extent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return joined(s.bad)
}

// joined sorts extents and joins those that touch.
func joined(all []image.Extent) []image.Extent {
	slices.SortFunc(all, func(a, b image.Extent) int { return cmp.Compare(a.Start, b.Start) })
	out := all[:0]
	for _, e := range all {
		if n := len(out); n > 0 && e.Start == out[n-1].Start+out[n-1].Size {
			out[n-1].Size += e.Size
			continue
		}
		out = append(out, e)
	}
	return out
}

// worker is what one worker needs, made once: its loop allocates nothing.
type worker struct {
	s     *stream
	enc   *image.Encoder
	chunk []byte // a chunk whose blocks are not contiguous
	code  []byte // an encoded chunk
	ids   []image.ID
	known []bool // which of ids the store has
}

func (s *stream) newWorker() *worker {
	// Room for what zstd adds before it finds that the chunk does not shrink.
	const room = image.RegionSize + image.RegionSize/64
	const most = batchSize / image.RegionSize
	return &worker{s: s, enc: image.NewEncoder(), chunk: make([]byte, image.RegionSize), code: make([]byte, 0, room),
		ids: make([]image.ID, 0, most), known: make([]bool, most)}
}

// work stores the chunks of full batches until there are no more.
func (s *stream) work(ctx context.Context) error {
	w := s.newWorker()
	for {
		select {
		case b, ok := <-s.full:
			if !ok {
				return nil
			}
			if err := w.batch(ctx, b); err != nil {
				return err
			}
			s.free <- b
		case <-ctx.Done():
			return fmt.Errorf("capture: %w", ctx.Err())
		}
	}
}

// batch identifies the chunks of a batch, asks for all of them and stores those
// that are new.
func (w *worker) batch(ctx context.Context, b *batch) error {
	var n int64
	w.ids = w.ids[:0]
	for i := range b.entries {
		e := &b.entries[i]
		chunk := w.gather(b, e)
		e.ID = image.Sum(chunk)
		w.ids = append(w.ids, e.ID)
		n += int64(len(chunk))
	}
	known := w.known[:len(w.ids)]
	if err := w.ask(ctx, known); err != nil {
		return err
	}
	for i := range b.entries {
		if known[i] {
			continue
		}
		if err := w.put(ctx, b, &b.entries[i]); err != nil {
			return err
		}
	}
	w.s.progress(n)
	return nil
}

func (w *worker) ask(ctx context.Context, known []bool) error {
	if a, ok := w.s.w.(Asker); ok {
		return a.Ask(ctx, w.ids, known)
	}
	for i, id := range w.ids {
		known[i] = w.s.w.Has(id)
	}
	return nil
}

// put stores the chunk of an entry.
func (w *worker) put(ctx context.Context, b *batch, e *image.Entry) error {
	chunk := w.gather(b, e)
	w.code = w.enc.Encode(w.code[:0], chunk)
	added, err := w.s.w.Put(ctx, e.ID, len(chunk), w.code)
	if added {
		w.s.newBytes.Add(int64(len(w.code)))
	}
	return err
}

// gather returns the used blocks of an entry in disk order, without a copy if
// they are contiguous.
func (w *worker) gather(b *batch, e *image.Entry) []byte {
	size := e.Size(w.s.p.man.DiskSize)
	n := 0
	for r := range e.Runs(w.s.p.man.DiskSize) {
		if r.Len == size {
			return b.at(r.Offset, r.Len)
		}
		n += copy(w.chunk[n:], b.at(r.Offset, r.Len))
	}
	return w.chunk[:n]
}

// progress counts n bytes as done and tells.
func (s *stream) progress(n int64) {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.done += n
	if s.p.cfg.Progress != nil {
		s.p.cfg.Progress(s.done, s.p.total)
	}
}
