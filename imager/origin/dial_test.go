package origin_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"huck/imager/origin"
)

// conn is a connection that notes that it was closed.
type conn struct {
	net.Conn
	closed bool
}

func (c *conn) Close() error { c.closed = true; return nil }

// TestHedged: the attempt that gets through first is the connection, and none of
// the others is left.
func TestHedged(t *testing.T) {
	refused := errors.New("refused")
	const lost = 3 * time.Second
	for _, c := range []struct {
		name string
		// takes is how long each attempt takes; those that fail, fail then.
		takes []time.Duration
		fails []bool
		took  time.Duration
		err   error
		calls int
	}{
		{"at once", []time.Duration{time.Millisecond}, []bool{false}, time.Millisecond, nil, 1},
		{"first lost", []time.Duration{lost, time.Millisecond}, []bool{false, false}, 251 * time.Millisecond, nil, 2},
		{"two lost", []time.Duration{lost, lost, time.Millisecond}, []bool{false, false, false}, 501 * time.Millisecond, nil, 3},
		{"far away", []time.Duration{400 * time.Millisecond, lost}, []bool{false, false}, 400 * time.Millisecond, nil, 2},
		{"refused at once", []time.Duration{time.Millisecond}, []bool{true}, time.Millisecond, refused, 1},
		{"refused late, then not", []time.Duration{300 * time.Millisecond, 300 * time.Millisecond}, []bool{true, false}, 550 * time.Millisecond, nil, 2},
		{"all lost", []time.Duration{lost, lost, lost, lost}, []bool{true, true, true, true}, lost + 750*time.Millisecond, refused, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var conns []*conn
				var dial origin.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
					mu.Lock()
					n, made := len(conns), &conn{}
					conns = append(conns, made)
					mu.Unlock()
					if n >= len(c.takes) {
						t.Errorf("attempt %d", n+1)
						return nil, refused
					}
					select {
					case <-time.After(c.takes[n]):
					case <-ctx.Done():
						made.closed = true
						return nil, ctx.Err()
					}
					if c.fails[n] {
						made.closed = true
						return nil, refused
					}
					return made, nil
				}
				start := time.Now()
				got, err := dial.Hedged()(t.Context(), "tcp", "10.0.0.1:80")
				if took := time.Since(start); err != c.err || took != c.took || len(conns) != c.calls {
					t.Errorf("%v after %v and %d attempts, want %v, %v, %d", err, took, len(conns), c.err, c.took, c.calls)
				}
				open := 0
				for _, made := range conns {
					if !made.closed {
						open++
					}
				}
				if (err == nil) != (open == 1) || open > 1 || err == nil && got.(*conn).closed {
					t.Errorf("%d connections open, error %v", open, err)
				}
			})
		})
	}
}

// TestHedgedEnds: the attempts end with the context.
func TestHedgedEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var never origin.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if _, err := never.Hedged()(ctx, "tcp", "10.0.0.1:80"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}
