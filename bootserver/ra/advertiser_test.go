package ra_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/ndp"

	"huck/bootserver/ra"
)

var (
	host   = netip.MustParseAddr("fe80::2")
	router = netip.MustParseAddr("fe80::1")
)

func TestListensFirst(t *testing.T) {
	now := time.Now()
	a := ra.NewAdvertiser(now)
	if to := a.Receive(&ndp.RouterSolicitation{}, host, 255, now.Add(time.Second)); to.IsValid() {
		t.Errorf("answers %v while it should listen", to)
	}
	next, ok := a.Next()
	if !ok || next.Sub(now) < 3*time.Second {
		t.Fatalf("speaks after %v", next.Sub(now))
	}
	if a.Tick(next.Add(-time.Millisecond)) || !a.Tick(next) || a.Tick(next) {
		t.Error("the first advertisement does not come at its time")
	}
	if to := a.Receive(&ndp.RouterSolicitation{}, host, 255, next.Add(time.Millisecond)); to != host {
		t.Errorf("a solicitation is answered to %v", to)
	}
	again, _ := a.Next()
	if d := again.Sub(next); d < 4*time.Second || d > 30*time.Minute {
		t.Errorf("advertises each %v", d)
	}
}

func TestSolicitationFromNowhere(t *testing.T) {
	now := time.Now()
	a := ra.NewAdvertiser(now)
	first, _ := a.Next()
	a.Tick(first)
	if to := a.Receive(&ndp.RouterSolicitation{}, netip.IPv6Unspecified(), 255, first.Add(time.Millisecond)); to.IsValid() {
		t.Errorf("answered to %v", to)
	}
	next, _ := a.Next()
	if d := next.Sub(first); d != 3*time.Second {
		t.Errorf("answered to all after %v, want MIN_DELAY_BETWEEN_RAS", d)
	}
}

func TestForeignRouter(t *testing.T) {
	prefix := &ndp.PrefixInformation{PrefixLength: 64, Prefix: netip.MustParseAddr("2001:db8::")}
	for name, c := range map[string]struct {
		m        ndp.RouterAdvertisement
		from     netip.Addr
		hopLimit int
		stops    bool
	}{
		"a router":               {ndp.RouterAdvertisement{RouterLifetime: time.Hour}, router, 255, true},
		"only a prefix":          {ndp.RouterAdvertisement{Options: []ndp.Option{prefix}}, router, 255, true},
		"DHCPv6":                 {ndp.RouterAdvertisement{ManagedConfiguration: true}, router, 255, true},
		"another boot server":    {ndp.RouterAdvertisement{}, router, 255, false},
		"from beyond the link":   {ndp.RouterAdvertisement{RouterLifetime: time.Hour}, router, 254, false},
		"not a router's address": {ndp.RouterAdvertisement{RouterLifetime: time.Hour}, netip.MustParseAddr("2001:db8::1"), 255, false},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			a := ra.NewAdvertiser(now)
			first, _ := a.Next()
			a.Tick(first)
			a.Receive(&c.m, c.from, c.hopLimit, first)
			_, speaking := a.Next()
			to := a.Receive(&ndp.RouterSolicitation{}, host, 255, first.Add(time.Minute))
			if speaking == c.stops || to.IsValid() == c.stops || a.Tick(first.Add(time.Hour)) == c.stops {
				t.Errorf("still speaking = %v, still answering = %v", speaking, to.IsValid())
			}
		})
	}
}
