package origin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/origin"
	"huck/imager/store"
)

// ask has the handler answer GET path to a client at host and returns the
// number of bytes of the answer.
func ask(ctx context.Context, h http.Handler, host, path string) int {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	r.RemoteAddr = host + ":1000"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Body.Len()
}

func chunkPath(digest image.ID, n int) string {
	return fmt.Sprintf("%s%s/chunks/%d", api.PathImages, digest, n)
}

// TestShare: beside channels chunks over HTTP have a twentieth of their rate in
// all, at least 1 Mbit/s, and clients have equal parts of that whatever number
// of requests they make at once.
func TestShare(t *testing.T) {
	const lasts = 30 * time.Second
	for _, tt := range []struct {
		sending, want int64
	}{{400e6, 20e6}, {100e6, 5e6}, {10e6, 1e6}} {
		t.Run(fmt.Sprint(tt.sending), func(t *testing.T) {
			st, _, digest := newStore(t, 3)
			h := origin.New(origin.Config{Store: st, Sending: func() int64 { return tt.sending }}).Handler()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), lasts)
				defer cancel()
				start := time.Now()
				var got [3]atomic.Int64
				var wait sync.WaitGroup
				for host := range got {
					for range 1 + 4*host {
						wait.Go(func() {
							for ctx.Err() == nil {
								got[host].Add(int64(ask(ctx, h, fmt.Sprintf("10.0.0.%d", host), chunkPath(digest, 1))))
							}
						})
					}
				}
				wait.Wait()
				if took := time.Since(start); took != lasts {
					t.Errorf("clients that went away were answered for %v more", took-lasts)
				}
				total := int64(0)
				for host := range got {
					total += got[host].Load()
				}
				if rate := float64(total) * 8 / lasts.Seconds(); math.Abs(rate/float64(tt.want)-1) > 0.02 {
					t.Errorf("%.0f bit/s over HTTP beside %d, want %d", rate, tt.sending, tt.want)
				}
				for host := range got {
					if part := float64(got[host].Load()) / float64(total); math.Abs(part-1./3) > 0.02 {
						t.Errorf("client %d of 3 has %.3f of it", host, part)
					}
				}
			})
		})
	}
}

// TestShareIsFree: nothing is held back without an active channel on the same
// link, and only chunks are.
func TestShareIsFree(t *testing.T) {
	st, _, digest := newStore(t, 3)
	loopback, err := net.InterfaceByName("lo")
	must(t, err)
	var sending atomic.Int64
	synctest.Test(t, func(t *testing.T) {
		h := origin.New(origin.Config{Store: st, Interface: loopback, Sending: sending.Load}).Handler()
		// from asks for a chunk at a local address and returns how long it takes.
		from := func(local, peer, path string) time.Duration {
			start := time.Now()
			ctx := context.WithValue(t.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP(local), Port: 80})
			if n := ask(ctx, h, peer, path); n < 100 {
				t.Errorf("%s is %d bytes", path, n)
			}
			return time.Since(start)
		}
		const atLeast = time.Second
		chunk := chunkPath(digest, 0)
		if d := from("127.0.0.1", "127.0.0.2", chunk); d != 0 {
			t.Errorf("a chunk without a channel takes %v", d)
		}
		sending.Store(10e6)
		if d := from("127.0.0.1", "127.0.0.2", chunk); d < atLeast {
			t.Errorf("a chunk beside a channel takes %v", d)
		}
		if d := from("192.0.2.1", "192.0.2.2", chunk); d != 0 {
			t.Errorf("a chunk on another interface takes %v", d)
		}
		if d := from("127.0.0.1", "127.0.0.1", chunk); d != 0 {
			t.Errorf("a chunk within this host takes %v", d)
		}
		if d := from("127.0.0.1", "127.0.0.2", api.PathImages+digest.String()+"/map"); d != 0 {
			t.Errorf("a map beside a channel takes %v", d)
		}
		sending.Store(0)
		if d := from("127.0.0.1", "127.0.0.2", chunk); d < atLeast/2 {
			t.Errorf("a chunk in a moment's gap of a channel takes %v", d)
		}
		time.Sleep(2 * time.Second)
		if d := from("127.0.0.1", "127.0.0.2", chunk); d != 0 {
			t.Errorf("a chunk after a channel takes %v", d)
		}
	})
}

