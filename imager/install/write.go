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
	// writers keep that many writes under way: one is with the disk while the
	// next is put together.
	writers = 2
	// maxWrite is the longest single write, in bytes.
	maxWrite = 1 << 20
	// maxZeros is the longest gap that is filled on a blank device. Shorter than
	// a region, so that it cannot hold a whole one.
	maxZeros = 64 << 10
	// maxBatch is how many queued chunks one writer sorts and joins at a time.
	maxBatch = 2 * maxWrite / image.RegionSize
)

// write is a verified chunk and where parts of it go. It is used over and over.
type write struct {
	buf  []byte
	segs []segment
}

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
	w, err := j.prepare(ctx, n, encoded, via)
	if err != nil {
		j.state.release(n)
		return err
	}
	var size int64
	for _, s := range w.segs {
		size += int64(len(s.data))
	}
	if len(w.segs) == 0 {
		j.buffers <- w
	} else {
		j.queue <- w // as long as all buffers together: does not block
	}
	j.state.settle(n, size)
	return nil
}

// prepare decodes and verifies chunk n and makes its write, after the disk's
// head has been invalidated if there is anything to write.
func (j *Job) prepare(ctx context.Context, n uint32, encoded []byte, via string) (out *write, err error) {
	select {
	case out = <-j.buffers:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if out == nil {
		out = &write{buf: disk.Buffer(image.RegionSize + image.DecodeSlack)}
	}
	defer func() {
		if err != nil {
			j.buffers <- out
		}
	}()
	var w *worker
	select {
	case w = <-j.workers:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { j.workers <- w }()
	if w == nil {
		w = &worker{image.NewDecoder(), disk.Buffer(image.RegionSize)}
	}
	chunk, err := w.dec.Decode(out.buf, encoded, j.view.layout.ID(n), j.view.layout.Size(n))
	if err != nil {
		return nil, err
	}
	j.state.received(via, len(encoded))
	if len(chunk) > 0 && &chunk[0] != &out.buf[0] { // it was not compressed
		chunk = out.buf[:copy(out.buf, chunk)]
	}
	out.segs, err = j.segments(ctx, n, chunk, w.buf, out.segs[:0])
	return out, err
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

// write takes chunks from the queue and writes them until the queue is closed
// and empty or ctx is done.
func (j *Job) write(ctx context.Context) error {
	stage := disk.Buffer(maxWrite)
	var batch []*write
	var segs []segment
	for {
		select {
		case w, ok := <-j.queue:
			if !ok {
				return nil
			}
			batch = j.more(append(batch[:0], w))
		case <-ctx.Done():
			return ctx.Err()
		}
		segs = segs[:0]
		for _, w := range batch {
			segs = append(segs, w.segs...)
		}
		if err := j.writeSorted(segs, stage); err != nil {
			return err
		}
		for _, w := range batch {
			j.buffers <- w
		}
	}
}

// more adds to a batch what else waits in the queue.
func (j *Job) more(batch []*write) []*write {
	for len(batch) < maxBatch {
		select {
		case w, ok := <-j.queue:
			if !ok {
				return batch
			}
			batch = append(batch, w)
		default:
			return batch
		}
	}
	return batch
}

// writeSorted writes segments in disk order and joins neighbours in stage. On a
// blank device those are neighbours, too, that have only unused blocks between
// them: writing a few zeros where there are zeros is cheaper than another write.
// No gap so short can hide a region that is not among the segments.
func (j *Job) writeSorted(segs []segment, stage []byte) error {
	slices.SortFunc(segs, func(a, b segment) int { return cmp.Compare(a.off, b.off) })
	for len(segs) > 0 {
		off, data, zeros := segs[0].off, segs[0].data, 0
		n := 1
		for ; n < len(segs); n++ {
			gap := int(segs[n].off - off - int64(len(data)))
			if gap < 0 || gap > j.maxGap || len(data)+gap+len(segs[n].data) > len(stage) {
				break
			}
			if n == 1 {
				data = stage[:copy(stage, data)]
			}
			at := len(data) + gap
			clear(stage[len(data):at])
			data = stage[:at+copy(stage[at:], segs[n].data)]
			zeros += gap
		}
		if err := j.writeAt(data, off); err != nil {
			return err
		}
		j.written.Add(-int64(zeros)) // they are none of the image's
		segs = segs[n:]
	}
	return nil
}

// writeAt writes to the device; its errors name device and offset.
func (j *Job) writeAt(p []byte, off int64) error {
	n, err := j.dev.WriteAt(p, off)
	j.written.Add(int64(n))
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	return nil
}
