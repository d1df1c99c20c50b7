package origin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"huck/imager/api"
	"huck/imager/cast"
	"huck/imager/image"
	"huck/imager/store"
)

// maxOpen bounds the images held open with their chunk maps and channels. The
// one asked for longest ago is closed first; its receivers, if any are left,
// ask again and reopen it.
const maxOpen = 64

// Config wires an origin together.
type Config struct {
	Store store.Store
	// Cast sends; nil serves over HTTP only.
	Cast *cast.Server
	// Group returns the multicast group and port of an image's channel, as
	// Groups does; needed with Cast.
	Group func(image.ID) netip.AddrPort
	// Rate caps each channel, in bits per second; 0 leaves it to the server's
	// total.
	Rate int64
	// Authorize refuses a request for the image by an error; nil allows all.
	Authorize Authorizer
	// Log may be nil.
	Log *slog.Logger
}

// Origin serves a store's images. Its methods are safe for concurrent use.
type Origin struct {
	cfg Config
	log *slog.Logger

	mu   sync.Mutex
	open []*open // by last use, latest first
}

// open is an image in use.
type open struct {
	img     *image.Image
	channel *cast.Channel
}

// New returns an origin; it starts nothing.
func New(cfg Config) *Origin {
	o := &Origin{cfg: cfg, log: cfg.Log}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Run ends the origin's channels when ctx does.
func (o *Origin) Run(ctx context.Context) error {
	<-ctx.Done()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, i := range o.open {
		o.closeChannel(i)
	}
	o.open = nil
	return nil
}

// Resolve finds the image a reference names. An unknown one is an error that
// wraps store.ErrNotFound.
func (o *Origin) Resolve(ctx context.Context, ref string) (api.Resolved, error) {
	r, err := image.ParseRef(ref)
	if err != nil {
		return api.Resolved{}, err
	}
	t, err := o.cfg.Store.Resolve(ctx, r)
	if err != nil {
		return api.Resolved{}, err
	}
	i, err := o.image(ctx, t.Digest)
	if err != nil {
		return api.Resolved{}, err
	}
	encoded, err := store.EncodedBytes(o.cfg.Store, i.img)
	if err != nil {
		return api.Resolved{}, err
	}
	return api.Resolved{Ref: t.Ref().String(), Digest: t.Digest, EncodedBytes: encoded}, nil
}

// image returns the opened image with that digest.
func (o *Origin) image(ctx context.Context, digest image.ID) (*open, error) {
	o.mu.Lock()
	at := slices.IndexFunc(o.open, func(i *open) bool { return i.img.Digest == digest })
	if at >= 0 {
		i := o.open[at]
		o.open = slices.Insert(slices.Delete(o.open, at, at+1), 0, i)
		o.mu.Unlock()
		return i, nil
	}
	o.mu.Unlock()
	img, err := store.OpenImage(ctx, o.cfg.Store, digest) // without the lock: a map can be large
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, i := range o.open {
		if i.img.Digest == digest { // opened by another request meanwhile
			return i, nil
		}
	}
	o.open = slices.Insert(o.open, 0, &open{img: img})
	if len(o.open) > maxOpen {
		o.closeChannel(o.open[maxOpen])
		o.open = o.open[:maxOpen]
	}
	return o.open[0], nil
}

func (o *Origin) closeChannel(i *open) {
	if i.channel != nil {
		i.channel.Close()
		i.channel = nil
	}
}

// errNoChannel tells that this origin does not multicast.
var errNoChannel = errors.New("origin: no multicast here")

// channel opens the image's channel unless it is open.
func (o *Origin) channel(ctx context.Context, digest image.ID) (api.Channel, error) {
	if o.cfg.Cast == nil {
		return api.Channel{}, errNoChannel
	}
	i, err := o.image(ctx, digest)
	if err != nil {
		return api.Channel{}, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if i.channel == nil {
		group := o.cfg.Group(digest)
		c, err := o.cfg.Cast.Open(group, &source{o.cfg.Store, i.img.Layout}, o.cfg.Rate)
		if err != nil {
			return api.Channel{}, fmt.Errorf("origin: channel %s of image %s: %w", group, digest.Short(), err)
		}
		i.channel = c
		o.log.Info("channel opened", "image", digest.Short(), "group", group.String())
	}
	return i.channel.Info(), nil
}

// source is an image's chunks by number, for a channel.
type source struct {
	store  store.Store
	layout *image.Layout
}

func (s *source) Chunks() int { return s.layout.Chunks() }

func (s *source) Chunk(ctx context.Context, n uint32) ([]byte, error) {
	return s.store.Chunk(ctx, s.layout.ID(n))
}
