// Package receive puts an image from an origin on a disk: it asks what the
// image is, joins its multicast channel, lets install plan and write beside
// it, and gets over HTTP what the channel cannot bring.
package receive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"

	"huck/imager/api"
	"huck/imager/cast"
	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/origin"
)

// HTTP is that transport's name in api.Result.Received.
const HTTP = "http"

// httpWorkers is how many chunks are asked for at once over HTTP: enough to
// hide a round trip, few enough not to crowd out others on the link.
const httpWorkers = 4

// Config says what to receive and where to put it.
type Config struct {
	// Base is the origin, http(s)://HOST:PORT.
	Base *url.URL
	// Ref names the image.
	Ref string
	// Target is a block device, a file, which is created at the image's disk
	// size if it is not there, or "discard".
	Target string
	// Interface to join the channel on; empty is the one that leads to the
	// origin.
	Interface string
	// NoMulticast takes everything over HTTP.
	NoMulticast bool
	// Client carries credentials and trust; nil is http.DefaultClient.
	Client *http.Client
	// Install is handed to install.New; Log there serves here too.
	Install install.Options
}

// Run receives the image. It ends when the disk is complete, ctx is done, or
// something failed that trying again does not mend; an *install.Refused means
// that nothing was written.
func Run(ctx context.Context, cfg Config) (api.Result, error) {
	if cfg.Install.Log == nil {
		cfg.Install.Log = slog.New(slog.DiscardHandler)
	}
	client := origin.NewClient(cfg.Base, cfg.Client)
	res, err := client.Resolve(ctx, cfg.Ref)
	if err != nil {
		return api.Result{}, err
	}
	img, err := client.Image(ctx, res.Digest)
	if err != nil {
		return api.Result{}, err
	}
	dev, err := OpenTarget(cfg.Target, img)
	if err != nil {
		return api.Result{}, err
	}
	result, err := run(ctx, cfg, client, img, dev)
	result.EncodedBytes = res.EncodedBytes
	if cerr := dev.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("receive: close %s: %v", cfg.Target, cerr)
	}
	return result, err
}

func run(ctx context.Context, cfg Config, client *origin.Client, img *image.Image, dev disk.Device) (api.Result, error) {
	job, err := install.New(img, dev, cfg.Install)
	if err != nil {
		return api.Result{}, err
	}
	r := &receiver{cfg: cfg, client: client, img: img, log: cfg.Install.Log, bad: make(chan uint32, img.Layout.Chunks())}
	result, err := job.Run(ctx, r.transport)
	result.RepairBytes = r.repairBytes
	return result, err
}

// OpenTarget opens what --to names for writing: a block device, a file, which
// is created at the image's disk size if it is not there, or "discard".
func OpenTarget(target string, img *image.Image) (disk.Device, error) {
	if target == "discard" {
		return disk.Discarder(img.Manifest.DiskSize, img.Manifest.SectorSize), nil
	}
	if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
		return disk.Create(target, img.Manifest.DiskSize)
	}
	return disk.Open(target, true)
}

// receiver is the transport of one job.
type receiver struct {
	cfg    Config
	client *origin.Client
	img    *image.Image
	log    *slog.Logger

	// bad are chunks that the channel cannot bring: damaged on the way, or not
	// readable for the sender. It has room for every chunk.
	bad         chan uint32
	repairBytes int64
}

// transport brings what the job misses: by multicast as far as it goes, then
// over HTTP.
func (r *receiver) transport(ctx context.Context, job *install.Job) error {
	if err := r.multicast(ctx, job); err != nil {
		return err
	}
	select {
	case <-job.Complete():
		return nil
	default:
	}
	return r.fetchMissing(ctx, job)
}

