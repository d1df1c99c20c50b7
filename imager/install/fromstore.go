package install

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"huck/imager/image"
	"huck/imager/store"
)

// ChunkSource is what of a store.Store an installation needs.
type ChunkSource interface {
	// NewReader returns a reader of chunks as they are stored.
	NewReader() store.Reader
	// Chunk returns a chunk as it is stored, after verifying it.
	Chunk(ctx context.Context, id image.ID) (encoded []byte, err error)
}

// FromStore returns a transport that takes the chunks from a store on this
// machine, in disk order. They are decoded, and so verified, once: by Deliver.
func FromStore(src ChunkSource) func(ctx context.Context, j *Job) error {
	return func(ctx context.Context, j *Job) error {
		r := src.NewReader()
		err := j.fetchAll(ctx, src, r)
		return errors.Join(err, r.Close())
	}
}

// fetchAll delivers what is or becomes missing.
func (j *Job) fetchAll(ctx context.Context, src ChunkSource, r store.Reader) error {
	g, ctx := errgroup.WithContext(ctx)
	numbers := make(chan uint32)
	g.Go(func() error {
		defer close(numbers)
		return j.each(ctx, func(n uint32) error {
			select {
			case numbers <- n:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	for range j.opt.Workers + 2 { // some wait for the store while others decode
		g.Go(func() error {
			f := &fetcher{j: j, src: src, r: r, buf: make([]byte, image.RegionSize)}
			for n := range numbers {
				if err := f.fetch(ctx, n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// fetcher takes chunks from a store, one at a time.
type fetcher struct {
	j   *Job
	src ChunkSource
	r   store.Reader
	buf []byte
}

// fetch delivers chunk n if it is still wanted.
func (f *fetcher) fetch(ctx context.Context, n uint32) error {
	if !f.j.Useful(n) {
		return nil
	}
	id := f.j.view.layout.ID(n)
	b, err := f.r.Encoded(ctx, id, f.buf)
	if err != nil {
		return err
	}
	f.buf = b
	if err = f.j.Deliver(ctx, n, b, ViaStore); err == nil {
		return nil
	}
	if _, bad := errors.AsType[*image.ChunkError](err); !bad {
		return err
	}
	// Let the store say where it has that. What it can read after all is good.
	if b, err = f.src.Chunk(ctx, id); err != nil {
		return err
	}
	return f.j.Deliver(ctx, n, b, ViaStore)
}

// each calls f once for every chunk that is or becomes missing, in disk order
// as far as the plan allows, until the job is complete.
func (j *Job) each(ctx context.Context, f func(n uint32) error) error {
	asked := newBitset(j.view.layout.Chunks())
	buf := make([]uint32, 4*maxBuffers) // more than can be asked for and not yet taken
	var from uint32
	for {
		changed := j.Changed()
		fresh := false
		for _, n := range j.Missing(from, buf) {
			if asked.has(int(n)) {
				continue
			}
			asked.add(int(n))
			if err := f(n); err != nil {
				return err
			}
			fresh, from = true, n+1
		}
		if fresh {
			continue
		}
		select {
		case <-j.Complete():
			return nil
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
