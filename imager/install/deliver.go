package install

import (
	"context"
	"fmt"
	"runtime"
	"slices"

	"huck/imager/disk"
	"huck/imager/image"
)

// minYield is how many bytes a delivery has put in line when it gives its
// processor to a writer whose write has ended, so that the disk gets the next
// one: the runtime looks for those who come back from the kernel only now and
// then. That takes a microsecond; small chunks are better delivered in a row.
const minYield = 64 << 10

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
	l, zero := j.view.layout, disk.IsZero(chunk)
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
			s := segment{r.Offset, int64(r.Len), chunk[r.At:][:r.Len]}
			if err := j.checkTail(s); err != nil {
				return segs, err
			}
			segs = addSegment(segs, j.holdBack(s), zero)
		}
	}
	return segs, nil
}

// addSegment appends s, unless it is empty. Of zeros it lengthens the last one where
// it can: of large filesystems there may be many gigabytes, and they are one chunk.
func addSegment(segs []segment, s segment, zero bool) []segment {
	if s.size == 0 {
		return segs
	}
	if zero {
		s.data = nil
		if n := len(segs); n > 0 && segs[n-1].off+segs[n-1].size == s.off {
			segs[n-1].size += s.size
			return segs
		}
	}
	return append(segs, s)
}

// checkTail refuses an image with data where this disk's backup GPT goes.
func (j *Job) checkTail(s segment) error {
	over := s.off + s.size - j.view.dataEnd
	if over <= 0 {
		return nil
	}
	tail := s.data[max(s.size-over, 0):]
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
	return segment{s.off + int64(n), s.size - int64(n), s.data[n:]}
}
