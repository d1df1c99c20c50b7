package cast

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"huck/imager/api"
	"huck/imager/cast/protocol"
)

// fakeGroup is a group's socket on which a full batch of nothing of interest
// is waiting, always, until the time quiet.
type fakeGroup struct {
	groupConn
	quiet time.Time
}

func (g *fakeGroup) await(d time.Duration) { <-time.After(d) }

func (g *fakeGroup) readBatch(ms []inbound) (int, error) {
	if time.Now().After(g.quiet) {
		return 0, nil
	}
	<-time.After(time.Millisecond) // what reading takes
	for i := range ms {
		ms[i].n, ms[i].controlLen = 100, 0
	}
	return len(ms), nil
}

func (g *fakeGroup) stamp() time.Time { return time.Time{} }

// TestRest: packets gather for as long as the socket's buffer has plenty of
// room for them.
func TestRest(t *testing.T) {
	for _, c := range []struct {
		rate     int64
		room     float64
		from, to time.Duration
	}{
		{0, 1, lull, lull},
		{1e6, 1, longLull, longLull},
		{50e6, 1, 10 * time.Millisecond, 11 * time.Millisecond},
		{500e6, 1, lull, lull},
		{500e6, 0.5, lull / 2, lull / 2},
		{5e9, 1, 1600 * time.Microsecond, 1700 * time.Microsecond},
		{100e9, 1, minLull, minLull},
		{500e6, 0.01, tick, tick}, // until the kernel says so
	} {
		synctest.Test(t, func(t *testing.T) {
			r := &Reception{machine: &Receiver{rate: c.rate}, room: c.room, group: &fakeGroup{}}
			start := time.Now()
			r.rest(time.Hour)
			if got := time.Since(start); got < c.from || got > c.to {
				t.Errorf("at %d bit/s with room %g it rests for %v, want %v to %v", c.rate, c.room, got, c.from, c.to)
			}
		})
	}
}

// fakeSender notes when it was asked.
type fakeSender struct {
	net.Conn
	asked []time.Time
}

func (s *fakeSender) Write(b []byte) (int, error) {
	s.asked = append(s.asked, time.Now())
	return len(b), nil
}

// nothing is a sink that is never complete.
type nothing struct{ Sink }

func (nothing) Complete() <-chan struct{} { return nil }

// TestCatchUp: a receiver that cannot keep up with reading puts requests off,
// since what it misses may be in the socket's buffer, but not for ever, and no
// longer than it has to.
func TestCatchUp(t *testing.T) {
	const longestTick = tick * 3 / 2
	for _, c := range []struct {
		name             string
		behind           time.Duration
		earliest, latest time.Duration // of the first request
	}{
		{"never", 0, 0, longestTick},
		{"for a while", 100 * time.Millisecond, 100 * time.Millisecond, 100*time.Millisecond + longestTick},
		{"always", time.Hour, catchUp, catchUp + 2*longestTick},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ch := api.Channel{
					Group: netip.MustParseAddrPort("239.0.0.1:9000"), Sender: netip.MustParseAddrPort("10.0.0.1:9000"),
					Secret: make([]byte, protocol.SecretSize), SymbolSize: 1408,
				}
				m, err := NewReceiver(ch, nothing{}, rand.New(rand.NewPCG(1, 1)))
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				sender := &fakeSender{}
				r := &Reception{
					cfg: ReceiverConfig{Log: slog.New(slog.DiscardHandler)}, feed: Feed{Sink: nothing{}}, machine: m, joined: ch,
					group: &fakeGroup{quiet: start.Add(c.behind)}, sender: sender,
				}
				ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
				defer cancel()
				if err := r.run(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
				if len(sender.asked) == 0 {
					t.Fatal("no request in 400 ms")
				}
				if at := sender.asked[0].Sub(start); at < c.earliest || at > c.latest {
					t.Errorf("request after %v, want %v to %v", at, c.earliest, c.latest)
				}
			})
		})
	}
}

// TestOtherSender: packets of another session are another sender's only while
// this session goes on.
func TestOtherSender(t *testing.T) {
	var lines logLines
	start := time.Now()
	from := netip.MustParseAddrPort("10.0.0.7:5000")
	r := &Reception{
		machine: &Receiver{}, cfg: ReceiverConfig{Log: lines.logger()},
		joined: api.Channel{Group: netip.MustParseAddrPort("239.0.0.1:9000"), Sender: netip.MustParseAddrPort("10.0.0.1:9000")},
	}
	step := func(foreign, own time.Duration, warned bool) {
		t.Helper()
		r.machine.heard = start.Add(own)
		r.other(start.Add(foreign), from)
		text := lines.take()
		if got := strings.Contains(text, from.String()) && strings.Contains(text, "239.0.0.1:9000"); got != warned {
			t.Errorf("foreign packet after %v, own after %v: logged %q", foreign, own, text)
		}
	}
	step(time.Second, 990*time.Millisecond, false) // a restart: the own session's last packet came before
	step(5*time.Second, 1100*time.Millisecond, false)
	step(6*time.Second, 5900*time.Millisecond, true)
	step(7*time.Second, 7*time.Second, false) // said lately
	step(20*time.Second, 20*time.Second, true)
}