// multicast returns nil when the job is complete or when the channel is no
// use any more.
func (r *receiver) multicast(ctx context.Context, job *install.Job) error {
	if r.cfg.NoMulticast {
		return nil
	}
	ch, err := r.client.Channel(ctx, r.img.Digest)
	if said := (*api.Error)(nil); errors.As(err, &said) && said.Code == "not_found" {
		r.log.Info("origin does not multicast, using HTTP", "peer", r.cfg.Base.Host)
		return nil
	}
	if err != nil {
		return err
	}
	var ifi *net.Interface // nil: the one that leads to the sender
	if r.cfg.Interface != "" {
		if ifi, err = net.InterfaceByName(r.cfg.Interface); err != nil {
			return fmt.Errorf("receive: interface %s: %w", r.cfg.Interface, err)
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	castDone := make(chan struct{})
	g.Go(func() error {
		defer close(castDone)
		stats, err := cast.Receive(gctx, cast.ReceiverConfig{
			Channel:   ch,
			Interface: ifi,
			Refresh:   func(ctx context.Context) (api.Channel, error) { return r.client.Channel(ctx, r.img.Digest) },
			Sink:      job,
			Failed:    r.notBrought,
			Log:       r.log,
		})
		r.repairBytes = int64(stats.RepairBytes)
		if errors.Is(err, cast.ErrNoMulticast) || errors.Is(err, cast.ErrBadChannel) {
			r.log.Warn("multicast given up, going on over HTTP", "group", ch.Group.String(), "err", err)
			return nil
		}
		return err
	})
	g.Go(func() error { return r.fetchBad(gctx, job, castDone) })
	return g.Wait()
}

func (r *receiver) notBrought(n uint32, err error) {
	r.log.Warn("chunk not to be had by multicast, asking over HTTP", "chunk", n, "err", err)
	select {
	case r.bad <- n:
	default: // as many as there are chunks are waiting already
	}
}

// fetchBad gets over HTTP what the channel could not bring, until the channel
// is left.
func (r *receiver) fetchBad(ctx context.Context, job *install.Job, castDone <-chan struct{}) error {
	for {
		select {
		case n := <-r.bad:
			if err := r.fetch(ctx, job, n); err != nil {
				return err
			}
		case <-castDone:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fetchMissing gets over HTTP all that is missing, and what the plan goes on
// to find missing.
func (r *receiver) fetchMissing(ctx context.Context, job *install.Job) error {
	g, ctx := errgroup.WithContext(ctx)
	c := &claims{job: job, held: make(map[uint32]bool)}
	for range httpWorkers {
		g.Go(func() error {
			for {
				n, err := c.next(ctx)
				if err != nil || n < 0 {
					return err
				}
				err = r.fetch(ctx, job, uint32(n))
				c.release(uint32(n))
				if err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// maxBadChunks is how often a chunk may arrive damaged over HTTP, where TCP
// already guards the way: what is damaged is in the store.
const maxBadChunks = 3

func (r *receiver) fetch(ctx context.Context, job *install.Job, n uint32) error {
	for try := 1; ; try++ {
		if !job.Useful(n) {
			return nil
		}
		b, err := r.client.Chunk(ctx, r.img.Digest, n)
		if err != nil {
			return err
		}
		err = job.Deliver(ctx, n, b, HTTP)
		if damaged := (*image.ChunkError)(nil); err == nil || !errors.As(err, &damaged) || try == maxBadChunks {
			return err
		}
		r.log.Warn("damaged chunk over HTTP, asking again", "chunk", n, "err", err)
	}
}

// claims hands each missing chunk to one worker at a time.
type claims struct {
	job  *install.Job
	mu   sync.Mutex
	held map[uint32]bool
	from uint32
}

// next waits for a missing chunk that nobody holds; -1 means that all are
// there.
func (c *claims) next(ctx context.Context) (int64, error) {
	for {
		changed := c.job.Changed()
		if n, ok := c.claim(); ok {
			return int64(n), nil
		}
		select {
		case <-c.job.Complete():
			return -1, nil
		case <-changed:
		case <-ctx.Done():
			return -1, ctx.Err()
		}
	}
}

func (c *claims) claim() (uint32, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// With every worker holding one, one more than workers is enough to find a free one.
	var buf [httpWorkers + 1]uint32
	for _, n := range c.job.Missing(c.from, buf[:0]) {
		if !c.held[n] {
			c.held[n] = true
			c.from = n + 1
			return n, true
		}
	}
	return 0, false
}

func (c *claims) release(n uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, n)
}
