package main

import (
	"net"
	"net/netip"
	"net/url"
	"testing"

	"huck/imager/api"
	"huck/imager/install"
	"huck/initramfs/network"
)

// unreachable returns the URL of a server that is not there.
func unreachable(t *testing.T) *url.URL {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &url.URL{Scheme: "http", Host: ln.Addr().String()}
	ln.Close()
	return u
}

// TestDiscovery: who was told no server, or one that is not there, asks the link.
func TestDiscovery(t *testing.T) {
	for name, named := range map[string]*url.URL{"none named": nil, "the named one is not there": unreachable(t)} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			l := <-s.boot.net.Leases()
			s.answers, l.Server = l.Server, named
			s.boot.net.(*fakeNet).leases <- l
			s.start(t)
			s.await(t, "step server: done")
			if s.boot.net.(*fakeNet).chosen != "lo" {
				t.Error("no interface chosen")
			}
		})
	}
}

// TestSecondLeaseWins: a lease that leads nowhere, or has not led anywhere
// yet, does not hold up one that comes later.
func TestSecondLeaseWins(t *testing.T) {
	s := newScene(t)
	good := <-s.boot.net.Leases()
	s.boot.net.(*fakeNet).leases <- network.Lease{Interface: "slow", Addr: netip.MustParsePrefix("127.0.0.2/8")}
	s.start(t)
	s.await(t, "step server: running")
	s.boot.net.(*fakeNet).leases <- good
	s.await(t, "step server: done")
	s.without(t, "step server: FAILED") // as there would be after waiting for the first
	if got := s.boot.net.(*fakeNet).chosen; got != "lo" {
		t.Errorf("chose %q", got)
	}
}

// TestRetryKey: what was given up is tried again when somebody wants it.
func TestRetryKey(t *testing.T) {
	s := newScene(t)
	again := make(chan struct{}, 1)
	s.boot.again = again
	s.machine.receives = []error{&install.Refused{Device: "/dev/sda", Why: "too small"}, nil}
	s.server.assign(install1(api.ThenPoweroff))
	s.start(t)
	s.await(t, "GIVEN UP")
	again <- struct{}{}
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.order(t, "receive deb:1", "GIVEN UP", "receive deb:1", "event installed", "poweroff")
}
