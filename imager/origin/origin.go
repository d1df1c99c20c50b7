package origin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
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
	// Sending tells what the channels send at present, in bits per second.
	// Chunks over HTTP are held to a small share of that, all clients together.
	// Nil asks Cast.
	Sending func() int64
	// Interface is the one that channels go out of; HTTP that goes out of others
	// is not held back. Nil holds back all.
	Interface *net.Interface
	// Authorize refuses a request for the image by an error; nil allows all.
	Authorize Authorizer
	// Log may be nil.
	Log *slog.Logger
}

// Origin serves a store's images. Its methods are safe for concurrent use.
type Origin struct {
	cfg   Config
	log   *slog.Logger
	share *share

	mu   sync.Mutex
	open []*open // by last use, latest first
}

// open is an image in use.
type open struct {
	img *image.Image
	// Under Origin.mu: the channel, if there is one, and whether i has left
	// Origin.open.
	channel *cast.Channel
	dropped bool
}

// New returns an origin; it starts nothing.
func New(cfg Config) *Origin {
	if cfg.Sending == nil && cfg.Cast != nil {
		cfg.Sending = cfg.Cast.Sending
	}
	o := &Origin{cfg: cfg, log: cfg.Log, share: newShare(cfg.Sending)}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Run tells the log what the channels do, and ends them when ctx does.
func (o *Origin) Run(ctx context.Context) error {
	o.watch(ctx)
	var channels []*cast.Channel
	o.mu.Lock()
	for _, i := range o.open {
		channels = append(channels, i.drop())
	}
	o.open = nil
	o.mu.Unlock()
	for _, c := range channels {
		closeChannel(c)
	}
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
	i, over := o.enter(img)
	closeChannel(over)
	return i, nil
}

// enter adds an image, and returns the channel of the one that had to make room
// for it; nil is none.
func (o *Origin) enter(img *image.Image) (i *open, over *cast.Channel) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, i := range o.open {
		if i.img.Digest == img.Digest { // opened by another request meanwhile
			return i, nil
		}
	}
	o.open = slices.Insert(o.open, 0, &open{img: img})
	if len(o.open) > maxOpen {
		over = o.open[maxOpen].drop()
		o.open = o.open[:maxOpen]
	}
	return o.open[0], over
}

// drop notes that i leaves Origin.open and returns its channel, to be closed
// without the lock: that may have to wait for a read of the store.
func (i *open) drop() *cast.Channel {
	i.dropped = true
	return i.channel
}

func closeChannel(c *cast.Channel) {
	if c != nil {
		c.Close()
	}
}

// errNoChannel tells that there is no multicast here. Receivers use HTTP and ask
// again later.
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
	if i.dropped {
		return api.Channel{}, fmt.Errorf("origin: image %s was closed meanwhile; ask again", digest.Short())
	}
	if i.channel == nil {
		group := o.cfg.Group(digest)
		c, err := o.cfg.Cast.Open(group, &source{store: o.cfg.Store, layout: i.img.Layout}, o.cfg.Rate)
		if err != nil {
			return api.Channel{}, fmt.Errorf("%w: channel %s of image %s: %v", errNoChannel, group, digest.Short(), err)
		}
		i.channel = c
		o.log.Info("channel opened", "image", digest.Short(), "group", group.String())
	}
	i.channel.Expect()
	return i.channel.Info(), nil
}

// source is an image's chunks by number and the parts of its chunk map behind
// them, for a channel.
type source struct {
	store  store.Store
	layout *image.Layout

	mu      sync.Mutex
	encoder *image.Encoder // of parts; nil until one is asked for
}

func (s *source) Chunks() int { return s.layout.Chunks() }

func (s *source) Parts() int { return image.MapParts(len(s.layout.Entries())) }

func (s *source) Chunk(ctx context.Context, n uint32) ([]byte, error) {
	if n < uint32(s.Chunks()) {
		return s.store.Chunk(ctx, s.layout.ID(n))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.encoder == nil {
		s.encoder = image.NewEncoder()
	}
	return s.encoder.Encode(nil, image.AppendMapPart(nil, s.layout.Entries(), int(n)-s.Chunks())), nil
}
