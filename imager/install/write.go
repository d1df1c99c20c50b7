package install

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"

	"huck/imager/disk"
	"huck/imager/image"
)

const (
	// writers keep that many writes under way: what the processors have to do
	// between two of them keeps no disk waiting.
	writers = 4
	// maxBatch is how many chunks a writer joins at a time, and maxWrite the
	// longest single write, in bytes.
	maxBatch = 8
	maxWrite = maxBatch * image.RegionSize
	// maxWaiting is how many it chooses them from: several are decoded at a time,
	// and one that takes longer is still to find its neighbours.
	maxWaiting = 2 * maxBatch
	// maxZeros is the longest gap that is filled on a blank device. Shorter than
	// a region, so that it cannot hold a whole one.
	maxZeros = 64 << 10
	// minYield is how many bytes a delivery has put in line when it gives its
	// processor to a writer whose write has ended, so that the disk gets the next
	// one: the runtime looks for those who come back from the kernel only now and
	// then. That takes a microsecond; small chunks are better delivered in a row.
	minYield = 64 << 10
)

// write is a verified chunk and where parts of it go. It is used over and over.
type write struct {
	buf  []byte
	segs []segment
	// large says that buf is in a large page.
	large bool
}

// size is how many bytes are to be written.
func (w *write) size() (n int64) {
	for _, s := range w.segs {
		n += int64(len(s.data))
	}
	return n
}

// inLine is how many of the bytes of a write count as written when it gets in
// line: all that a chunk has, which will not take long. Its other places, of which
// there may be many, count when they are written.
func inLine(size int64) int64 { return min(size, image.RegionSize) }

// segment is a stretch of the disk to be written.
type segment struct {
	off  int64
	data []byte
}

// Deliver hands over the encoded bytes of chunk n; via names the transport. It
// verifies them, compares what has not been compared of the chunk's places,
// and puts what differs in line to be written. It blocks while there is no
// room. Bytes that are not the chunk's give an *image.ChunkError, and the chunk
// is still missing; every other error is the end of the job. A chunk that is
// not wanted any more is ignored. Nothing of encoded is used after it returns.
//
// Decoding happens on the caller's goroutine: several callers use several
// cores, up to Options.Workers.
func (j *Job) Deliver(ctx context.Context, n uint32, encoded []byte, via string) error {
	if int64(n) >= int64(j.view.layout.Chunks()) {
		return fmt.Errorf("install: chunk %d delivered of an image of %d", n, j.view.layout.Chunks())
	}
	if !j.state.take(n) {
		return nil
	}
	w, err := j.buffer(ctx)
	if err == nil {
		if err = j.prepare(ctx, w, n, encoded, via); err != nil {
			j.free(w)
		}
	}
	if err != nil {
		j.state.release(n)
		return err
	}
	size := w.size()
	if len(w.segs) == 0 {
		j.free(w)
	} else {
		j.queue <- w // as long as all buffers together: does not block
	}
	j.state.settle(n, inLine(size))
	if size >= minYield {
		runtime.Gosched()
	}
	return nil
}

