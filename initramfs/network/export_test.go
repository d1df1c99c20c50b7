package network

import (
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/mdlayher/ndp"
)

// Reply6 is read6 for tests: the address, the server's URL and the times to
// renew and rebind, from a start.
func Reply6(m *dhcpv6.Message, address bool) (addr netip.Addr, server string, renew, rebind time.Duration, err error) {
	now := time.Now()
	s, err := read6(m, address, now)
	if err != nil {
		return netip.Addr{}, "", 0, 0, err
	}
	if s.server != nil {
		server = s.server.String()
	}
	if s.addr.IsValid() {
		renew, rebind = s.renew.Sub(now), s.rebind.Sub(now)
	}
	return s.addr, server, renew, rebind, nil
}

// Useful tells what an advertisement is good for.
func Useful(m *ndp.RouterAdvertisement) (useful, managed, other bool) {
	a := read(m, netip.MustParseAddr("fe80::1"))
	return a.useful(), a.managed, a.other
}
