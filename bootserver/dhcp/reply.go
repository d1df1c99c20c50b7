package dhcp

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// reply builds an OFFER or ACK (RFC 2131 table 3). An invalid your answers a
// DHCPINFORM: no address and no times.
func (r *Responder) reply(a asker, kind dhcpv4.MessageType, your netip.Addr) (*dhcpv4.DHCPv4, error) {
	m, err := newReply(a.req, kind, r.cfg.Server)
	if err != nil {
		return nil, err
	}
	m.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(a.Prefix.Bits(), 32)))
	m.UpdateOption(dhcpv4.OptBroadcastAddress(ip(broadcast(a.Prefix))))
	if a.Router.IsValid() {
		m.UpdateOption(dhcpv4.OptRouter(ip(a.Router)))
	}
	if len(a.DNS) > 0 {
		var dns []net.IP
		for _, server := range a.DNS {
			dns = append(dns, ip(server))
		}
		m.UpdateOption(dhcpv4.OptDNS(dns...))
	}
	if your.IsValid() {
		m.YourIPAddr = ip(your)
		m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(a.LeaseTime))
		m.UpdateOption(dhcpv4.OptRenewTimeValue((a.LeaseTime / 2).Truncate(time.Second)))
		m.UpdateOption(dhcpv4.OptRebindingTimeValue((a.LeaseTime / 8 * 7).Truncate(time.Second)))
	}
	return m, r.cfg.add(m, Identify(a.req))
}

// nak refuses an address (RFC 2131 table 3).
func (r *Responder) nak(a asker, why string) (*dhcpv4.DHCPv4, error) {
	m, err := newReply(a.req, dhcpv4.MessageTypeNak, r.cfg.Server)
	if err != nil {
		return nil, err
	}
	// Its address is none that a relay could send this to (section 4.1).
	if addr(a.req.GatewayIPAddr).IsValid() {
		m.SetBroadcast()
	}
	m.UpdateOption(dhcpv4.OptMessage(why))
	return m, nil
}

// Destination is where a reply of port 67 goes (RFC 2131 section 4.1): to the
// relay that the request came through, to the client's address if it has one
// and is not refused, else to everybody on the link. The fourth way, to the
// hardware address that has no IP address yet, is for networks that mind
// broadcasts; every client takes a broadcast.
func Destination(req, reply *dhcpv4.DHCPv4) netip.AddrPort {
	if relay := addr(req.GatewayIPAddr); relay.IsValid() {
		return netip.AddrPortFrom(relay, dhcpv4.ServerPort)
	}
	to := addr(req.ClientIPAddr)
	if !to.IsValid() || reply.MessageType() == dhcpv4.MessageTypeNak {
		to = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	return netip.AddrPortFrom(to, dhcpv4.ClientPort)
}

func ip(a netip.Addr) net.IP { return net.IP(a.AsSlice()) }
