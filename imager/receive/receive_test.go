package receive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"huck/imager/api"
	"huck/imager/cast"
	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/origin"
	"huck/imager/store"
	"huck/imager/store/storetest"
)

// chunks is how many the image of the tests has.
const chunks = 16

// rig is an origin without a network and a channel that does as it is told.
type rig struct {
	t     *testing.T
	store *store.Dir
	img   *image.Image
	dev   disk.Device
	// takes is about how long HTTP needs for a chunk.
	takes time.Duration
	// feed plays the channel; it gets the number of times it was fed from before.
	feed func(ctx context.Context, try int, f cast.Feed) error

	start time.Time
	log   bytes.Buffer

	mu      sync.Mutex
	fetches []time.Duration // when chunks were asked for over HTTP, since start
	joins   []time.Duration
	feeds   int
	closed  int             // times that the channel was left
	maps    []time.Duration // when the chunk map was asked for over HTTP
	asked   int             // how often for the channel
}

func newRig(t *testing.T) *rig {
	t.Helper()
	st, err := store.Open(t.TempDir(), store.Options{Create: true})
	must(t, err)
	seeds := make([]uint64, chunks)
	for i := range seeds {
		seeds[i] = uint64(i + 1)
	}
	tag, _ := storetest.Put(t, st, "test", storetest.MakeImage(t, seeds...))
	img, err := store.OpenImage(t.Context(), st, tag.Digest)
	must(t, err)
	return &rig{t: t, store: st, img: img, dev: disk.Discarder(img.Manifest.DiskSize, img.Manifest.SectorSize), takes: time.Second}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// RoundTrip implements http.RoundTripper.
func (g *rig) RoundTrip(req *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	switch {
	case strings.HasSuffix(req.URL.Path, "/channel"):
		g.mu.Lock()
		g.asked++
		g.mu.Unlock()
		b, err := json.Marshal(api.Channel{Group: netip.MustParseAddrPort("239.255.0.1:8481"), Sender: netip.MustParseAddrPort("10.0.0.1:999")})
		if err != nil {
			return nil, err
		}
		w.Write(b)
		return w.Result(), nil
	case strings.HasSuffix(req.URL.Path, "/map"):
		g.mu.Lock()
		g.maps = append(g.maps, time.Since(g.start))
		g.mu.Unlock()
	case strings.Contains(req.URL.Path, "/chunks/"):
		g.mu.Lock()
		g.fetches = append(g.fetches, time.Since(g.start))
		g.mu.Unlock()
	}
	origin.New(origin.Config{Store: g.store}).Handler().ServeHTTP(w, req)
	resp := w.Result()
	if strings.Contains(req.URL.Path, "/chunks/") {
		resp.Body = &trickle{ReadCloser: resp.Body, ctx: req.Context(), step: g.takes / trickleSteps}
	}
	return resp, nil
}

// trickle is a body that comes in trickleSteps parts.
type trickle struct {
	io.ReadCloser
	ctx  context.Context
	step time.Duration
}

const trickleSteps = 32

// Read implements io.Reader.
func (b *trickle) Read(p []byte) (int, error) {
	select {
	case <-time.After(b.step):
		return b.ReadCloser.Read(p[:min(len(p), image.RegionSize/2/trickleSteps)])
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
}

// run receives the image, whose chunk map is there.
func (g *rig) run(cfg Config) (api.Result, error) {
	r := g.receiver(cfg)
	r.digest, r.img = g.img.Digest, g.img
	return g.install(r)
}

func (g *rig) install(r *receiver) (api.Result, error) {
	job, err := install.New(r.img, g.dev, install.Options{Log: r.log, Workers: 2})
	must(g.t, err)
	return job.Run(g.t.Context(), r.transport)
}

// receiver returns one that has not begun.
func (g *rig) receiver(cfg Config) *receiver {
	g.start = time.Now()
	cfg.Base = &url.URL{Scheme: "http", Host: "origin", Path: "/"}
	r := &receiver{cfg: cfg, client: origin.NewClient(cfg.Base, &http.Client{Transport: g}), log: slog.New(slog.NewTextHandler(&g.log, nil))}
	r.join = func(context.Context, cast.ReceiverConfig) (session, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.joins = append(g.joins, time.Since(g.start))
		return (*channel)(g), nil
	}
	return r
}

// channel is the rig as a channel that was joined.
type channel rig

// Feed implements session.
func (c *channel) Feed(ctx context.Context, f cast.Feed) error {
	c.mu.Lock()
	try := c.feeds
	c.feeds++
	c.mu.Unlock()
	return c.feed(ctx, try, f)
}

// Close implements session.
func (c *channel) Close() (cast.ReceiveStats, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed++
	return cast.ReceiveStats{}, nil
}

// deliver has the channel bring the missing chunks among those from n to end.
func (g *rig) deliver(ctx context.Context, f cast.Feed, n, end uint32) error {
	for ; n < end; n++ {
		if !f.Sink.Useful(n) {
			continue
		}
		b, err := g.store.Chunk(ctx, g.img.Layout.ID(n))
		must(g.t, err)
		if err := f.Sink.Deliver(ctx, n, b, cast.Via); err != nil {
			return err
		}
	}
	return nil
}

// encoded is the size of the chunks from n to end.
func (g *rig) encoded(n, end uint32) (sum int64) {
	for ; n < end; n++ {
		size, _, ok := g.store.Lookup(g.img.Layout.ID(n))
		if !ok {
			g.t.Fatalf("chunk %d is not in the store", n)
		}
		sum += int64(size)
	}
	return sum
}

// said counts the lines of the log at that level with those words.
func (g *rig) said(level, words string) (n int) {
	for line := range strings.Lines(g.log.String()) {
		if strings.Contains(line, "level="+level) && strings.Contains(line, words) {
			n++
		}
	}
	return n
}

// TestLeavesForGood: who is told to leave, or is fed rubbish, finishes over
// HTTP from where it is, says so once and does not come back, however long it
// takes.
func TestLeavesForGood(t *testing.T) {
	for _, reason := range []error{cast.ErrStraggler, cast.ErrBadChannel} {
		t.Run(reason.Error(), func(t *testing.T) {
			g := newRig(t)
			g.takes = 10 * time.Minute
			synctest.Test(t, func(t *testing.T) {
				g.feed = func(ctx context.Context, _ int, f cast.Feed) error {
					time.Sleep(time.Second)
					err := g.deliver(ctx, f, 0, 3)
					must(t, err)
					return fmt.Errorf("cast: channel at 9 kbit/s: %w", reason)
				}
				r, err := g.run(Config{})
				must(t, err)
				if r.Received[cast.Via] != g.encoded(0, 3) || r.Received[HTTP] != g.encoded(3, chunks) {
					t.Errorf("received %v, want %d by multicast and %d over HTTP", r.Received, g.encoded(0, 3), g.encoded(3, chunks))
				}
				if len(g.joins) != 1 || len(g.fetches) != chunks-3 || g.fetches[0] != time.Second {
					t.Errorf("joined at %v, fetched at %v", g.joins, g.fetches)
				}
				if g.said("WARN", "channel") != 1 || g.said("WARN", reason.Error()) != 1 {
					t.Errorf("want one warning with the reason:\n%s", &g.log)
				}
			})
		})
	}
}

// TestTriesAgain: a channel that brings nothing is tried again now and then
// beside HTTP, which takes no new chunk from when the channel brings some until
// it fails again.
func TestTriesAgain(t *testing.T) {
	g := newRig(t)
	g.takes = 40 * time.Second // with four at a time: a chunk each 10 s
	const back, worked = 2, 20 * time.Second
	synctest.Test(t, func(t *testing.T) {
		var joined, left time.Duration
		g.feed = func(ctx context.Context, try int, f cast.Feed) error {
			time.Sleep(2 * time.Second)
			if try != back {
				return fmt.Errorf("cast: 3 requests: %w", cast.ErrNoMulticast)
			}
			joined = time.Since(g.start)
			err := g.deliver(ctx, f, chunks-2, chunks)
			must(t, err)
			time.Sleep(worked)
			left = time.Since(g.start)
			return fmt.Errorf("cast: silent: %w", cast.ErrNoMulticast)
		}
		r, err := g.run(Config{})
		must(t, err)
		if r.Received[cast.Via] != g.encoded(chunks-2, chunks) || r.Received[HTTP] != g.encoded(0, chunks-2) {
			t.Errorf("received %v", r.Received)
		}
		for _, at := range g.fetches {
			if at < 2*time.Second || joined < at && at < left {
				t.Errorf("fetched at %v, with a channel up to 2s and from %v to %v", at, joined, left)
			}
		}
		if last := g.fetches[len(g.fetches)-1]; last < left {
			t.Errorf("last fetch at %v: this tests nothing after %v", last, left)
		}
		for i, least := range []time.Duration{firstRetry, 2 * firstRetry, firstRetry} { // what works begins anew
			if len(g.joins) <= i+1 {
				t.Fatalf("joined at %v", g.joins)
			}
			gap := g.joins[i+1] - g.joins[i] - 2*time.Second
			if i == back {
				gap -= worked
			}
			if gap < least*3/4 || gap > least {
				t.Errorf("try %d came after %v, want %v to %v", i+1, gap, least*3/4, least)
			}
		}
		if g.said("WARN", "nothing comes by multicast") != 2 || g.said("INFO", "HTTP takes only") != 1 {
			t.Errorf("want a warning at each loss and one line at the return:\n%s", &g.log)
		}
	})
}

// TestRetriesGrowRare: tries of a network without multicast settle at one in
// five minutes.
func TestRetriesGrowRare(t *testing.T) {
	g := newRig(t)
	g.takes = 20 * time.Minute
	synctest.Test(t, func(t *testing.T) {
		g.feed = func(context.Context, int, cast.Feed) error {
			return cast.ErrNoMulticast
		}
		_, err := g.run(Config{})
		must(t, err)
		n := len(g.joins)
		if gap := g.joins[n-1] - g.joins[n-2]; gap > maxRetry || gap < maxRetry/2 {
			t.Errorf("the last tries are %v apart, want up to %v", gap, maxRetry)
		}
		if all := time.Since(g.start); n > 4+int(all/(maxRetry*3/4)) || n < int(all/maxRetry) {
			t.Errorf("%d tries in %v", n, all)
		}
	})
}

// TestChannelEndsFetches: what HTTP is still busy with when the channel has
// brought everything holds nobody up.
func TestChannelEndsFetches(t *testing.T) {
	g := newRig(t)
	g.takes = time.Hour
	synctest.Test(t, func(t *testing.T) {
		g.feed = func(ctx context.Context, try int, f cast.Feed) error {
			if try == 0 {
				return cast.ErrNoMulticast
			}
			return g.deliver(ctx, f, 0, chunks)
		}
		r, err := g.run(Config{})
		must(t, err)
		if took := time.Since(g.start); took > firstRetry || r.Received[HTTP] != 0 {
			t.Errorf("took %v and received %v", took, r.Received)
		}
	})
}

// TestFetchesWhatFailed: beside a channel that works HTTP brings the chunks that
// the channel cannot, and no other.
func TestFetchesWhatFailed(t *testing.T) {
	g := newRig(t)
	synctest.Test(t, func(t *testing.T) {
		g.feed = func(ctx context.Context, _ int, f cast.Feed) error {
			f.Failed(5, cast.ErrUnavailable)
			time.Sleep(quiet / 2)
			return g.deliver(ctx, f, 0, chunks)
		}
		r, err := g.run(Config{})
		must(t, err)
		if len(g.fetches) != 1 || r.Received[HTTP] != g.encoded(5, 6) || g.said("WARN", "chunk=5") != 1 {
			t.Errorf("received %v in %d fetches, said\n%s", r.Received, len(g.fetches), &g.log)
		}
	})
}

// TestQuietChannel: a channel from which announcements may come, but no chunk,
// does not hold the job up.
func TestQuietChannel(t *testing.T) {
	g := newRig(t)
	synctest.Test(t, func(t *testing.T) {
		g.feed = func(_ context.Context, _ int, f cast.Feed) error {
			select {
			case <-f.Sink.Complete():
				return nil
			case <-time.After(time.Hour):
				return errors.New("an hour went by")
			}
		}
		_, err := g.run(Config{})
		must(t, err)
		if took := time.Since(g.start); took < quiet || took > quiet+chunks*g.takes || g.said("WARN", "beside it") != 1 {
			t.Errorf("took %v, said\n%s", took, &g.log)
		}
	})
}

func TestNoMulticastAskedFor(t *testing.T) {
	g := newRig(t)
	synctest.Test(t, func(t *testing.T) {
		r, err := g.run(Config{NoMulticast: true})
		must(t, err)
		if len(g.joins) != 0 || r.Received[HTTP] != g.encoded(0, chunks) {
			t.Errorf("joined at %v, received %v", g.joins, r.Received)
		}
	})
}

// brokenDisk cannot be written.
type brokenDisk struct{ disk.Device }

var errBroken = errors.New("disk is broken")

// WriteV implements disk.Device.
func (brokenDisk) WriteV(int64, ...[]byte) (int, error) { return 0, errBroken }

// TestDiskFails: a disk's error is no reason to try another transport.
func TestDiskFails(t *testing.T) {
	g := newRig(t)
	g.dev = brokenDisk{g.dev}
	synctest.Test(t, func(t *testing.T) {
		g.feed = func(ctx context.Context, _ int, f cast.Feed) error {
			return g.deliver(ctx, f, 0, chunks)
		}
		if _, err := g.run(Config{}); !errors.Is(err, errBroken) {
			t.Errorf("error %v, want the disk's", err)
		}
		if len(g.fetches) != 0 {
			t.Errorf("%d chunks were fetched all the same", len(g.fetches))
		}
	})
}
