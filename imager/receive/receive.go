// Package receive puts an image from an origin on a disk: it asks what the
// image is, joins its multicast channel, lets install plan and write beside
// it, and gets over HTTP what the channel does not bring. Where no multicast
// arrives that is everything, until it does.
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

	"golang.org/x/sync/errgroup"

	"huck/imager/api"
	"huck/imager/cast"
	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/origin"
	"huck/imager/store"
)

// HTTP is that transport's name in api.Result.Received.
const HTTP = "http"

// Config says what to receive and where to put it.
type Config struct {
	// Store, if it is not nil, has the image: no origin is asked, and Base,
	// Interface, NoMulticast and Client mean nothing.
	Store store.Store
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
	// Admit is asked once the image is known and before the target is opened
	// for writing: an error ends it there. May be nil.
	Admit func(*image.Manifest) error
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
	if cfg.Store != nil {
		return fromStore(ctx, cfg)
	}
	if cfg.Interface != "" {
		if _, err := net.InterfaceByName(cfg.Interface); err != nil {
			return api.Result{}, fmt.Errorf("receive: interface %s: %w", cfg.Interface, err)
		}
	}
	client := origin.NewClient(cfg.Base, cfg.Client)
	res, err := client.Resolve(ctx, cfg.Ref)
	if err != nil {
		return api.Result{}, err
	}
	r := &receiver{cfg: cfg, client: client, log: cfg.Install.Log, join: join}
	if err := r.openImage(ctx, res.Digest); err != nil {
		return api.Result{}, err
	}
	dev, err := cfg.open(r.img)
	if err != nil {
		return api.Result{}, errors.Join(err, r.leave())
	}
	result, err := r.install(ctx, dev)
	err = errors.Join(err, r.leave())
	result.EncodedBytes = res.EncodedBytes
	if cerr := dev.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("receive: close %s: %v", cfg.Target, cerr)
	}
	return result, err
}

// install puts the image on dev.
func (r *receiver) install(ctx context.Context, dev disk.Device) (api.Result, error) {
	fit, err := install.Rescale(ctx, r.img, dev, r.cfg.Install, func(ctx context.Context, n uint32) ([]byte, error) {
		return r.client.Chunk(ctx, r.digest, n)
	})
	if err != nil {
		return api.Result{}, err
	}
	job, err := install.New(fit.Image, dev, r.cfg.Install)
	if err != nil {
		return api.Result{}, err
	}
	result, err := job.Run(ctx, fit.Transport(HTTP, r.transport))
	result.RepairBytes = r.repairBytes
	return result, err
}

// open asks whether the image is admitted, then opens the target.
func (c Config) open(img *image.Image) (disk.Device, error) {
	if c.Admit != nil {
		if err := c.Admit(img.Manifest); err != nil {
			return nil, err
		}
	}
	return OpenTarget(c.Target, img)
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

// receiver opens the image, and then is the transport of one job.
type receiver struct {
	cfg    Config
	client *origin.Client
	digest image.ID
	img    *image.Image
	job    *install.Job
	log    *slog.Logger
	// session is the channel while it is joined.
	session session
	// failed is why the channel did not bring the chunk map.
	failed error
	join   func(context.Context, cast.ReceiverConfig) (session, error)
	demand *demand
	// repairBytes are those of all the times that the channel was joined.
	repairBytes int64
}

// session is a *cast.Reception.
type session interface {
	Feed(context.Context, cast.Feed) error
	Close() (cast.ReceiveStats, error)
}

func join(ctx context.Context, cfg cast.ReceiverConfig) (session, error) {
	s, err := cast.Join(ctx, cfg)
	if err != nil {
		return nil, err // not a nil *cast.Reception
	}
	return s, nil
}

// transport brings what the job misses. HTTP brings what the channel cannot,
// which is everything while there is none.
func (r *receiver) transport(ctx context.Context, job *install.Job) error {
	r.job, r.demand = job, newDemand(job)
	g, ctx := errgroup.WithContext(ctx)
	// What HTTP is still busy with when the last chunk has come is of no use.
	hctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.Go(func() error {
		err := r.follow(ctx)
		if err == nil { // or HTTP's would be the first error, and say nothing but that it was cancelled
			cancel()
		}
		return err
	})
	for range httpWorkers {
		g.Go(func() error { return r.fetchAll(hctx) })
	}
	err := g.Wait()
	if r.complete() {
		return nil
	}
	return err
}

func (r *receiver) complete() bool {
	select {
	case <-r.job.Complete():
		return true
	default:
		return false
	}
}
