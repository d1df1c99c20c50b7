package install

import (
	"cmp"
	"context"
	"fmt"
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
	// minZero is from where on zeros are not written but left to the device to
	// make, which most can without having them sent. Fewer are not worth a command
	// of their own. maxZero is how many it makes at a time: where the kernel has to
	// write them itself, the job can be stopped in between.
	minZero = 1 << 20
	maxZero = 64 << 20
	// maxFill is the longest gap that is filled on a blank device. Shorter than
	// a region, so that it cannot hold a whole one.
	maxFill = 64 << 10
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
		n += s.size
	}
	return n
}

// inLine is how many of the bytes of a write count as written when it gets in
// line: all that a chunk has, which will not take long. Its other places, of which
// there may be many, count when they are written.
func inLine(size int64) int64 { return min(size, image.RegionSize) }

// segment is a stretch of the disk to be written.
type segment struct {
	off, size int64
	data      []byte // nil for zeros, as many as they may be
}

// ofDevice reports whether s is zeros for the device to make.
func (s *segment) ofDevice() bool { return s.data == nil && s.size >= minZero }

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
// and empty or ctx is done. It takes zeros for all that are to be written.
func (j *Job) write(ctx context.Context, zeros []byte) error {
	w := &writer{j: j, zeros: zeros}
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

// writeSorted writes the segments in disk order, neighbours at once, and has the
// device make long runs of zeros. A chunk that stands in many places takes long:
// ctx ends it between two writes.
func (w *writer) writeSorted(ctx context.Context) error {
	slices.SortFunc(w.segs, func(a, b segment) int { return cmp.Compare(a.off, b.off) })
	for segs := w.segs; len(segs) > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if s := &segs[0]; s.ofDevice() {
			n := min(s.size, maxZero)
			if err := w.j.zero(s.off, n); err != nil {
				return err
			}
			w.count(n)
			if s.off, s.size = s.off+n, s.size-n; s.size == 0 {
				segs = segs[1:]
			}
			continue
		}
		n, err := w.join(segs)
		if err != nil {
			return err
		}
		segs = segs[n:]
	}
	return nil
}

// join writes the first of segs and its neighbours at once and returns how many
// those are. On a blank device those are neighbours, too, that have only unused
// blocks between them: writing a few zeros where there are zeros is cheaper than
// another write. No gap so short can hide a region that is not among the segments,
// unless it is zeros.
func (w *writer) join(segs []segment) (n int, err error) {
	off, end, filled := segs[0].off, segs[0].off, int64(0)
	w.bufs = w.bufs[:0]
	for ; n < len(segs); n++ {
		s := &segs[n]
		gap, next := s.off-end, s.off+s.size
		if gap < 0 || gap > w.j.maxGap || next-off > maxWrite || s.ofDevice() {
			break
		}
		if gap > 0 {
			w.bufs = append(w.bufs, w.zeros[:gap])
			filled += gap
		}
		data := s.data
		if data == nil {
			data = w.zeros[:s.size]
		}
		w.bufs, end = append(w.bufs, data), next
	}
	if err := w.j.writeAt(off, w.bufs...); err != nil {
		return 0, err
	}
	w.j.written.Add(-filled) // they are none of the image's
	w.count(end - off - filled)
	return n, nil
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

// zero has the device make n zeros, which count as written; its errors name device
// and offset.
func (j *Job) zero(off, n int64) error {
	if err := j.dev.Zero(off, n); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	j.written.Add(n)
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
