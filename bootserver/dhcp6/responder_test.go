package dhcp6_test

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"huck/bootserver/dhcp"
	"huck/bootserver/dhcp6"
)

var (
	serverMAC = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}
	clientMAC = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 2}
	prefix    = netip.MustParsePrefix("fd01::1/64")
	from      = netip.MustParseAddr("fe80::5054:ff:fe00:2")
	ourID     = &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: serverMAC}
	theirID   = &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: clientMAC}
)

func responder(t testing.TB, change func(*dhcp6.Config)) *dhcp6.Responder {
	t.Helper()
	cfg := dhcp6.Config{
		MAC: serverMAC, Server: prefix.Addr(), Prefix: prefix, DNS: []netip.Addr{netip.MustParseAddr("fd01::53")}, ServerURL: "http://[fd01::1]:8480",
		BootURL: func(c dhcp.Client) string { return "file:" + c.Firmware.String() + ":" + c.MAC.String() },
	}
	if change != nil {
		change(&cfg)
	}
	r, err := dhcp6.NewResponder(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func message(t testing.TB, kind dhcpv6.MessageType, more ...dhcpv6.Modifier) *dhcpv6.Message {
	t.Helper()
	m, err := dhcpv6.NewMessage(append([]dhcpv6.Modifier{dhcpv6.WithClientID(theirID), dhcpv6.WithRequestedOptions(dhcpv6.OptionBootfileURL, dhcpv6.OptionDNSRecursiveNameServer)}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	m.MessageType = kind
	return m
}

func ia(addrs ...string) dhcpv6.Modifier {
	o := &dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, 7}}
	for _, a := range addrs {
		o.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(a)})
	}
	return dhcpv6.WithOption(o)
}

