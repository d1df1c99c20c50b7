package dhcp

import (
	"bytes"
	"net"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// Firmware is the kind of program that asks for an address.
type Firmware int

// The kinds of firmware. Everything that does not say it boots from the network
// is System: an installed system, our appliance, a telephone.
const (
	System Firmware = iota
	// PXE is a network boot ROM: option 60 begins with PXEClient (PXE 2.1
	// section 2.2.1). It loads by TFTP.
	PXE
	// HTTPBoot is UEFI HTTP Boot: option 60 begins with HTTPClient (UEFI 2.10
	// section 24.7.2). It takes no offer that does not say so, too.
	HTTPBoot
	// IPXE is iPXE itself: option 175 or the user class iPXE.
	IPXE
)

// String is for logs.
func (f Firmware) String() string {
	switch f {
	case PXE:
		return "PXE"
	case HTTPBoot:
		return "HTTP Boot"
	case IPXE:
		return "iPXE"
	}
	return "none"
}

// Client is what a request tells of a client's firmware.
type Client struct {
	MAC      net.HardwareAddr
	Firmware Firmware
	// Arch is the client's system architecture (RFC 4578 section 2.1); BIOS
	// if it says none.
	Arch iana.Arch
}

// archBIOS is what a BIOS ROM says, or one that says nothing.
const archBIOS = iana.INTEL_X86PC

// How option 60 of firmware begins, and what our answers to it say.
const (
	classPXE  = "PXEClient"
	classHTTP = "HTTPClient"
)

// optionIPXE carries iPXE's encapsulated options; iPXE always sends it.
const optionIPXE = dhcpv4.GenericOptionCode(175)

// Identify reads what a request says about the client's firmware.
func Identify(req *dhcpv4.DHCPv4) Client {
	c := Client{MAC: req.ClientHWAddr}
	class := req.ClassIdentifier()
	switch {
	// iPXE says that it is a PXEClient, too, and sends its user class as bare
	// text, not as RFC 3004 has it.
	case req.Options.Has(optionIPXE) || bytes.Contains(req.Options.Get(dhcpv4.OptionUserClassInformation), []byte("iPXE")):
		c.Firmware = IPXE
	case strings.HasPrefix(class, classPXE):
		c.Firmware = PXE
	case strings.HasPrefix(class, classHTTP):
		c.Firmware = HTTPBoot
	}
	if archs := req.ClientArch(); len(archs) > 0 {
		c.Arch = archs[0]
	}
	return c
}
