package install

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"huck/imager/api"
	"huck/imager/disk"
	"huck/imager/image"
)

const (
	// smallBuffers buffers for chunks on their way to the disk are of ordinary pages
	// and made first: all there is where the disk keeps up. To clear a large page
	// takes the kernel long when it has to find it first, which delays the beginning
	// where many receivers share a host. Where these are not enough, those that fit
	// into largePages take their place: all in all 20 MiB. With the windows and the
	// workers' memory that leaves most of the 96 MiB that a receiver may use to the
	// transport and to the collector's slack.
	smallBuffers = 24
	largePages   = 7
	maxBuffers   = smallBuffers + largePages*(disk.LargePage/image.RegionSize)
	// progressEvery is how often Options.Progress is called.
	progressEvery = 200 * time.Millisecond
)

// Job is one installation. It is a cast.Sink; its methods may be called from
// several goroutines.
type Job struct {
	img   *image.Image
	dev   disk.Device
	opt   Options
	log   *slog.Logger
	view  *view
	state *state

	// buffers are the free ones of those that were made, unmade the sizes in bytes
	// of the memory still to be had for others.
	buffers chan *write
	unmade  chan int
	// large says that there are buffers in large pages: others are not used again.
	large atomic.Bool
	// workers are the free ones of Options.Workers, nil where not made yet.
	workers chan *worker
	// queue holds what is to be written; it has room for all buffers. Who takes
	// from it has taken line.
	queue chan *write
	line  chan *line

	// touched says that the disk's head was invalidated; invalidate does it
	// once, and all who call it wait for that.
	touched    atomic.Bool
	invalidate func() error
	// head is what the image has in the disk's head. It is held back until all
	// else is on the disk. Nil if the image uses no block there. Invalidating
	// makes it.
	head []byte
	// grown is what became of Options.Grow.
	grown *api.Grown
	// maxGap is the longest gap between two segments that is written as zeros.
	maxGap int64
	// written counts the bytes written to the device.
	written atomic.Int64
}

// worker is what decoding a chunk and comparing its places takes.
type worker struct {
	dec *image.Decoder
	buf []byte // a region and image.DecodeSlack
}

// New prepares to put img on dev. It writes nothing and, but for the partition
// table of a device that is to take one partition, reads nothing; what it
// refuses is a *Refused.
func New(img *image.Image, dev disk.Device, opt Options) (*Job, error) {
	if err := opt.check(dev); err != nil {
		return nil, err
	}
	v, err := newView(img, dev, opt)
	if err != nil {
		return nil, err
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	maxGap := int64(0)
	if b, ok := dev.(disk.Blank); ok && b.Blank() {
		maxGap = maxFill
	}
	opt.NoPlan = opt.NoPlan || maxGap > 0 || disk.KeepsNothing(dev)
	j := &Job{
		img: img, dev: dev, opt: opt, view: v, maxGap: maxGap,
		log:     opt.Log.With("dev", dev.Name()),
		state:   newState(v.layout, !opt.NoPlan),
		buffers: make(chan *write, maxBuffers), unmade: make(chan int, smallBuffers+largePages),
		workers: make(chan *worker, opt.Workers),
		queue:   make(chan *write, maxBuffers), line: make(chan *line, 1),
	}
	j.line <- &line{}
	if maxGap > 0 {
		j.state.blank(v.allZeros)
	}
	for range smallBuffers {
		j.unmade <- image.RegionSize
	}
	for range largePages {
		j.unmade <- disk.LargePage
	}
	for range opt.Workers {
		j.workers <- nil
	}
	j.invalidate = sync.OnceValue(j.invalidateHead)
	return j, nil
}

// Run installs: it plans, lets transport deliver what is missing and returns
// when the disk is complete and, if asked for, verified. It is called once.
//
// transport gets the job and delivers chunks until Complete; what it delivers
// it must deliver with the context it was given or one made from that. It must
// not return while one of its deliveries is under way. Its error ends the
// installation unless the disk is complete all the same. After an error or the
// end of ctx the disk does not boot, unless nothing was written; another
// installation goes on from where this one was.
func (j *Job) Run(ctx context.Context, transport func(ctx context.Context, j *Job) error) (api.Result, error) {
	start := time.Now()
	stop := j.reportProgress()
	err := j.run(ctx, transport)
	stop()
	p, inPlace := j.state.snapshot()
	r := api.Result{
		Event: "done", Image: "@" + j.img.Digest.String(), ImageBytes: p.Total, Received: p.Received,
		ChunksInPlace: inPlace, WrittenBytes: j.written.Load(), Seconds: time.Since(start).Seconds(), Grown: j.grown,
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // the cause; what it made fail is of no interest
	}
	return r, err
}

func (j *Job) run(ctx context.Context, transport func(ctx context.Context, j *Job) error) error {
	if err := j.reserve(ctx); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	zeros := disk.Buffer(minZero)
	for range writers {
		g.Go(func() error { return j.write(gctx, zeros) })
	}
	g.Go(func() error {
		if err := j.collect(gctx, transport); err != nil {
			return err
		}
		close(j.queue) // all chunks are settled: nothing is delivered any more
		return nil
	})
	err := g.Wait()
	if err == nil {
		err = j.finish(ctx)
	}
	if err != nil {
		if j.touched.Load() {
			j.log.Warn("the disk is not complete and does not boot; installing the image again goes on from here")
		}
		return err
	}
	if j.opt.Verify {
		if err := j.readBack(ctx); err != nil {
			return err
		}
	}
	j.grown, err = j.grow(ctx)
	return err
}

// Layout numbers the chunks that Deliver and Missing speak of: the image's or,
// with Options.Partition, those of that partition.
func (j *Job) Layout() *image.Layout { return j.view.layout }

// collect plans and lets transport work until every chunk is settled.
func (j *Job) collect(ctx context.Context, transport func(ctx context.Context, j *Job) error) error {
	g, ctx := errgroup.WithContext(ctx)
	if !j.opt.NoPlan {
		g.Go(func() error { return j.plan(ctx) })
	}
	g.Go(func() error {
		err := transport(ctx, j)
		if err == nil {
			return nil
		}
		select {
		case <-j.Complete():
			j.log.Warn("transport failed, but all chunks are there", "err", err)
			return nil
		default:
			return err
		}
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if n := j.state.openChunks(); n > 0 {
		return fmt.Errorf("install: transport ended while %d of %d chunks were missing", n, j.view.layout.Chunks())
	}
	return nil
}

// plan compares the disk with the image, in disk order.
func (j *Job) plan(ctx context.Context) error {
	c := &comparer{
		view: j.view, dev: j.dev, skip: j.state.lookedAt,
		found: func(i int, same bool, err error) error {
			if _, known := j.view.sum(i); known {
				j.saw(i, same, err)
			} else {
				j.state.need(i)
			}
			return nil
		},
	}
	return c.run(ctx, j.opt.Workers)
}

// saw takes note of a look at region i. What cannot be read is written anew:
// that mends many a disk, and fails where it does not.
func (j *Job) saw(i int, same bool, err error) {
	if err != nil {
		j.log.Warn("cannot compare a region, will write it", "region", j.view.layout.Entries()[i].Region, "err", err)
	}
	j.state.saw(i, same)
}

// reportProgress calls Options.Progress until the function it returns is
// called, which does so a last time.
func (j *Job) reportProgress() (stop func()) {
	if j.opt.Progress == nil {
		return func() {}
	}
	report := func() {
		p, _ := j.state.snapshot()
		j.opt.Progress(p)
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				report()
			case <-done:
				report()
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}
