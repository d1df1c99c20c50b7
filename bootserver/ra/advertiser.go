// Package ra sends IPv6 router advertisements that say "there is no router
// here" (RFC 4861): router lifetime 0. iPXE as old as Debian's waits 13 s after
// its DHCPv4 lease for an advertisement, any, before it goes on; this one ends
// the wait. Where the boot server has an IPv6 prefix of its own, machines are
// told to make addresses of it, and to ask DHCPv6 for the rest; without one
// they are told nothing else.
//
// Where another router speaks, this package is silent, for good: a network with
// IPv6 is somebody's to run.
//
// Advertiser is the protocol: messages and time in, decisions out. Server is
// the shell with the socket.
package ra

import (
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/ndp"
)

const (
	// listenTime is how long we listen before we speak. A router answers our
	// solicitation within 0.5 s (MAX_RA_DELAY_TIME, RFC 4861 section 10), or
	// 3 s later if it has just advertised (MIN_DELAY_BETWEEN_RAS).
	listenTime = 4 * time.Second
	// interval is between unsolicited advertisements. RFC 4861 section 6.2.1
	// allows 4 s to 30 min. Short, for firmware whose solicitation got lost;
	// one a minute is nothing.
	interval = time.Minute
	// minDelay is the least time between two advertisements to everybody
	// (MIN_DELAY_BETWEEN_RAS, RFC 4861 section 10).
	minDelay = 3 * time.Second
)

// Advertiser decides when to advertise and to whom.
type Advertiser struct {
	start time.Time
	last  time.Time // of the advertisements to all nodes
	// Foreign is the router that was heard; invalid as long as there is none.
	Foreign netip.Addr
	// pending means a solicitation from nowhere waits for an advertisement.
	pending bool
}

// Network is what machines are told of the network.
type Network struct {
	// Prefix is a /64 to make addresses of; invalid for none.
	Prefix netip.Prefix
	DNS    []netip.Addr
}

// lifetime is how long an address of the prefix lasts without another
// advertisement: as long as package dhcp6's.
const lifetime = 12 * time.Hour

// NewAdvertiser returns an advertiser that starts to listen now; the caller
// sends a router solicitation then.
func NewAdvertiser(now time.Time) *Advertiser { return &Advertiser{start: now} }

// allNodes is the destination of unsolicited advertisements (RFC 4861
// section 4.2), allRouters that of solicitations (section 4.1).
func allNodes() netip.Addr   { return netip.MustParseAddr("ff02::1") }
func allRouters() netip.Addr { return netip.MustParseAddr("ff02::2") }

// Receive takes a message that came with the given hop limit and returns where
// to send an advertisement at once; invalid if nowhere.
func (a *Advertiser) Receive(m ndp.Message, from netip.Addr, hopLimit int, now time.Time) netip.Addr {
	if hopLimit != ndp.HopLimit || a.Foreign.IsValid() { // RFC 4861 section 6.1: it crossed a router
		return netip.Addr{}
	}
	switch m := m.(type) {
	case *ndp.RouterAdvertisement:
		if from.IsLinkLocalUnicast() && speaks(m) {
			a.Foreign = from
		}
	case *ndp.RouterSolicitation:
		if now.Before(a.start.Add(listenTime)) {
			return netip.Addr{} // the first advertisement will serve it
		}
		if from.IsUnspecified() {
			a.pending = true
			return netip.Addr{}
		}
		return from
	}
	return netip.Addr{}
}

// speaks reports whether an advertisement is a router's, or tells hosts
// anything at all. Another boot server's does not: two of them would silence
// each other.
func speaks(m *ndp.RouterAdvertisement) bool {
	if m.RouterLifetime > 0 || m.ManagedConfiguration || m.OtherConfiguration {
		return true
	}
	for _, o := range m.Options {
		switch o.(type) {
		case *ndp.LinkLayerAddress, *ndp.Nonce:
		default:
			return true
		}
	}
	return false
}

// Next is when Tick is to be called next; false if never again.
func (a *Advertiser) Next() (time.Time, bool) {
	switch {
	case a.Foreign.IsValid():
		return time.Time{}, false
	case a.last.IsZero():
		return a.start.Add(listenTime), true
	case a.pending:
		return a.last.Add(minDelay), true
	}
	return a.last.Add(interval), true
}

// Tick reports whether to advertise to all nodes now.
func (a *Advertiser) Tick(now time.Time) bool {
	next, ok := a.Next()
	if !ok || now.Before(next) {
		return false
	}
	a.last, a.pending = now, false
	return true
}

// advertisement is what we send (RFC 4861 section 4.2): the lifetime of a
// router that is none, and with a prefix that addresses are made of it
// (section 4.6.2), that DHCPv6 has the rest, and name servers (RFC 8106).
func advertisement(source net.HardwareAddr, n Network) *ndp.RouterAdvertisement {
	m := &ndp.RouterAdvertisement{RouterSelectionPreference: ndp.Medium}
	if len(source) == 6 {
		m.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: source}}
	}
	if !n.Prefix.IsValid() {
		return m
	}
	m.OtherConfiguration = true
	m.Options = append(m.Options, &ndp.PrefixInformation{
		PrefixLength: uint8(n.Prefix.Bits()), Prefix: n.Prefix.Masked().Addr(), OnLink: true, AutonomousAddressConfiguration: true,
		ValidLifetime: lifetime, PreferredLifetime: lifetime,
	})
	if len(n.DNS) > 0 {
		m.Options = append(m.Options, &ndp.RecursiveDNSServer{Lifetime: lifetime, Servers: n.DNS})
	}
	return m
}
