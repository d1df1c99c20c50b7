package receive

import (
	"context"
	"errors"
	"sync"

	"huck/imager/image"
	"huck/imager/install"
)

const (
	// httpWorkers is how many chunks are asked for at once over HTTP: enough to
	// hide a round trip, few enough not to crowd out others on the link.
	httpWorkers = 4
	// maxBadChunks is how often a chunk may arrive damaged over HTTP, where TCP
	// already guards the way: what is damaged is in the store.
	maxBadChunks = 3
)

// fetchAll gets over HTTP what is in demand until the job is complete.
func (r *receiver) fetchAll(ctx context.Context) error {
	for {
		n, ok, err := r.demand.next(ctx)
		if !ok {
			return err
		}
		err = r.fetch(ctx, n)
		r.demand.release(n)
		if err != nil {
			return err
		}
	}
}

func (r *receiver) fetch(ctx context.Context, n uint32) error {
	for try := 1; ; try++ {
		if !r.job.Useful(n) {
			return nil
		}
		b, err := r.client.Chunk(ctx, r.digest, n)
		if err != nil {
			return err
		}
		err = r.job.Deliver(ctx, n, b, HTTP)
		if damaged := (*image.ChunkError)(nil); err == nil || !errors.As(err, &damaged) || try == maxBadChunks {
			return err
		}
		r.log.Warn("damaged chunk over HTTP, asking again", "chunk", n, "err", err)
	}
}

// demand is what HTTP is to bring: the chunks that the channel failed at and,
// while all is set, every other that is missing. It hands each to one worker at
// a time.
type demand struct {
	job *install.Job

	mu      sync.Mutex
	all     bool
	failed  map[uint32]bool
	held    map[uint32]bool
	from    uint32        // where to look on for missing ones
	changed chan struct{} // closed when there is more demand
}

func newDemand(job *install.Job) *demand {
	return &demand{job: job, failed: make(map[uint32]bool), held: make(map[uint32]bool), changed: make(chan struct{})}
}

// setAll puts all missing chunks in demand, or only those that failed, and
// reports whether that is new.
func (d *demand) setAll(all bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all == all {
		return false
	}
	d.all = all
	d.signal()
	return true
}

// add puts chunk n in demand, which the channel failed at.
func (d *demand) add(n uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed[n] = true
	d.signal()
}

func (d *demand) signal() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// next waits for a chunk that is in demand and nobody holds, and hands it to
// the caller, who releases it. It is not ok when the job is complete or, with
// an error, ctx is done.
func (d *demand) next(ctx context.Context) (n uint32, ok bool, err error) {
	for {
		missing := d.job.Changed()
		n, ok, changed := d.claim()
		if ok {
			return n, true, nil
		}
		select {
		case <-d.job.Complete():
			return 0, false, nil
		case <-missing:
		case <-changed:
		case <-ctx.Done():
			return 0, false, ctx.Err()
		}
	}
}

// claim takes a chunk or returns what to wait for.
func (d *demand) claim() (n uint32, ok bool, changed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n := range d.failed {
		delete(d.failed, n)
		if d.hold(n) {
			return n, true, nil
		}
	}
	if d.all {
		// With every worker holding one, one more than workers is enough to find a free one.
		var buf [httpWorkers + 1]uint32
		for _, n := range d.job.Missing(d.from, buf[:]) {
			if d.hold(n) {
				d.from = n + 1
				return n, true, nil
			}
		}
	}
	return 0, false, d.changed
}

func (d *demand) hold(n uint32) bool {
	if d.held[n] {
		return false
	}
	d.held[n] = true
	return true
}

func (d *demand) release(n uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.held, n)
}
