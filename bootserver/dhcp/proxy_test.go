package dhcp_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"huck/bootserver/dhcp"
)

const (
	optionIPXE   = dhcpv4.GenericOptionCode(175)
	optionUUID   = dhcpv4.GenericOptionCode(97)
	optionVendor = dhcpv4.GenericOptionCode(43)
	script       = "http://10.0.0.1:8480/boot/ipxe"
)

// firmware is the options that machines send, taken from captures of the
// real ones.
var firmware = map[string][]dhcpv4.Modifier{
	"BIOS":      {class("PXEClient:Arch:00000:UNDI:002001"), arch(iana.INTEL_X86PC), uuid},
	"UEFI":      {class("PXEClient:Arch:00007:UNDI:003000"), arch(iana.EFI_X86_64), uuid},
	"UEFI BC":   {class("PXEClient:Arch:00009:UNDI:003016"), arch(iana.EFI_BC), uuid},
	"HTTP":      {class("HTTPClient:Arch:00016:UNDI:003001"), arch(iana.EFI_X86_64_HTTP), uuid},
	"iPXE":      {class("PXEClient:Arch:00000:UNDI:002001"), arch(iana.INTEL_X86PC), dhcpv4.WithGeneric(optionIPXE, []byte{177, 1, 1}), dhcpv4.WithUserClass("iPXE", false), uuid},
	"UEFI iPXE": {class("PXEClient:Arch:00007:UNDI:003010"), arch(iana.EFI_X86_64), dhcpv4.WithGeneric(optionIPXE, []byte{177, 1, 1}), uuid},
}

func uuid(d *dhcpv4.DHCPv4) {
	d.UpdateOption(dhcpv4.OptGeneric(optionUUID, append([]byte{0}, "0123456789abcdef"...)))
}

