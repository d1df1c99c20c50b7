package receive

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"huck/imager/cast"
	"huck/imager/image"
)

// mapQuiet is how long parts of the chunk map may be missing and none come of
// the channel before HTTP brings the map. A sender gathers receivers for a
// second at most, and sends parts before anything else.
const mapQuiet = 3 * time.Second

var errMapQuiet = fmt.Errorf("no part of the chunk map for %v", mapQuiet)

// openImage opens the image: its manifest comes over HTTP and its chunk map of
// the channel, which then is joined, since a thousand maps would delay a thousand
// machines. Where the channel does not bring it HTTP does, and follow begins with
// what was wrong.
func (r *receiver) openImage(ctx context.Context, digest image.ID) error {
	r.digest = digest
	man, err := r.client.Manifest(ctx, digest)
	if err != nil {
		return err
	}
	b, err := image.NewMapBuilder(digest, man)
	if err != nil {
		return err
	}
	if !r.cfg.NoMulticast && b.Parts() > 0 {
		err := r.castMap(ctx, b)
		if err == nil {
			if r.img, err = b.Open(); err != nil {
				err = fmt.Errorf("%w: %w", cast.ErrBadChannel, err)
			}
		}
		if err == nil {
			return nil
		}
		err = errors.Join(err, r.leave())
		if ctx.Err() != nil {
			return err
		}
		r.log.Info("the chunk map does not come by multicast, fetching it over HTTP", "peer", r.cfg.Base.Host, "err", err)
		if !errors.Is(err, errMapQuiet) {
			r.failed = err
		}
	}
	r.img, err = r.client.Image(ctx, digest, man)
	return err
}

// castMap has the channel bring the parts of b.
func (r *receiver) castMap(ctx context.Context, b *image.MapBuilder) error {
	s := &mapSink{b: b, first: uint32(b.Manifest().Map.Chunks), complete: make(chan struct{}), arrived: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancelCause(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { s.watch(ctx, cancel) })
	defer watcher.Wait()
	defer cancel(nil)
	err := r.fed(ctx, cast.Feed{Sink: s})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return err
}

// mapSink is a map's builder as the channel sees it.
type mapSink struct {
	first    uint32 // the number of part 0 on the channel
	complete chan struct{}
	arrived  chan struct{} // has room for one: a part came

	mu sync.Mutex
	b  *image.MapBuilder
}

// Useful implements cast.Sink.
func (s *mapSink) Useful(n uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.useful(n)
}

func (s *mapSink) useful(n uint32) bool {
	return n >= s.first && n-s.first < uint32(s.b.Parts()) && !s.b.Has(int(n-s.first))
}

// Missing implements cast.Sink.
func (s *mapSink) Missing(from uint32, buf []uint32) []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	parts, have := uint32(s.b.Parts()), 0
	if from < s.first || from-s.first >= parts {
		from = s.first
	}
	for i := range parts {
		if n := s.first + (from-s.first+i)%parts; have < len(buf) && s.useful(n) {
			buf[have] = n
			have++
		}
	}
	return buf[:have]
}

// Complete implements cast.Sink.
func (s *mapSink) Complete() <-chan struct{} { return s.complete }

// Deliver implements cast.Sink.
func (s *mapSink) Deliver(_ context.Context, n uint32, encoded []byte, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.useful(n) {
		return nil
	}
	if err := s.b.Add(int(n-s.first), encoded); err != nil {
		return err
	}
	select {
	case s.arrived <- struct{}{}:
	default:
	}
	if s.b.Complete() {
		close(s.complete)
	}
	return nil
}

// watch gives the channel up when it is quiet for too long.
func (s *mapSink) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.arrived:
		case <-time.After(mapQuiet):
			cancel(errMapQuiet)
		}
	}
}
