package network_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/mdlayher/ndp"

	"huck/imager/api"
	"huck/initramfs/network"
)

func reply6(t testing.TB, addr string, valid, t1 time.Duration, more ...dhcpv6.Modifier) *dhcpv6.Message {
	t.Helper()
	ia := &dhcpv6.OptIANA{T1: t1}
	if addr != "" {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(addr), PreferredLifetime: valid, ValidLifetime: valid})
	}
	m, err := dhcpv6.NewMessage(append([]dhcpv6.Modifier{
		dhcpv6.WithServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr{1, 2, 3, 4, 5, 6}}), dhcpv6.WithOption(ia)}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	m.MessageType = dhcpv6.MessageTypeReply
	return m
}

func TestReply6(t *testing.T) {
	file := func(s string) dhcpv6.Modifier { return dhcpv6.WithOption(dhcpv6.OptBootFileURL(s)) }
	for name, c := range map[string]struct {
		m      *dhcpv6.Message
		addr   string
		server string
		renew  time.Duration
		err    string
	}{
		"address":        {m: reply6(t, "fd01::5", time.Hour, 10*time.Minute), addr: "fd01::5", renew: 10 * time.Minute},
		"no T1":          {m: reply6(t, "fd01::5", time.Hour, 0), addr: "fd01::5", renew: 30 * time.Minute},
		"T1 beyond":      {m: reply6(t, "fd01::5", time.Hour, 2*time.Hour), addr: "fd01::5", renew: 30 * time.Minute},
		"very short":     {m: reply6(t, "fd01::5", time.Second, 0), addr: "fd01::5", renew: 5 * time.Second},
		"HTTP":           {m: reply6(t, "fd01::5", time.Hour, time.Minute, file("https://[fd01::1]:443/boot/huck.efi?x")), addr: "fd01::5", server: "https://[fd01::1]:443", renew: time.Minute},
		"TFTP":           {m: reply6(t, "fd01::5", time.Hour, time.Minute, file("tftp://[fd01::1]/huck.efi")), addr: "fd01::5", server: "http://[fd01::1]:8480", renew: time.Minute},
		"other scheme":   {m: reply6(t, "fd01::5", time.Hour, time.Minute, file("nfs://a/b")), addr: "fd01::5", renew: time.Minute},
		"no address":     {m: reply6(t, "", 0, 0), err: "without an address"},
		"expired":        {m: reply6(t, "fd01::5", 0, 0), err: "without an address"},
		"link-local":     {m: reply6(t, "fe80::5", time.Hour, 0), err: "without an address"},
		"multicast":      {m: reply6(t, "ff02::1", time.Hour, 0), err: "without an address"},
		"mapped":         {m: reply6(t, "::ffff:10.0.0.1", time.Hour, 0), err: "without an address"},
		"server refuses": {m: reply6(t, "fd01::5", time.Hour, 0, dhcpv6.WithOption(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail})), err: "refused"},
	} {
		addr, server, renew, rebind, err := network.Reply6(c.m, true)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", name, err, c.err)
			}
			continue
		}
		if err != nil || addr.String() != c.addr || server != c.server || renew != c.renew || rebind < renew {
			t.Errorf("%s: %v, %q, %v, %v, %v", name, addr, server, renew, rebind, err)
		}
	}
}

func FuzzReply6(f *testing.F) {
	f.Add(reply6(f, "fd01::5", time.Hour, time.Minute, dhcpv6.WithOption(dhcpv6.OptBootFileURL("http://[fd01::1]:80/x"))).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv6.MessageFromBytes(b)
		if err != nil {
			return
		}
		addr, server, renew, rebind, err := network.Reply6(m, true)
		if err != nil {
			return
		}
		if !addr.IsGlobalUnicast() || renew < 0 || rebind < renew {
			t.Errorf("took %v, renewed after %v and %v", addr, renew, rebind)
		}
		if server != "" {
			if _, err := api.ParseServerURL(server); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestAdvertisements: what leads to an address.
func TestAdvertisements(t *testing.T) {
	prefix := func(bits uint8, auto bool, valid time.Duration) ndp.Option {
		return &ndp.PrefixInformation{PrefixLength: bits, AutonomousAddressConfiguration: auto, ValidLifetime: valid, Prefix: netip.MustParseAddr("fd01::")}
	}
	for name, c := range map[string]struct {
		m    ndp.RouterAdvertisement
		want bool
	}{
		"no router here":         {ndp.RouterAdvertisement{}, false},
		"a router without":       {ndp.RouterAdvertisement{RouterLifetime: time.Hour, OtherConfiguration: true}, false},
		"managed":                {ndp.RouterAdvertisement{ManagedConfiguration: true}, true},
		"prefix":                 {ndp.RouterAdvertisement{Options: []ndp.Option{prefix(64, true, time.Hour)}}, true},
		"prefix for the link":    {ndp.RouterAdvertisement{Options: []ndp.Option{prefix(64, false, time.Hour)}}, false},
		"prefix that ends":       {ndp.RouterAdvertisement{Options: []ndp.Option{prefix(64, true, 0)}}, false},
		"prefix of another size": {ndp.RouterAdvertisement{Options: []ndp.Option{prefix(56, true, time.Hour)}}, false},
	} {
		if useful, _, _ := network.Useful(&c.m); useful != c.want {
			t.Errorf("%s: useful %v", name, useful)
		}
	}
}
