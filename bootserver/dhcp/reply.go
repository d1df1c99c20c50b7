package dhcp

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// reply builds an OFFER or ACK (RFC 2131 table 3). An invalid your answers a
// DHCPINFORM: no address and no times.
func (r *Responder) reply(req *dhcpv4.DHCPv4, kind dhcpv4.MessageType, your netip.Addr) (*dhcpv4.DHCPv4, error) {
	m, err := newReply(req, kind, r.cfg.Server)
	if err != nil {
		return nil, err
	}
	sub := r.cfg.Subnet.Masked()
	m.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(sub.Bits(), 32)))
	m.UpdateOption(dhcpv4.OptBroadcastAddress(ip(broadcast(sub))))
	if r.cfg.Router.IsValid() {
		m.UpdateOption(dhcpv4.OptRouter(ip(r.cfg.Router)))
	}
	if len(r.cfg.DNS) > 0 {
		var dns []net.IP
		for _, a := range r.cfg.DNS {
			dns = append(dns, ip(a))
		}
		m.UpdateOption(dhcpv4.OptDNS(dns...))
	}
	if your.IsValid() {
		m.YourIPAddr = ip(your)
		m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(r.cfg.LeaseTime))
		m.UpdateOption(dhcpv4.OptRenewTimeValue(r.cfg.LeaseTime / 2))
		m.UpdateOption(dhcpv4.OptRebindingTimeValue((r.cfg.LeaseTime * 7 / 8).Truncate(time.Second)))
	}
	return m, r.cfg.add(m, Identify(req))
}

// nak refuses an address (RFC 2131 table 3).
func (r *Responder) nak(req *dhcpv4.DHCPv4, why string) (*dhcpv4.DHCPv4, error) {
	m, err := newReply(req, dhcpv4.MessageTypeNak, r.cfg.Server)
	if err != nil {
		return nil, err
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