// TestShareFollowsChannels: a chunk that was held back is let go when the
// channels are done.
func TestShareFollowsChannels(t *testing.T) {
	st, _, digest := newStore(t, 1)
	var sending atomic.Int64
	sending.Store(10e6)
	synctest.Test(t, func(t *testing.T) {
		h := origin.New(origin.Config{Store: st, Sending: sending.Load}).Handler()
		time.AfterFunc(200*time.Millisecond, func() { sending.Store(0) })
		start := time.Now()
		if n := ask(t.Context(), h, "10.0.0.2", chunkPath(digest, 0)); n < image.RegionSize/2 {
			t.Errorf("%d bytes", n)
		}
		if took := time.Since(start); took < time.Second || took > 1500*time.Millisecond {
			t.Errorf("took %v: want the rest at once, a second after the channel's last packet", took)
		}
	})
}

// slowly answers 200 and one byte of the body every pause.
type slowly struct {
	pause time.Duration
	left  int
	ctx   context.Context
}

// Read implements io.Reader.
func (b *slowly) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(b.pause):
		b.left--
		return copy(p, "x"), nil
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
}

type tripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestClientWaitsForSlowAnswers: an answer may take any time as long as
// something comes; one that stands still is given up and asked for again.
func TestClientWaitsForSlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pause, asked := 50*time.Second, 0
		c := origin.NewClient(&url.URL{Scheme: "http", Host: "origin", Path: "/"}, &http.Client{Transport: tripper(func(r *http.Request) (*http.Response, error) {
			asked++
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(&slowly{pause, 20, r.Context()}), Request: r}, nil
		})})
		b, err := c.Chunk(t.Context(), image.Sum(nil), 1)
		if err != nil || len(b) != 20 || asked != 1 {
			t.Errorf("%d bytes in %d answers, %v", len(b), asked, err)
		}
		pause, asked = time.Hour, 0
		start := time.Now()
		_, err = c.Chunk(t.Context(), image.Sum(nil), 1)
		if err == nil || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "nothing came for 1m0s") {
			t.Errorf("an answer that stands still: %v", err)
		}
		if took := time.Since(start); asked < 5 || took > 10*time.Minute {
			t.Errorf("asked %d times in %v", asked, took)
		}
	})
}

// failing is a store that cannot read chunks.
type failing struct {
	store.Store
	err error
}

// Chunk implements store.Store.
func (s failing) Chunk(context.Context, image.ID) ([]byte, error) {
	return nil, &os.PathError{Op: "open", Path: "packs/1", Err: s.err}
}

// TestOutOfFiles: the answer says what to do.
func TestOutOfFiles(t *testing.T) {
	st, _, digest := newStore(t, 1)
	h := origin.New(origin.Config{Store: failing{st, syscall.EMFILE}}).Handler()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, chunkPath(digest, 0), nil))
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "ulimit -n") {
		t.Errorf("answer %d %s", w.Code, w.Body)
	}
}

func TestCastFlags(t *testing.T) {
	sound := origin.CastFlags{Floor: 0.25, TTL: 1}
	for _, tt := range []struct {
		name string
		set  func(f *origin.CastFlags)
		bad  bool
	}{
		{"defaults", func(*origin.CastFlags) {}, false},
		{"all", func(f *origin.CastFlags) { *f = origin.CastFlags{"500M", true, 0.5, 63, 255, true} }, false},
		{"rate 0", func(f *origin.CastFlags) { f.Rate = "0" }, true},
		{"rate words", func(f *origin.CastFlags) { f.Rate = "fast" }, true},
		{"floor 1", func(f *origin.CastFlags) { f.Floor = 1 }, true},
		{"floor below 0", func(f *origin.CastFlags) { f.Floor = -0.1 }, true},
		{"floor NaN", func(f *origin.CastFlags) { f.Floor = math.NaN() }, true},
		{"dscp", func(f *origin.CastFlags) { f.DSCP = 64 }, true},
		{"ttl 0", func(f *origin.CastFlags) { f.TTL = 0 }, true},
		{"ttl 256", func(f *origin.CastFlags) { f.TTL = 256 }, true},
	} {
		f := sound
		tt.set(&f)
		cfg, err := f.Server()
		if (err != nil) != tt.bad {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.name == "all" && (cfg.Rate != 500e6 || !cfg.Polite || cfg.Floor != 0.5 || cfg.DSCP != 63 || cfg.TTL != 255 || !cfg.Jumbo) {
			t.Errorf("all: %+v", cfg)
		}
	}
	nobody := sound
	nobody.Floor = 0
	if cfg, err := nobody.Server(); err != nil || cfg.Floor >= 0 {
		t.Errorf("--floor 0 is %v for cast, whose 0 is its default (%v)", cfg.Floor, err)
	}
}
