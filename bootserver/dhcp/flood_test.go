package dhcp_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// TestFlood: a hundred thousand machines that do not exist take the pool and no
// more, neither memory nor disk, and who has a lease keeps it.
func TestFlood(t *testing.T) {
	g := newRig(t, "10.0.0.100-10.0.0.131")
	g.want("ack 10.0.0.110", request, 1, us, "req=10.0.0.110")
	offered := 0
	for n := range 100000 {
		hw := net.HardwareAddr{6, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
		if m, err := g.handle(dhcpv4.WithMessageType(discover), dhcpv4.WithHwAddr(hw)); err == nil && m != nil {
			offered++
		}
		if n%1000 == 0 {
			g.now = g.now.Add(time.Second)
		}
	}
	if offered > 31*3 || len(g.store.m) != 32 {
		t.Errorf("%d offers, %d leases in the store", offered, len(g.store.m))
	}
	g.want("ack 10.0.0.110", request, 1, "ci=10.0.0.110")
	g.want("offer 10.0.0.110", discover, 1)
}

// FuzzHandle throws bytes at a responder. Whatever comes, an address it gives
// is in a pool or kept for that machine, is nobody else's, and its reply can be read back.
func FuzzHandle(f *testing.F) {
	for _, mods := range [][]dhcpv4.Modifier{
		{dhcpv4.WithMessageType(discover), dhcpv4.WithHwAddr(mac(1))},
		{dhcpv4.WithMessageType(request), dhcpv4.WithHwAddr(mac(2)), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IP{10, 0, 0, 101})), arch(iana.EFI_X86_64)},
		{dhcpv4.WithMessageType(decline), dhcpv4.WithHwAddr(mac(3)), dhcpv4.WithUserClass("iPXE", true), class("PXEClient")},
		{dhcpv4.WithMessageType(discover), dhcpv4.WithHwAddr(mac(7)), dhcpv4.WithGatewayIP(net.IP{10, 1, 0, 1}), dhcpv4.WithGeneric(dhcpv4.OptionRelayAgentInformation, []byte{5, 4, 10, 0, 0, 0})},
		{dhcpv4.WithMessageType(request), dhcpv4.WithHwAddr(mac(9)), dhcpv4.WithClientIP(net.IP{10, 1, 0, 5})},
	} {
		m, err := dhcpv4.New(mods...)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.ToBytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		g := newCampus(t)
		g.want("ack 10.0.0.100", request, 77, us, "req=10.0.0.100")
		given := func(a netip.Addr, mac string) bool {
			for _, r := range g.cfg.Reservations {
				if r.Addr == a {
					return r.MAC == mac
				}
			}
			for _, s := range g.cfg.Subnets {
				for _, p := range s.Pools {
					if p.Contains(a) {
						return true
					}
				}
			}
			return false
		}
		for range 2 {
			req, err := dhcpv4.FromBytes(b)
			if err != nil {
				return
			}
			reply, err := g.r.Handle(t.Context(), req, g.now)
			if err != nil {
				continue
			}
			back, err := dhcpv4.FromBytes(reply.ToBytes())
			if err != nil {
				t.Fatalf("our reply cannot be read: %v", err)
			}
			a, _ := netip.AddrFromSlice(back.YourIPAddr.To4())
			if !a.IsUnspecified() && (!given(a, req.ClientHWAddr.String()) || a.String() == "10.0.0.100" && req.ClientHWAddr.String() != mac(77).String()) {
				t.Fatalf("gives %v to %v", a, req.ClientHWAddr)
			}
		}
	})
}
