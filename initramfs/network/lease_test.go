package network_test

import (
	"net"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"huck/initramfs/network"
)

func ack(t *testing.T, addr string, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP(net.ParseIP(addr)),
		dhcpv4.WithOption(dhcpv4.OptSubnetMask(net.CIDRMask(24, 32))),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 0, 1))),
	}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	// As it comes from the wire.
	if m, err = dhcpv4.FromBytes(m.ToBytes()); err != nil {
		t.Fatal(err)
	}
	return m
}

func option(code uint8, value string) dhcpv4.Modifier {
	return dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), []byte(value))
}

func TestParseLease(t *testing.T) {
	for _, tt := range []struct {
		name          string
		addr          string
		more          []dhcpv4.Modifier
		want          string
		server        string
		mtu           int
		renew, rebind time.Duration
		expire        time.Duration
		bad           bool
	}{
		{name: "bare", addr: "10.0.0.5", want: "eth0 10.0.0.5/24"},
		{name: "router", addr: "10.0.0.5", more: []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptRouter(net.IPv4(10, 0, 0, 5), net.IPv4(10, 0, 0, 2)))}, want: "eth0 10.0.0.5/24 via 10.0.0.2"},
		{name: "option 224", addr: "10.0.0.5", more: []dhcpv4.Modifier{option(224, "http://10.0.0.9:8480\x00"), dhcpv4.WithServerIP(net.IPv4(10, 0, 0, 8))}, want: "eth0 10.0.0.5/24", server: "http://10.0.0.9:8480"},
		{name: "next-server", addr: "10.0.0.5", more: []dhcpv4.Modifier{dhcpv4.WithServerIP(net.IPv4(10, 0, 0, 8))}, want: "eth0 10.0.0.5/24", server: "http://10.0.0.8:8480"},
		{name: "somebody else's option 224", addr: "10.0.0.5", more: []dhcpv4.Modifier{option(224, "\x01\x02"), dhcpv4.WithServerIP(net.IPv4(10, 0, 0, 8))}, want: "eth0 10.0.0.5/24", server: "http://10.0.0.8:8480"},
		{name: "times by default", addr: "10.0.0.5", more: []dhcpv4.Modifier{dhcpv4.WithLeaseTime(800)}, want: "eth0 10.0.0.5/24", renew: 400 * time.Second, rebind: 700 * time.Second, expire: 800 * time.Second},
		{name: "times told", addr: "10.0.0.5", more: []dhcpv4.Modifier{dhcpv4.WithLeaseTime(800), option(58, "\x00\x00\x00\x64"), option(59, "\x00\x00\x00\xc8")}, want: "eth0 10.0.0.5/24", renew: 100 * time.Second, rebind: 200 * time.Second, expire: 800 * time.Second},
		{name: "times upside down", addr: "10.0.0.5", more: []dhcpv4.Modifier{dhcpv4.WithLeaseTime(800), option(58, "\x00\x00\x99\x64"), option(59, "\x00\x00\x00\x01")}, want: "eth0 10.0.0.5/24", renew: 400 * time.Second, rebind: 700 * time.Second, expire: 800 * time.Second},
		{name: "no time at all", addr: "10.0.0.5", more: []dhcpv4.Modifier{dhcpv4.WithLeaseTime(1)}, want: "eth0 10.0.0.5/24", renew: 5 * time.Second, rebind: 8750 * time.Millisecond, expire: 10 * time.Second},
		{name: "for ever", addr: "10.0.0.5", more: []dhcpv4.Modifier{dhcpv4.WithLeaseTime(0xffffffff)}, want: "eth0 10.0.0.5/24"},
		{name: "jumbo", addr: "10.0.0.5", more: []dhcpv4.Modifier{option(26, "\x23\x28")}, want: "eth0 10.0.0.5/24", mtu: 9000},
		{name: "silly MTU", addr: "10.0.0.5", more: []dhcpv4.Modifier{option(26, "\x00\x44")}, want: "eth0 10.0.0.5/24"},
		{name: "odd mask", addr: "10.0.0.5", more: []dhcpv4.Modifier{option(1, "\xff\x00\xff\x00")}, bad: true},
		{name: "no mask", addr: "192.168.1.5", more: []dhcpv4.Modifier{option(1, "")}, want: "eth0 192.168.1.5/24"},
		{name: "no address", addr: "0.0.0.0", bad: true},
		{name: "multicast address", addr: "239.1.1.1", bad: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := network.ParseLease("eth0", ack(t, tt.addr, tt.more...))
			if tt.bad {
				if err == nil {
					t.Errorf("got %+v, want an error", l)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			server := ""
			if l.Server != nil {
				server = l.Server.String()
			}
			if l.String() != tt.want || server != tt.server || l.MTU != tt.mtu || l.Renew != tt.renew || l.Rebind != tt.rebind || l.Expire != tt.expire {
				t.Errorf("got %v, server %q, %+v", l, server, l)
			}
		})
	}
}

func FuzzParseLease(f *testing.F) {
	m, err := dhcpv4.New(dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 5)), dhcpv4.WithLeaseTime(60), option(224, "http://a:1"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m.ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		l, err := network.ParseLease("eth0", m)
		if err == nil && (!l.Addr.IsValid() || l.Expire > 0 && (l.Renew <= 0 || l.Renew >= l.Expire || l.Rebind < l.Renew)) {
			t.Errorf("got %+v", l)
		}
	})
}
