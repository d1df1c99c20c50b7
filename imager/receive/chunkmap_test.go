package receive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"huck/imager/cast"
	"huck/imager/image"
)

// TestMapByChannel: the chunk map comes of the channel, or over HTTP where the
// channel does not bring it; what was wrong with the channel is not found out
// twice.
func TestMapByChannel(t *testing.T) {
	type feed func(g *rig, ctx context.Context, f cast.Feed) error
	brings := func(part func(b []byte) []byte) feed {
		return func(g *rig, ctx context.Context, f cast.Feed) error {
			missing := f.Sink.Missing(chunks+7, make([]uint32, 9))
			if len(missing) != 1 || missing[0] != chunks || f.Sink.Useful(chunks-1) || !f.Sink.Useful(chunks) || f.Sink.Useful(chunks+1) {
				return fmt.Errorf("of a map of one part %v are missing", missing)
			}
			b := part(image.NewEncoder().Encode(nil, image.AppendMapPart(nil, g.img.Layout.Entries(), 0)))
			err := f.Sink.Deliver(ctx, chunks, b, cast.Via)
			select {
			case <-f.Sink.Complete():
				return nil
			default:
				return errors.Join(err, errors.New("not complete"))
			}
		}
	}
	forge := func([]byte) []byte {
		b := image.AppendMapPart(nil, []image.Entry{{Region: 1, Used: 1}}, 0)
		return bytes.Repeat(b, chunks)
	}
	for name, c := range map[string]struct {
		feed  feed
		cfg   Config
		maps  []time.Duration // when the map is to come over HTTP
		http  bool            // the chunks come over HTTP, too
		joins int             // in all, if the channel then brings the chunks
	}{
		"comes":  {feed: brings(bytes.Clone), joins: 1},
		"forged": {feed: brings(forge), maps: []time.Duration{0}, http: true, joins: 1},
		"quiet": {maps: []time.Duration{mapQuiet}, joins: 2,
			feed: func(_ *rig, ctx context.Context, _ cast.Feed) error {
				<-ctx.Done()
				return ctx.Err()
			}},
		"no multicast": {maps: []time.Duration{2 * time.Second}, http: true, joins: 1,
			feed: func(*rig, context.Context, cast.Feed) error {
				<-time.After(2 * time.Second)
				return fmt.Errorf("cast: 3 requests: %w", cast.ErrNoMulticast)
			}},
		"not wanted": {cfg: Config{NoMulticast: true}, maps: []time.Duration{0}, http: true},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t)
			synctest.Test(t, func(t *testing.T) {
				g.feed = func(ctx context.Context, try int, f cast.Feed) error {
					if try == 0 {
						return c.feed(g, ctx, f)
					}
					return g.deliver(ctx, f, 0, chunks)
				}
				r := g.receiver(c.cfg)
				must(t, r.openImage(t.Context(), g.img.Digest))
				if fmt.Sprint(g.maps) != fmt.Sprint(c.maps) {
					t.Errorf("the map was fetched at %v, want %v", g.maps, c.maps)
				}
				opened := time.Since(g.start)
				res, err := g.install(r)
				must(t, err)
				if got := res.Received[HTTP] > 0; got != c.http || c.http && g.fetches[0] != opened {
					t.Errorf("received %v, over HTTP from %v on", res.Received, g.fetches)
				}
				if len(g.joins) != c.joins || g.closed != c.joins || g.asked != c.joins {
					t.Errorf("joined at %v, left %d times, asked for the channel %d times", g.joins, g.closed, g.asked)
				}
			})
		})
	}
}