// ask makes a request of client 1 and sends it through its bytes.
func ask(t testing.TB, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	req, err := dhcpv4.New(append(mods, dhcpv4.WithMessageType(kind), dhcpv4.WithHwAddr(mac(1)))...)
	if err == nil {
		req, err = dhcpv4.FromBytes(req.ToBytes())
	}
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func newProxy(t testing.TB) *dhcp.Proxy {
	t.Helper()
	p, err := dhcp.NewProxy(bootConfig)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestProxyOffers: the file and the form of an offer by firmware.
func TestProxyOffers(t *testing.T) {
	p := newProxy(t)
	for name, want := range map[string]struct{ file, class, vendor string }{
		"BIOS":      {"undionly.kpxe", "PXEClient", "\x06\x01\x08\xff"},
		"UEFI":      {"huck.efi", "PXEClient", ""},
		"UEFI BC":   {"huck.efi", "PXEClient", ""},
		"HTTP":      {"http://10.0.0.1:8480/boot/huck.efi", "HTTPClient", ""},
		"iPXE":      {script, "PXEClient", ""},
		"UEFI iPXE": {script, "PXEClient", ""},
	} {
		m, err := p.Handle(t.Context(), ask(t, discover, firmware[name]...), start)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.BootFileName != want.file || m.BootFileNameOption() != want.file || m.ClassIdentifier() != want.class || string(m.Options.Get(optionVendor)) != want.vendor {
			t.Errorf("%s: file %q, class %q, vendor %q", name, m.BootFileName, m.ClassIdentifier(), m.Options.Get(optionVendor))
		}
		if m.MessageType() != dhcpv4.MessageTypeOffer || !m.YourIPAddr.IsUnspecified() || m.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || m.Options.Has(dhcpv4.OptionSubnetMask) {
			t.Errorf("%s: it leases: %s", name, m.Summary())
		}
		if m.ServerIPAddr.String() != "10.0.0.1" || m.ServerIdentifier().String() != "10.0.0.1" || string(m.Options.Get(optionUUID)) != "\x000123456789abcdef" {
			t.Errorf("%s: next server, server or UUID: %s", name, m.Summary())
		}
	}
}

// TestProxyBootServer: what firmware gets that asks on port 4011.
func TestProxyBootServer(t *testing.T) {
	p := newProxy(t)
	self := dhcpv4.WithClientIP(net.IP{10, 0, 0, 7})
	m, err := p.HandleBoot(t.Context(), ask(t, request, append(firmware["UEFI"], self)...), start)
	if err != nil {
		t.Fatal(err)
	}
	if m.MessageType() != dhcpv4.MessageTypeAck || m.BootFileName != "huck.efi" || m.ClientIPAddr.String() != "10.0.0.7" || m.Options.Has(optionVendor) {
		t.Errorf("UEFI: %s", m.Summary())
	}
	// Who asks for a boot item is told that this is it.
	item := dhcpv4.WithGeneric(optionVendor, []byte{71, 4, 0, 3, 0, 0, 255})
	if m, err = p.HandleBoot(t.Context(), ask(t, inform, append(firmware["BIOS"], self, item)...), start); err != nil {
		t.Fatal(err)
	}
	if got := string(m.Options.Get(optionVendor)); got != "\x06\x01\x08\x47\x04\x00\x03\x00\x00\xff" {
		t.Errorf("vendor options %q", got)
	}
	for name, req := range map[string]*dhcpv4.DHCPv4{
		"no address": ask(t, request, firmware["UEFI"]...),
		"a DISCOVER": ask(t, discover, append(firmware["UEFI"], self)...),
		"a system":   ask(t, request, self),
	} {
		if m, err := p.HandleBoot(t.Context(), req, start); !errors.Is(err, dhcp.ErrIgnored) {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
}

// TestProxySilence: what is not ours to answer.
func TestProxySilence(t *testing.T) {
	p := newProxy(t)
	for name, req := range map[string]*dhcpv4.DHCPv4{
		"a system":     ask(t, discover),
		"a telephone":  ask(t, discover, class("udhcp 1.36")),
		"a REQUEST":    ask(t, request, firmware["BIOS"]...),
		"an INFORM":    ask(t, inform, append(firmware["BIOS"], dhcpv4.WithClientIP(net.IP{10, 0, 0, 7}))...),
		"no file":      ask(t, discover, class("PXEClient:Arch:00011:UNDI:003000"), arch(iana.EFI_ARM64)),
		"a reply":      ask(t, discover, append(firmware["BIOS"], func(d *dhcpv4.DHCPv4) { d.OpCode = dhcpv4.OpcodeBootReply })...),
		"not Ethernet": ask(t, discover, append(firmware["BIOS"], dhcpv4.WithHWType(iana.HWTypeInfiniband))...),
	} {
		if m, err := p.Handle(t.Context(), req, start); !errors.Is(err, dhcp.ErrIgnored) {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
	if _, err := dhcp.NewProxy(dhcp.BootConfig{Server: netip.MustParseAddr("fd00::1")}); err == nil {
		t.Error("an IPv6 server is accepted")
	}
}

// FuzzProxy throws bytes at both ports of a proxy. Whatever comes, an answer
// gives no address and can be read back.
func FuzzProxy(f *testing.F) {
	for _, mods := range firmware {
		f.Add(ask(f, discover, mods...).ToBytes())
		f.Add(ask(f, request, append(mods, dhcpv4.WithClientIP(net.IP{10, 0, 0, 7}), dhcpv4.WithGeneric(optionVendor, []byte{71, 4, 0, 3, 0, 0, 255}))...).ToBytes())
	}
	p := newProxy(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		req, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		for _, handle := range []dhcp.Handler{p.Handle, p.HandleBoot} {
			reply, err := handle(t.Context(), req, start)
			if err != nil {
				continue
			}
			back, err := dhcpv4.FromBytes(reply.ToBytes())
			if err != nil {
				t.Fatalf("our reply cannot be read: %v", err)
			}
			if !back.YourIPAddr.IsUnspecified() || back.BootFileName == "" || back.ClassIdentifier() == "" {
				t.Fatalf("reply %s", back.Summary())
			}
		}
	})
}