// handle sends a message over the wire's bytes and returns the answer.
func handle(t testing.TB, r *dhcp6.Responder, m dhcpv6.DHCPv6) (*dhcpv6.Message, error) {
	t.Helper()
	parsed, err := dhcpv6.FromBytes(m.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	reply, err := r.Handle(parsed, from)
	if err != nil {
		if !errors.Is(err, dhcp6.ErrIgnored) || reply != nil {
			t.Errorf("%v: %v with %v", m, err, reply)
		}
		return nil, err
	}
	again, err := dhcpv6.MessageFromBytes(reply.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	return again, nil
}

func addr(t testing.TB, m *dhcpv6.Message) netip.Addr {
	t.Helper()
	if m == nil || m.Options.OneIANA() == nil || m.Options.OneIANA().Options.OneAddress() == nil {
		t.Fatalf("no address in %v", m)
	}
	a, _ := netip.AddrFromSlice(m.Options.OneIANA().Options.OneAddress().IPv6Addr)
	return a
}

// TestAddress: the way of RFC 8415 section 18: solicit, request, renew, rebind.
func TestAddress(t *testing.T) {
	r := responder(t, nil)
	adv, err := handle(t, r, message(t, dhcpv6.MessageTypeSolicit, ia()))
	if err != nil || adv.MessageType != dhcpv6.MessageTypeAdvertise || !adv.Options.ServerID().Equal(ourID) || !adv.Options.ClientID().Equal(theirID) {
		t.Fatalf("advertised %v, %v", adv, err)
	}
	mine := addr(t, adv)
	if !prefix.Contains(mine) || mine == prefix.Addr() || mine == prefix.Masked().Addr() {
		t.Errorf("address %v", mine)
	}
	if got := adv.Options.DNS(); len(got) != 1 || got[0].String() != "fd01::53" {
		t.Errorf("name servers %v", got)
	}
	our := dhcpv6.WithServerID(ourID)
	for kind, more := range map[dhcpv6.MessageType][]dhcpv6.Modifier{
		dhcpv6.MessageTypeRequest: {our, ia(mine.String())}, dhcpv6.MessageTypeRenew: {our, ia(mine.String())},
		dhcpv6.MessageTypeRebind: {ia(mine.String())}, dhcpv6.MessageTypeSolicit: {ia(), dhcpv6.WithRapidCommit},
	} {
		// Another server of the same prefix and address, as after a restart.
		reply, err := handle(t, responder(t, nil), message(t, kind, more...))
		if err != nil || reply.MessageType != dhcpv6.MessageTypeReply || addr(t, reply) != mine {
			t.Errorf("%v: %v, %v", kind, reply, err)
		}
	}
	reply, err := handle(t, r, message(t, dhcpv6.MessageTypeRenew, our, ia("2001:db8::5")))
	if err != nil || addr(t, reply) != mine || len(reply.Options.OneIANA().Options.Addresses()) != 2 || reply.Options.OneIANA().Options.Addresses()[1].ValidLifetime != 0 {
		t.Errorf("renewal of another network's address: %v, %v", reply, err)
	}
	other := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: serverMAC}
	reply, err = handle(t, r, message(t, dhcpv6.MessageTypeSolicit, dhcpv6.WithClientID(other), ia()))
	if err != nil || addr(t, reply) == mine {
		t.Errorf("two clients have one address: %v, %v", reply, err)
	}
}

// TestDecline: who finds the address in use gets another, and keeps that.
func TestDecline(t *testing.T) {
	r := responder(t, nil)
	solicit := func() netip.Addr {
		m, err := handle(t, r, message(t, dhcpv6.MessageTypeSolicit, ia()))
		if err != nil {
			t.Fatal(err)
		}
		return addr(t, m)
	}
	first := solicit()
	our := dhcpv6.WithServerID(ourID)
	if m, err := handle(t, r, message(t, dhcpv6.MessageTypeDecline, our, ia("fd01::77"))); err != nil || solicit() != first {
		t.Errorf("declining what it never had: %v, %v", m, err)
	}
	if m, err := handle(t, r, message(t, dhcpv6.MessageTypeDecline, our, ia(first.String()))); err != nil || m.Options.Status().StatusCode != iana.StatusSuccess {
		t.Errorf("decline: %v, %v", m, err)
	}
	if second := solicit(); second == first || solicit() != second {
		t.Errorf("after declining %v it gets %v", first, second)
	}
}

func TestConfirm(t *testing.T) {
	r := responder(t, nil)
	for text, want := range map[string]iana.StatusCode{"fd01::77": iana.StatusSuccess, "2001:db8::5": iana.StatusNotOnLink} {
		m, err := handle(t, r, message(t, dhcpv6.MessageTypeConfirm, ia(text)))
		if err != nil || m.Options.Status() == nil || m.Options.Status().StatusCode != want {
			t.Errorf("%s: %v, %v", text, m, err)
		}
	}
	if _, err := handle(t, r, message(t, dhcpv6.MessageTypeConfirm, ia())); err == nil {
		t.Error("nothing was confirmed")
	}
}

// TestBootFile: by firmware, and the server's URL for who is none.
func TestBootFile(t *testing.T) {
	class := dhcpv6.WithOption(&dhcpv6.OptVendorClass{EnterpriseNumber: 343, Data: [][]byte{[]byte("HTTPClient:Arch:00016:UNDI:003001")}})
	for name, c := range map[string]struct {
		more []dhcpv6.Modifier
		want string
		http bool
	}{
		"system":    {nil, "http://[fd01::1]:8480", false},
		"UEFI PXE":  {[]dhcpv6.Modifier{dhcpv6.WithArchType(iana.EFI_X86_64)}, "file:PXE:52:54:00:00:00:02", false},
		"UEFI HTTP": {[]dhcpv6.Modifier{dhcpv6.WithArchType(iana.Arch(16)), class}, "file:HTTP Boot:52:54:00:00:00:02", true},
		"iPXE":      {[]dhcpv6.Modifier{dhcpv6.WithArchType(iana.EFI_X86_64), dhcpv6.WithUserClass([]byte("iPXE"))}, "file:iPXE:52:54:00:00:00:02", false},
	} {
		m, err := handle(t, responder(t, nil), message(t, dhcpv6.MessageTypeInformationRequest, c.more...))
		if err != nil || m.Options.BootFileURL() != c.want || m.Options.OneIANA() != nil {
			t.Errorf("%s: %v, %v", name, m, err)
			continue
		}
		said := m.Options.VendorClass(343)
		if c.http != (len(said) == 1 && string(said[0]) == "HTTPClient") {
			t.Errorf("%s: vendor class %q", name, said)
		}
	}
	m, err := dhcpv6.NewMessage(dhcpv6.WithClientID(&dhcpv6.DUIDUUID{}))
	if err != nil {
		t.Fatal(err)
	}
	m.MessageType = dhcpv6.MessageTypeInformationRequest
	if reply, err := handle(t, responder(t, nil), m); err != nil || reply.Options.BootFileURL() != "" || reply.Options.DNS() != nil {
		t.Errorf("who asks for nothing is told %v, %v", reply, err)
	}
	if c := dhcp6.Identify(m, from); c.MAC.String() != clientMAC.String() {
		t.Errorf("by its link-local address the client is %v", c.MAC)
	}
}

// TestSilence: what RFC 8415 section 16 wants no answer to, and where somebody
// else gives the addresses.
func TestSilence(t *testing.T) {
	five := message(t, dhcpv6.MessageTypeSolicit)
	for range 5 {
		five.AddOption(&dhcpv6.OptIANA{})
	}
	our, alien := dhcpv6.WithServerID(ourID), dhcpv6.WithServerID(theirID)
	for name, m := range map[string]dhcpv6.DHCPv6{
		"request without server":   message(t, dhcpv6.MessageTypeRequest, ia()),
		"request to another":       message(t, dhcpv6.MessageTypeRequest, alien, ia()),
		"solicit with server":      message(t, dhcpv6.MessageTypeSolicit, our, ia()),
		"solicit without anything": message(t, dhcpv6.MessageTypeSolicit),
		"five associations":        five,
		"a server's message":       message(t, dhcpv6.MessageTypeReply, our),
	} {
		if reply, err := handle(t, responder(t, nil), m); err == nil {
			t.Errorf("%s: answered %v", name, reply)
		}
	}
	relayed, err := dhcpv6.EncapsulateRelay(message(t, dhcpv6.MessageTypeSolicit, ia()), dhcpv6.MessageTypeRelayForward, net.ParseIP("fd02::1"), net.ParseIP("fe80::1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := responder(t, nil).Handle(relayed, from); !errors.Is(err, dhcp6.ErrIgnored) {
		t.Errorf("through a relay: %v", err)
	}
	for name, change := range map[string]func(*dhcp6.Config){
		"no prefix":    func(c *dhcp6.Config) { c.Prefix = netip.Prefix{} },
		"a router has": func(c *dhcp6.Config) { c.Quiet = func() bool { return true } },
	} {
		if reply, err := handle(t, responder(t, change), message(t, dhcpv6.MessageTypeSolicit, ia())); err == nil {
			t.Errorf("%s: answered %v", name, reply)
		}
		if reply, err := handle(t, responder(t, change), message(t, dhcpv6.MessageTypeInformationRequest)); err != nil || reply.Options.BootFileURL() == "" {
			t.Errorf("%s: the rest is %v, %v", name, reply, err)
		}
	}
	if _, err := dhcp6.NewResponder(dhcp6.Config{MAC: serverMAC, Prefix: netip.MustParsePrefix("fd01::/56")}); err == nil || !strings.Contains(err.Error(), "/64") {
		t.Errorf("a /56: %v", err)
	}
}

func FuzzHandle(f *testing.F) {
	for _, m := range []*dhcpv6.Message{
		message(f, dhcpv6.MessageTypeSolicit, ia()), message(f, dhcpv6.MessageTypeRenew, dhcpv6.WithServerID(ourID), ia("fd01::5", "fd02::1")),
		message(f, dhcpv6.MessageTypeInformationRequest, dhcpv6.WithArchType(iana.Arch(16)), dhcpv6.WithUserClass([]byte("iPXE"))),
		message(f, dhcpv6.MessageTypeDecline, dhcpv6.WithServerID(ourID), ia("fd01::5")), message(f, dhcpv6.MessageTypeConfirm, ia("fd01::5")),
	} {
		f.Add(m.ToBytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv6.FromBytes(b)
		if err != nil {
			return
		}
		reply, err := responder(t, nil).Handle(m, from)
		if err != nil {
			if !errors.Is(err, dhcp6.ErrIgnored) {
				t.Error(err)
			}
			return
		}
		if _, err := dhcpv6.MessageFromBytes(reply.ToBytes()); err != nil {
			t.Errorf("our answer to %v cannot be read: %v", m, err)
		}
	})
}