// prepare decodes and verifies chunk n and makes its write, after the disk's
// head has been invalidated if there is anything to write.
func (j *Job) prepare(ctx context.Context, out *write, n uint32, encoded []byte, via string) error {
	var w *worker
	select {
	case w = <-j.workers:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { j.workers <- w }()
	if w == nil {
		w = &worker{image.NewDecoder(), disk.Buffer(image.RegionSize + image.DecodeSlack)}
	}
	// Decoding and hashing go over a chunk several times: in memory that is always
	// the same they find it in the processor's cache. To copy it from there takes
	// less than that gains.
	chunk, err := w.dec.Decode(w.buf, encoded, j.view.layout.ID(n), j.view.layout.Size(n))
	if err != nil {
		return err
	}
	j.state.received(via, len(encoded))
	chunk = out.buf[:copy(out.buf, chunk)]
	out.segs, err = j.segments(ctx, n, chunk, w.buf[:image.RegionSize], out.segs[:0])
	return err
}

// buffer returns a free buffer, or makes more of them if there is none.
func (j *Job) buffer(ctx context.Context) (*write, error) {
	select {
	case w := <-j.buffers:
		return w, nil
	default:
	}
	select {
	case w := <-j.buffers:
		return w, nil
	case size := <-j.unmade:
		large := size == disk.LargePage
		if large {
			j.large.Store(true)
		}
		for buf := range slices.Chunk(disk.Buffer(size), image.RegionSize) {
			j.buffers <- &write{buf: buf, large: large}
		}
		return j.buffer(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// free makes w's buffer available again.
func (j *Job) free(w *write) {
	if w.large || !j.large.Load() {
		j.buffers <- w // has room for all: does not block
	}
}

// segments appends what of chunk n must be written where. What belongs in the
// disk's head is put aside instead.
func (j *Job) segments(ctx context.Context, n uint32, chunk, scratch []byte, segs []segment) ([]segment, error) {
	l := j.view.layout
	for i := range l.Places(n) {
		if j.view.partial(i) {
			j.view.learn(i, chunk)
		}
		if !j.state.lookedAt(i) {
			if err := ctx.Err(); err != nil {
				return segs, err
			}
			same, err := j.view.look(j.dev, i, scratch)
			j.saw(i, same, err)
		}
		if !j.state.differsAt(i) {
			continue
		}
		if err := j.invalidate(); err != nil {
			return segs, err
		}
		for r := range j.view.runs(i) {
			s := segment{r.Offset, chunk[r.At:][:r.Len]}
			if err := j.checkTail(s); err != nil {
				return segs, err
			}
			if s = j.holdBack(s); len(s.data) > 0 {
				segs = append(segs, s)
			}
		}
	}
	return segs, nil
}

// checkTail refuses an image with data where this disk's backup GPT goes.
func (j *Job) checkTail(s segment) error {
	over := s.off + int64(len(s.data)) - j.view.dataEnd
	if over <= 0 {
		return nil
	}
	tail := s.data[max(int64(len(s.data))-over, 0):]
	if disk.IsZero(tail) {
		return nil
	}
	return fmt.Errorf("install: the image has data behind byte %d of %s, where the backup GPT belongs", j.view.dataEnd, j.dev.Name())
}

// holdBack puts the part of s that belongs in the disk's head aside and returns
// the rest.
func (j *Job) holdBack(s segment) segment {
	if s.off >= j.view.headSize {
		return s
	}
	n := copy(j.head[s.off:], s.data)
	return segment{s.off + int64(n), s.data[n:]}
}

// writer writes chunks. What it needs for that it uses over and over.
type writer struct {
	j     *Job
	batch []*write
	segs  []segment
	bufs  [][]byte
	zeros []byte
	// counted is how much of what is to be written counts as written.
	counted int64
}

// write takes chunks from the queue and writes them until the queue is closed
// and empty or ctx is done.
func (j *Job) write(ctx context.Context) error {
	w := &writer{j: j, zeros: disk.Buffer(maxZeros)}
	for {
		if err := w.next(ctx); err != nil || len(w.batch) == 0 {
			return err
		}
		w.segs, w.counted = w.segs[:0], 0
		for _, c := range w.batch {
			w.segs = append(w.segs, c.segs...)
			w.counted += inLine(c.size())
		}
		if err := w.writeSorted(ctx); err != nil {
			return err
		}
		for _, c := range w.batch {
			j.free(c)
		}
	}
}

// line is what waits to be written, and where the last batch taken from it ends.
type line struct {
	waiting []*write
	at      int64
}

// next waits for a batch of chunks: they mostly come in disk order, and the more
// of them are joined the longer are the writes. There are fewer only if no more
// come. One writer chooses at a time, so that neighbours stay together.
func (w *writer) next(ctx context.Context) error {
	var l *line
	select {
	case l = <-w.j.line:
		defer func() { w.j.line <- l }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for ended := false; !ended && len(l.waiting) < maxWaiting; {
		select {
		case c, ok := <-w.j.queue:
			if ended = !ok; ok {
				l.waiting = append(l.waiting, c)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.batch = l.take(w.batch[:0])
	return nil
}

// take moves the next chunks on the way from the beginning of the disk to its
// end, and there from the beginning again, to a batch.
func (l *line) take(batch []*write) []*write {
	slices.SortFunc(l.waiting, func(a, b *write) int { return cmp.Compare(l.way(a), l.way(b)) })
	n := min(len(l.waiting), maxBatch)
	if n > 0 {
		l.at = l.waiting[n-1].segs[0].off
	}
	batch = append(batch, l.waiting[:n]...)
	l.waiting = slices.Delete(l.waiting, 0, n)
	return batch
}

// way is how far it is to a chunk. It wraps around, as the offsets' difference
// does: what lies behind is farther than all that is ahead.
func (l *line) way(w *write) uint64 { return uint64(w.segs[0].off - l.at) }

// writeSorted writes the segments in disk order, neighbours at once. On a blank
// device those are neighbours, too, that have only unused blocks between them:
// writing a few zeros where there are zeros is cheaper than another write. No gap
// so short can hide a region that is not among the segments, unless it is zeros.
// A chunk that stands in many places takes long: ctx ends it between two writes.
func (w *writer) writeSorted(ctx context.Context) error {
	slices.SortFunc(w.segs, func(a, b segment) int { return cmp.Compare(a.off, b.off) })
	for segs := w.segs; len(segs) > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		off, end, filled := segs[0].off, segs[0].off, int64(0)
		w.bufs = w.bufs[:0]
		for len(segs) > 0 {
			gap, next := int(segs[0].off-end), segs[0].off+int64(len(segs[0].data))
			if gap < 0 || gap > w.j.maxGap || next-off > maxWrite {
				break
			}
			if gap > 0 {
				w.bufs = append(w.bufs, w.zeros[:gap])
				filled += int64(gap)
			}
			w.bufs, end, segs = append(w.bufs, segs[0].data), next, segs[1:]
		}
		if err := w.j.writeAt(off, w.bufs...); err != nil {
			return err
		}
		w.j.written.Add(-filled) // they are none of the image's
		w.count(end - off - filled)
	}
	return nil
}

// count counts n bytes as written that do not yet.
func (w *writer) count(n int64) {
	before := min(n, w.counted)
	w.counted -= before
	if n > before {
		w.j.state.wrote(n - before)
	}
}

// writeAt writes to the device; its errors name device and offset.
func (j *Job) writeAt(off int64, bufs ...[]byte) error {
	n, err := j.dev.WriteV(off, bufs...)
	j.written.Add(int64(n))
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	return nil
}

// reserve has a blank device find room for all that is going to be written.
func (j *Job) reserve(ctx context.Context) error {
	r, ok := j.dev.(disk.Reserver)
	if !ok || j.maxGap == 0 {
		return nil
	}
	err := j.view.written(j.maxGap, func(off, n int64) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return r.Reserve(off, n)
	})
	if err != nil {
		// Nothing has been written: what was found goes back, or the filesystem
		// would be left full of nothing. Where it cannot, that is not worth writing
		// for. The error that matters is the one at hand.
		_ = j.dev.Discard(0, j.view.size)
		return fmt.Errorf("install: %w", err)
	}
	return nil
}
