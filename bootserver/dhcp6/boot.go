package dhcp6

import (
	"bytes"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"huck/bootserver/dhcp"
)

const (
	// classHTTP is how the vendor class of UEFI HTTP Boot begins; it takes no
	// offer that does not say so, too (UEFI 2.10 section 24.7.3.1).
	classHTTP = "HTTPClient"
	// archHTTP is x86-64 that loads by HTTP (RFC 4578's registry).
	archHTTP = 16
)

// Identify reads what a message says about the client's firmware.
func Identify(req *dhcpv6.Message, from netip.Addr) dhcp.Client {
	c := dhcp.Client{MAC: mac(req, from), Firmware: dhcp.System}
	archs := req.Options.ArchTypes()
	if len(archs) > 0 {
		c.Arch, c.Firmware = archs[0], dhcp.PXE
	}
	if c.Firmware == dhcp.PXE && (c.Arch == archHTTP || httpClass(req) != nil) {
		c.Firmware = dhcp.HTTPBoot
	}
	for _, class := range req.Options.UserClasses() {
		if bytes.Contains(class, []byte("iPXE")) {
			c.Firmware = dhcp.IPXE
		}
	}
	return c
}

// httpClass returns the vendor class of UEFI HTTP Boot, nil if there is none.
func httpClass(req *dhcpv6.Message) *dhcpv6.OptVendorClass {
	for _, v := range req.Options.VendorClasses() {
		for _, text := range v.Data {
			if bytes.HasPrefix(text, []byte(classHTTP)) {
				return v
			}
		}
	}
	return nil
}

// mac is the client's hardware address: of its identifier, or of an address
// made of it; nil if neither tells.
func mac(req *dhcpv6.Message, from netip.Addr) net.HardwareAddr {
	var hw net.HardwareAddr
	switch id := req.Options.ClientID().(type) {
	case *dhcpv6.DUIDLL:
		hw = id.LinkLayerAddr
	case *dhcpv6.DUIDLLT:
		hw = id.LinkLayerAddr
	}
	if len(hw) == 6 {
		return hw
	}
	// RFC 4291 appendix A.
	if b := from.As16(); from.Is6() && b[11] == 0xff && b[12] == 0xfe {
		return net.HardwareAddr{b[8] ^ 2, b[9], b[10], b[13], b[14], b[15]}
	}
	return nil
}

// tell adds what a client asks for beside addresses.
func (r *Responder) tell(req, reply *dhcpv6.Message, from netip.Addr) {
	if len(r.cfg.DNS) > 0 && req.IsOptionRequested(dhcpv6.OptionDNSRecursiveNameServer) {
		var ips []net.IP
		for _, a := range r.cfg.DNS {
			ips = append(ips, a.AsSlice())
		}
		reply.AddOption(dhcpv6.OptDNS(ips...))
	}
	c := Identify(req, from)
	file := r.cfg.ServerURL
	if c.Firmware == dhcp.System {
		if !req.IsOptionRequested(dhcpv6.OptionBootfileURL) {
			return
		}
	} else if file = ""; r.cfg.BootURL != nil {
		file = r.cfg.BootURL(c)
	}
	if file == "" {
		return
	}
	reply.AddOption(dhcpv6.OptBootFileURL(file))
	if c.Firmware == dhcp.HTTPBoot {
		v := &dhcpv6.OptVendorClass{Data: [][]byte{[]byte(classHTTP)}}
		if theirs := httpClass(req); theirs != nil {
			v.EnterpriseNumber = theirs.EnterpriseNumber
		}
		reply.AddOption(v)
	}
}
