package dhcp

import (
	"context"
	"fmt"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Proxy tells network boot firmware what to boot beside another DHCP server,
// which gives the address (PXE 2.1 section 2.2). It leases nothing and keeps
// no state. Handle is for port 67, HandleBoot for port 4011.
//
// What firmware makes of the answers decides their form:
//   - A BIOS ROM takes the file from the offer if option 43 says that there is
//     nothing to discover; without option 43 some show a menu or give up.
//   - UEFI firmware of before 2017 drops an offer with option 43 by mistake
//     (edk2 issue 6944). All of it takes one without: it leases its address
//     and then asks the offer's server on port 4011 again.
//   - HTTP Boot and iPXE take the file from the offer. iPXE of before 2012
//     asks on port 4011 all the same.
type Proxy struct {
	cfg BootConfig
}

// NewProxy returns a Proxy or says why the config cannot work.
func NewProxy(cfg BootConfig) (*Proxy, error) {
	if !cfg.Server.Is4() {
		return nil, fmt.Errorf("dhcp: server address %v is no IPv4 address", cfg.Server)
	}
	return &Proxy{cfg}, nil
}

// Handle answers what came to port 67: the DHCPDISCOVER of firmware, with an
// offer of no address.
func (p *Proxy) Handle(_ context.Context, req *dhcpv4.DHCPv4, _ time.Time) (*dhcpv4.DHCPv4, error) {
	if err := checkRequest(req); err != nil {
		return nil, err
	}
	if kind := req.MessageType(); kind != dhcpv4.MessageTypeDiscover {
		return nil, ignore("%v is for the server that leases", kind)
	}
	return p.reply(req, dhcpv4.MessageTypeOffer)
}

// HandleBoot answers what came to port 4011: firmware that has its address by
// now and asks for its file.
func (p *Proxy) HandleBoot(_ context.Context, req *dhcpv4.DHCPv4, _ time.Time) (*dhcpv4.DHCPv4, error) {
	if err := checkRequest(req); err != nil {
		return nil, err
	}
	switch kind := req.MessageType(); {
	case kind != dhcpv4.MessageTypeRequest && kind != dhcpv4.MessageTypeInform:
		return nil, ignore("%v on port %d", kind, BootServerPort)
	case !addr(req.ClientIPAddr).IsValid():
		return nil, ignore("%v on port %d without an address to answer to", kind, BootServerPort)
	}
	return p.reply(req, dhcpv4.MessageTypeAck)
}

func (p *Proxy) reply(req *dhcpv4.DHCPv4, kind dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	c := Identify(req)
	file, err := p.cfg.file(c)
	if err != nil {
		return nil, err
	}
	if file == "" {
		return nil, ignore("nothing to boot for firmware %v, %v", c.Firmware, c.Arch)
	}
	m, err := newReply(req, kind, p.cfg.Server)
	if err != nil {
		return nil, err
	}
	p.cfg.setFile(m, file)
	// Without its own class in the answer, firmware takes it for one of a
	// server that leases, and bad at it.
	class := classPXE
	if c.Firmware == HTTPBoot {
		class = classHTTP
	}
	m.UpdateOption(dhcpv4.OptClassIdentifier(class))
	if vendor := p.vendor(req, c); vendor != nil {
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, vendor))
	}
	return m, nil
}

// vendor returns option 43: for a BIOS ROM that there is nothing to discover;
// and to all who ask for a boot item, that this is the one (PXE 2.1 section
// 2.2.4: the answer repeats it).
func (p *Proxy) vendor(req *dhcpv4.DHCPv4, c Client) []byte {
	var b []byte
	if c.Firmware == PXE && c.Arch == archBIOS {
		b = append(b, pxeDiscoveryControl, 1, discoveryBypass)
	}
	var asked dhcpv4.Options = dhcpv4.Options{}
	if err := asked.FromBytes(req.Options.Get(dhcpv4.OptionVendorSpecificInformation)); err == nil {
		if item := asked.Get(dhcpv4.GenericOptionCode(pxeBootItem)); len(item) == 4 {
			b = append(append(b, pxeBootItem, 4), item...)
		}
	}
	if b == nil {
		return nil
	}
	return append(b, pxeEnd)
}
