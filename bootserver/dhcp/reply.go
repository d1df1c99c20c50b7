package dhcp

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// maxBootFile is the room in the header's file field, less the final zero
// (RFC 2131 section 2).
const maxBootFile = 127

// optionIPXE carries iPXE's encapsulated options; iPXE always sends it.
const optionIPXE = dhcpv4.GenericOptionCode(175)

// Identify reads what a request says about the client's firmware.
func Identify(req *dhcpv4.DHCPv4) Client {
	c := Client{MAC: req.ClientHWAddr}
	c.PXE = strings.HasPrefix(req.ClassIdentifier(), "PXEClient")
	// iPXE sends its user class as bare text, not as RFC 3004 has it.
	c.IPXE = req.Options.Has(optionIPXE) || bytes.Contains(req.Options.Get(dhcpv4.OptionUserClassInformation), []byte("iPXE"))
	if archs := req.ClientArch(); len(archs) > 0 {
		c.Arch = archs[0]
	}
	return c
}

// reply builds an OFFER or ACK (RFC 2131 table 3). An invalid your answers a
// DHCPINFORM: no address and no times.
func (r *Responder) reply(req *dhcpv4.DHCPv4, kind dhcpv4.MessageType, your netip.Addr) (*dhcpv4.DHCPv4, error) {
	m, err := r.newReply(req, kind)
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
	return m, r.addBoot(m, Identify(req))
}

// addBoot tells network boot firmware its file, in the header and as options:
// each ROM reads one of the two. Everybody else learns the server's URL.
func (r *Responder) addBoot(m *dhcpv4.DHCPv4, c Client) error {
	if !c.PXE && !c.IPXE {
		if r.cfg.ServerURL != "" {
			m.UpdateOption(dhcpv4.OptGeneric(OptionServerURL, []byte(r.cfg.ServerURL)))
		}
		return nil
	}
	if r.cfg.BootFile == nil {
		return nil
	}
	file := r.cfg.BootFile(c).File
	if file == "" {
		return nil
	}
	if len(file) > maxBootFile {
		return fmt.Errorf("dhcp: boot file %q is longer than %d bytes", file, maxBootFile)
	}
	m.ServerIPAddr = ip(r.cfg.Server)
	m.BootFileName = file
	m.UpdateOption(dhcpv4.OptTFTPServerName(r.cfg.Server.String()))
	m.UpdateOption(dhcpv4.OptBootFileName(file))
	return nil
}

// nak refuses an address (RFC 2131 table 3).
func (r *Responder) nak(req *dhcpv4.DHCPv4, why string) (*dhcpv4.DHCPv4, error) {
	m, err := r.newReply(req, dhcpv4.MessageTypeNak)
	if err != nil {
		return nil, err
	}
	m.UpdateOption(dhcpv4.OptMessage(why))
	return m, nil
}

func (r *Responder) newReply(req *dhcpv4.DHCPv4, kind dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	m, err := dhcpv4.NewReplyFromRequest(req)
	if err != nil {
		return nil, fmt.Errorf("dhcp: reply to %v: %v", req.ClientHWAddr, err)
	}
	m.HWType = iana.HWTypeEthernet
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	m.UpdateOption(dhcpv4.OptServerIdentifier(ip(r.cfg.Server)))
	if kind != dhcpv4.MessageTypeNak {
		// RFC 2131 table 3; NAKs carry no ciaddr.
		m.ClientIPAddr = req.ClientIPAddr
	}
	if kind == dhcpv4.MessageTypeOffer {
		m.ClientIPAddr = net.IPv4zero
	}
	// RFC 6842: the client identifier comes back unchanged.
	if id := req.Options.Get(dhcpv4.OptionClientIdentifier); id != nil {
		m.UpdateOption(dhcpv4.OptClientIdentifier(id))
	}
	// Bytes of the request that echo in the reply end here.
	m.HopCount = 0
	return m, nil
}

// Destination is where a reply goes (RFC 2131 section 4.1): to the client's
// address if it has one and is not refused, else to everybody on the link. The
// third way, to the hardware address that has no IP address yet, is for
// networks that mind broadcasts; every client takes a broadcast.
func Destination(req, reply *dhcpv4.DHCPv4) netip.AddrPort {
	to := addr(req.ClientIPAddr)
	if !to.IsValid() || reply.MessageType() == dhcpv4.MessageTypeNak {
		to = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	return netip.AddrPortFrom(to, dhcpv4.ClientPort)
}

func ip(a netip.Addr) net.IP { return net.IP(a.AsSlice()) }
