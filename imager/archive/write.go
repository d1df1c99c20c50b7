package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"huck/imager/image"
	"huck/imager/store"
)

// Write writes an image as a .huck file, from its first byte to its last: w
// may be a pipe. Every chunk is verified when it is read from the store. After
// an error the file is incomplete, and whoever reads it notices.
func Write(ctx context.Context, w io.Writer, cfg ExportConfig) (Exported, error) {
	start := time.Now()
	x, err := newWriting(ctx, w, cfg)
	if err != nil {
		return Exported{}, err
	}
	if err := interrupted(ctx, x.run(ctx)); err != nil {
		return Exported{}, fmt.Errorf("archive: export image @%s: %w", cfg.Tag.Digest.Short(), err)
	}
	res := exported(cfg, x.img, "-", Huck)
	res.Chunks, res.FileBytes, res.Seconds = int(x.p.chunks), x.enc.n, time.Since(start).Seconds()
	return res, nil
}

// exported fills in what is the same for every format.
func exported(cfg ExportConfig, img *image.Image, file, format string) Exported {
	r := Exported{Digest: img.Digest, Parent: cfg.Parent, File: file, Format: format,
		ImageBytes: img.Manifest.Map.UsedBytes, Chunks: img.Layout.Chunks()}
	if cfg.Tag.Name != "" {
		r.Ref = fmt.Sprintf("%s:%d", cfg.Tag.Name, cfg.Tag.Version)
	}
	return r
}

// writing is one .huck file in the making.
type writing struct {
	cfg ExportConfig
	img *image.Image
	p   *prologue
	enc *encoder
}

func newWriting(ctx context.Context, w io.Writer, cfg ExportConfig) (*writing, error) {
	x := &writing{cfg: cfg, p: &prologue{parent: cfg.Parent}, enc: newEncoder(w)}
	var err error
	if x.p.manifest, err = cfg.Store.Manifest(ctx, cfg.Tag.Digest); err != nil {
		return nil, err
	}
	if x.p.chunkMap, err = cfg.Store.Map(ctx, cfg.Tag.Digest); err != nil {
		return nil, err
	}
	if x.img, err = image.Open(cfg.Tag.Digest, x.p.manifest, bytes.NewReader(x.p.chunkMap)); err != nil {
		return nil, err
	}
	x.p.chunks = uint32(x.img.Layout.Chunks())
	if cfg.Tag.Name != "" {
		if x.p.tag, err = json.Marshal(cfg.Tag); err != nil {
			return nil, fmt.Errorf("archive: tag %s: %v", cfg.Tag.Name, err)
		}
	}
	if cfg.Parent.IsZero() {
		return x, nil
	}
	parent, err := store.OpenImage(ctx, cfg.Store, cfg.Parent)
	if err != nil {
		return nil, err
	}
	x.p.leaveOut(x.img.Layout, parent.Layout)
	return x, nil
}

// leaveOut makes p a delta without the chunks that parent has.
func (p *prologue) leaveOut(l, parent *image.Layout) {
	have := make(map[image.ID]struct{}, parent.Chunks())
	for n := range uint32(parent.Chunks()) {
		have[parent.ID(n)] = struct{}{}
	}
	p.bitmap, p.chunks = make([]byte, (l.Chunks()+7)/8), 0
	for n := range uint32(l.Chunks()) {
		if _, ok := have[l.ID(n)]; !ok {
			p.bitmap[n/8] |= 1 << (n % 8)
			p.chunks++
		}
	}
}

func (x *writing) run(ctx context.Context) error {
	if err := x.enc.begin(x.p); err != nil {
		return err
	}
	if err := x.chunks(ctx); err != nil {
		return err
	}
	return x.enc.end()
}

// fetched is a chunk from the store, or why there is none.
type fetched struct {
	encoded []byte
	err     error
}

// chunks writes the chunks in order while the next ones are fetched, which
// verifies them, on all cores. All goroutines have ended when it returns.
func (x *writing) chunks(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	queue := make(chan chan fetched, 2*runtime.GOMAXPROCS(0))
	g.Go(func() error {
		defer close(queue)
		for n := range uint32(x.img.Layout.Chunks()) {
			if !x.p.carries(n) {
				continue
			}
			c := make(chan fetched, 1)
			select {
			case queue <- c:
			case <-ctx.Done():
				return ctx.Err()
			}
			g.Go(func() error {
				b, err := x.cfg.Store.Chunk(ctx, x.img.Layout.ID(n))
				c <- fetched{b, err}
				return nil
			})
		}
		return nil
	})
	g.Go(func() error { return x.drain(ctx, queue) })
	return g.Wait()
}

// drain writes what is fetched, in order.
func (x *writing) drain(ctx context.Context, queue <-chan chan fetched) error {
	l := x.img.Layout
	var done, total int64
	for n := range uint32(l.Chunks()) {
		if x.p.carries(n) {
			total += int64(l.Size(n))
		}
	}
	n := uint32(0)
	for c := range queue {
		for !x.p.carries(n) {
			n++
		}
		f := <-c
		if f.err != nil {
			return f.err
		}
		if err := x.enc.chunk(f.encoded); err != nil {
			return err
		}
		done += int64(l.Size(n))
		n++
		if x.cfg.Progress != nil {
			x.cfg.Progress(done, total)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}
