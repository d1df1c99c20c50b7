package origin

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// httpShare is the part of the channels' rate that chunks over HTTP may
	// take beside them, all clients together: a twentieth. TCP in full takes
	// half of a link or more from a channel that finds its own rate, so one
	// receiver without multicast would halve the speed of all others. A
	// twentieth is what the others may be slowed by (and less than a channel
	// spends on repair where a tenth is lost), and still brings 50 Mbit/s where
	// the channel has 1 Gbit/s.
	httpShare = 20
	// leastHTTP is what chunks over HTTP get however slow the channels are, in
	// bits a second: the least rate of a channel, too. It brings a chunk in two
	// seconds, so that what a channel cannot bring at all arrives some day.
	leastHTTP = 1e6
	// linger is how long channels count as active after they sent: their queues
	// run empty for a moment between two requests, and what HTTP sends into that
	// gap fills the buffers on the way.
	linger = time.Second
	// turnTime is how much may be written at once, as time at HTTP's rate: small
	// enough that a hundred clients hear something within a few seconds, large
	// enough for few system calls. It is also how much being late is made up for.
	turnTime = 10 * time.Millisecond
	// leastTurn is the least that is written at once, in bytes.
	leastTurn = 4 << 10
	// stuck is how long a client may take to take one turn's bytes.
	stuck = time.Minute
)

// share holds the chunks that go out over HTTP to a share of what the channels
// beside them send. Clients take turns, whatever number of requests each has.
type share struct {
	// sending tells what the channels send at present, in bits a second; 0 is
	// nothing.
	sending func() int64
	// turn is held while waiting for the next write's time and guards due.
	turn *semaphore.Weighted
	due  time.Time // when what was written is paid for

	mu      sync.Mutex
	clients map[netip.Addr]*client
	rate    int64     // what channels sent when they were last seen to
	active  time.Time // when that was
}

// client is who has requests under way; one of them at a time waits for a turn.
type client struct {
	turn     *semaphore.Weighted
	requests int
}

func newShare(sending func() int64) *share {
	return &share{sending: sending, turn: semaphore.NewWeighted(1), clients: make(map[netip.Addr]*client)}
}

// limit returns the rate of chunks over HTTP in bits a second; 0 is no limit.
func (s *share) limit(now time.Time) int64 {
	if s.sending == nil {
		return 0
	}
	rate := s.sending()
	s.mu.Lock()
	defer s.mu.Unlock()
	if rate > 0 {
		s.rate, s.active = rate, now
	}
	if s.active.IsZero() || now.Sub(s.active) > linger {
		return 0
	}
	return max(s.rate/httpShare, leastHTTP)
}

// write writes b to the client at addr, when it is its turn. Where it returns
// before all is written, the client or the connection is gone.
func (s *share) write(ctx context.Context, addr netip.Addr, w http.ResponseWriter, b []byte) {
	c := s.enter(addr)
	defer s.leave(addr)
	control := http.NewResponseController(w)
	for len(b) > 0 {
		n, err := s.take(ctx, c, len(b))
		if err != nil {
			return
		}
		// A deadline for all of the answer would not do. Not every
		// ResponseWriter has deadlines; those of tests do without.
		_ = control.SetWriteDeadline(time.Now().Add(stuck))
		if _, err := w.Write(b[:n]); err != nil {
			return
		}
		b = b[n:]
	}
}

// take waits for the client's turn and returns how many of n bytes may be
// written now.
func (s *share) take(ctx context.Context, c *client, n int) (int, error) {
	if err := c.turn.Acquire(ctx, 1); err != nil {
		return 0, err
	}
	defer c.turn.Release(1)
	if err := s.turn.Acquire(ctx, 1); err != nil {
		return 0, err
	}
	defer s.turn.Release(1)
	now := time.Now()
	rate := s.limit(now)
	if rate == 0 {
		return n, nil
	}
	if wait := s.due.Sub(now); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	} else if wait < -turnTime {
		s.due = now.Add(-turnTime)
	}
	perSecond := float64(rate) / 8
	n = min(n, max(leastTurn, int(perSecond*turnTime.Seconds())))
	s.due = s.due.Add(time.Duration(float64(n) / perSecond * float64(time.Second)))
	return n, nil
}

func (s *share) enter(addr netip.Addr) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[addr]
	if c == nil {
		c = &client{turn: semaphore.NewWeighted(1)}
		s.clients[addr] = c
	}
	c.requests++
	return c
}

func (s *share) leave(addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[addr]
	if c.requests--; c.requests == 0 {
		delete(s.clients, addr)
	}
}

// beside reports whether an answer to r goes out where the channels do: from an
// address of their interface, to another host. What cannot be told is.
func beside(r *http.Request, ifi *net.Interface) bool {
	if ifi == nil {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok {
		return true
	}
	own := local.AddrPort().Addr().Unmap().WithZone("")
	if own == peer(r) {
		return false // within this host
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return true
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(own.AsSlice()) {
			return true
		}
	}
	return false
}

// peer returns the address that r came from; the zero Addr if there is none.
func peer(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap().WithZone("")
}
