package archive

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"huck/imager/capture"
	"huck/imager/image"
	"huck/imager/store"
)

// Read imports a .huck file, from its first byte to its last: r may be a pipe.
// name is what messages call it. The image is complete and tagged when it
// returns nil. On any error no tag is made, and chunks that were stored are
// left to the store's GC. The error is a *Refused, before anything is stored,
// if the file is a delta and the store does not have the chunks it leaves out.
func Read(ctx context.Context, name string, r io.Reader, cfg ImportConfig) (capture.Result, error) {
	start := time.Now()
	if err := cfg.check(); err != nil {
		return capture.Result{}, err
	}
	x, err := newReading(r, cfg)
	if err != nil {
		return capture.Result{}, fmt.Errorf("archive: import %s: %w", name, interrupted(ctx, err))
	}
	w, err := cfg.Store.NewWriter(ctx)
	if err != nil {
		return capture.Result{}, err
	}
	x.w = w
	res, err := x.store(ctx, name)
	if cerr := w.Close(); err == nil && cerr != nil {
		err = cerr
	}
	if err != nil {
		return capture.Result{}, interrupted(ctx, err)
	}
	res.Seconds = time.Since(start).Seconds()
	return res, nil
}

// reading is one .huck file on its way into a store.
type reading struct {
	cfg ImportConfig
	dec *decoder
	p   *prologue
	img *image.Image
	tag image.TagInfo // what the file says; zero if nothing
	w   store.Writer

	free chan []byte // buffers of a region
	full chan record

	newBytes atomic.Int64

	telling     sync.Mutex // held while Progress runs
	done, total int64      // bytes of the file's chunks, decoded
}

// record is a chunk as it stood in the file.
type record struct {
	n       uint32
	buf     []byte
	encoded []byte // part of buf
}

// newReading reads and verifies everything before the chunks.
func newReading(r io.Reader, cfg ImportConfig) (*reading, error) {
	buffers := 2 * cfg.Workers
	x := &reading{cfg: cfg, dec: newDecoder(r), free: make(chan []byte, buffers), full: make(chan record, buffers)}
	var err error
	if x.p, x.img, err = x.dec.begin(); err != nil {
		return nil, err
	}
	if len(x.p.tag) > 0 {
		tag, err := image.ParseTag(x.p.tag)
		if err != nil {
			return nil, err
		}
		if tag.Digest != x.img.Digest {
			return nil, fmt.Errorf("its tag is of image @%s, its manifest of @%s: %w", tag.Digest.Short(), x.img.Digest.Short(), image.ErrFormat)
		}
		if _, err := image.ParseRef(tag.Parent); tag.Parent != "" && err != nil {
			return nil, fmt.Errorf("its tag's parent: %v: %w", err, image.ErrFormat)
		}
		x.tag = *tag
	}
	for n := range uint32(x.img.Layout.Chunks()) {
		if x.p.carries(n) {
			x.total += int64(x.img.Layout.Size(n))
		}
	}
	for range buffers {
		x.free <- make([]byte, image.RegionSize+image.DecodeSlack)
	}
	return x, nil
}

// store streams the chunks into the store, then the map, the manifest and the
// tag.
func (x *reading) store(ctx context.Context, name string) (capture.Result, error) {
	if err := x.checkParent(name); err != nil {
		return capture.Result{}, err
	}
	if err := x.run(ctx); err != nil {
		return capture.Result{}, fmt.Errorf("archive: import %s: %w", name, err)
	}
	if err := x.w.Flush(ctx); err != nil {
		return capture.Result{}, err
	}
	if err := x.cfg.Store.PutImage(ctx, x.p.manifest, x.p.chunkMap); err != nil {
		return capture.Result{}, err
	}
	tag, err := x.cfg.Store.CreateTag(ctx, x.cfg.Name, x.img.Digest, x.tag.Parent, x.tag.Labels)
	if err != nil {
		return capture.Result{}, err
	}
	res := capture.Result{Ref: fmt.Sprintf("%s:%d", tag.Name, tag.Version), Digest: x.img.Digest,
		ImageBytes: x.img.Manifest.Map.UsedBytes, NewBytes: x.newBytes.Load()}
	for _, e := range x.img.Manifest.Bad {
		res.BadBytes += e.Size
	}
	res.EncodedBytes, err = store.EncodedBytes(x.cfg.Store, x.img)
	return res, err
}

// checkParent refuses a delta whose parent's chunks are not in the store.
// While the writer is open those that are stay there.
func (x *reading) checkParent(name string) error {
	l, missing := x.img.Layout, 0
	for n := range uint32(l.Chunks()) {
		if x.p.carries(n) {
			continue
		}
		if _, size, ok := x.cfg.Store.Lookup(l.ID(n)); !ok || size != l.Size(n) {
			missing++
		}
	}
	if missing == 0 {
		return nil
	}
	return &Refused{Device: name, Why: fmt.Sprintf("it is a delta against image @%s, and the store lacks %d of the chunks it leaves out: import that image first",
		x.p.parent, missing)}
}

// run reads all chunks, and decodes, verifies and stores them on all workers.
// All its goroutines have ended when it returns.
func (x *reading) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(x.full)
		return x.read(ctx)
	})
	for range x.cfg.Workers {
		g.Go(func() error { return x.work(ctx) })
	}
	return g.Wait()
}

// read hands out the file's chunks and verifies its end.
func (x *reading) read(ctx context.Context) error {
	for n := range uint32(x.img.Layout.Chunks()) {
		if !x.p.carries(n) {
			continue
		}
		var buf []byte
		select {
		case buf = <-x.free:
		case <-ctx.Done():
			return ctx.Err()
		}
		encoded, err := x.dec.chunk(buf, n, x.img.Layout.Size(n))
		if err != nil {
			return err
		}
		x.full <- record{n, buf, encoded} // has room for all buffers
	}
	return x.dec.end()
}

// work stores chunks until there are no more.
func (x *reading) work(ctx context.Context) error {
	dec, buf := image.NewDecoder(), make([]byte, image.RegionSize+image.DecodeSlack)
	for r := range x.full {
		if err := x.put(ctx, dec, buf, r); err != nil {
			return err
		}
		x.free <- r.buf
	}
	return nil
}

// put verifies and stores a chunk. What the store has already need not be
// decoded: the file's copy is not used, and its trailer vouches for it.
func (x *reading) put(ctx context.Context, dec *image.Decoder, buf []byte, r record) error {
	id, size := x.img.Layout.ID(r.n), x.img.Layout.Size(r.n)
	if !x.w.Has(id) {
		if _, err := dec.Decode(buf, r.encoded, id, size); err != nil {
			return fmt.Errorf("chunk %d is damaged: %w", r.n, err)
		}
		added, err := x.w.Put(ctx, id, size, r.encoded)
		if err != nil {
			return err
		}
		if added {
			x.newBytes.Add(int64(len(r.encoded)))
		}
	}
	x.telling.Lock()
	defer x.telling.Unlock()
	x.done += int64(size)
	if x.cfg.Progress != nil {
		x.cfg.Progress(x.done, x.total)
	}
	return nil
}
