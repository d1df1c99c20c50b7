package dhcp

import (
	"fmt"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// OptionServerURL is the option that tells the appliance its boot server's
// URL, from the range for private use (RFC 3942 section 3). BOOTING.md.
const OptionServerURL = dhcpv4.GenericOptionCode(224)

// Boot is the boot file for a client; none if File is empty.
type Boot struct {
	// File is a TFTP path on this server or, for iPXE and HTTP Boot, a URL; at
	// most 127 bytes, the size of the header's field.
	File string
}

// BootConfig is what both kinds of server tell firmware.
type BootConfig struct {
	// Server is our own address on the interface served.
	Server netip.Addr
	// BootFile says what a machine is to boot, see Boot. It must not block.
	BootFile func(Client) Boot
	// ServerURL goes into OptionServerURL; empty sends none.
	ServerURL string
}

const (
	// maxBootFile is the room in the header's file field, less the final zero
	// (RFC 2131 section 2).
	maxBootFile = 127
	// optionUUID is the client's machine identifier (RFC 4578 section 2.3).
	optionUUID = dhcpv4.GenericOptionCode(97)
)

// Vendor options of PXE, in option 43 (PXE 2.1 table 2-1).
const (
	pxeDiscoveryControl = 6
	pxeBootItem         = 71
	pxeEnd              = 255
	// discoveryBypass is bit 3 of the discovery control: no menu, no search for
	// a boot server, take the file that this very message names.
	discoveryBypass = 8
)

// noProxy is iPXE's no-pxedhcp (option 176 inside 175), set: do not wait for a
// proxyDHCP server, which takes it 2 s.
var noProxy = []byte{0xb0, 1, 1}

// file returns the boot file for a client, empty if there is none.
func (b BootConfig) file(c Client) (string, error) {
	if c.Firmware == System || b.BootFile == nil {
		return "", nil
	}
	file := b.BootFile(c).File
	if len(file) > maxBootFile {
		return "", fmt.Errorf("dhcp: boot file %q is longer than %d bytes", file, maxBootFile)
	}
	return file, nil
}

// add tells firmware its file, in the header and as options: each ROM reads
// one of the two. Everybody else learns the server's URL.
func (b BootConfig) add(m *dhcpv4.DHCPv4, c Client) error {
	if c.Firmware == System {
		if b.ServerURL != "" {
			m.UpdateOption(dhcpv4.OptGeneric(OptionServerURL, []byte(b.ServerURL)))
		}
		return nil
	}
	file, err := b.file(c)
	if file == "" || err != nil {
		return err
	}
	b.setFile(m, file)
	switch c.Firmware {
	case HTTPBoot:
		m.UpdateOption(dhcpv4.OptClassIdentifier(classHTTP))
	case IPXE:
		m.UpdateOption(dhcpv4.OptGeneric(optionIPXE, noProxy))
	}
	return nil
}

func (b BootConfig) setFile(m *dhcpv4.DHCPv4, file string) {
	m.ServerIPAddr = ip(b.Server)
	m.BootFileName = file
	m.UpdateOption(dhcpv4.OptTFTPServerName(b.Server.String()))
	m.UpdateOption(dhcpv4.OptBootFileName(file))
}

// newReply begins an answer to req: RFC 2131 table 3; unchanged come back the
// identifiers of client (RFC 6842) and machine (RFC 4578 section 2.3), the
// relay's option 82 (RFC 3046 section 2.2) and 118 (RFC 3011).
func newReply(req *dhcpv4.DHCPv4, kind dhcpv4.MessageType, server netip.Addr) (*dhcpv4.DHCPv4, error) {
	m, err := dhcpv4.NewReplyFromRequest(req)
	if err != nil {
		return nil, fmt.Errorf("dhcp: reply to %v: %v", req.ClientHWAddr, err)
	}
	m.HWType = iana.HWTypeEthernet
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	m.UpdateOption(dhcpv4.OptServerIdentifier(ip(server)))
	if kind == dhcpv4.MessageTypeAck {
		m.ClientIPAddr = req.ClientIPAddr
	}
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionClientIdentifier, optionUUID, dhcpv4.OptionRelayAgentInformation, dhcpv4.OptionSubnetSelection} {
		if b := req.Options.Get(code); b != nil {
			m.UpdateOption(dhcpv4.OptGeneric(code, b))
		}
	}
	// Bytes of the request that echo in the reply end here.
	m.HopCount = 0
	return m, nil
}
