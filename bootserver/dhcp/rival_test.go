package dhcp_test

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"huck/bootserver/dhcp"
	"huck/bootserver/nettest"
)

// TestProbeOnTheWire: a neighbour is found by ARP though it drops pings, a host
// behind a router by ping, and who is not there takes no longer than it may.
// Another DHCP server is found, and our own is not.
func TestProbeOnTheWire(t *testing.T) {
	nettest.Tool(t, "dnsmasq")
	if !nettest.Isolate(t) {
		return
	}
	nettest.Switch(t, "10.0.0.1/24", "campus", "client")
	nettest.Run(t, "ip -n campus addr add 10.0.0.2/24 dev net")
	nettest.Run(t, "ip -n campus addr add 10.1.0.1/32 dev lo")
	nettest.Run(t, "ip netns exec campus sysctl -qw net.ipv4.ip_forward=1")
	nettest.Run(t, "ip route add 10.1.0.0/16 via 10.0.0.2")
	nettest.Run(t, "ip -n client addr add 10.0.0.77/24 dev net")
	nettest.Run(t, "ip -n client link set net address 02:00:00:00:00:77")
	nettest.Run(t, "ip netns exec client sysctl -qw net.ipv4.icmp_echo_ignore_all=1")
	ifi, err := net.InterfaceByName("srv")
	if err != nil {
		t.Fatal(err)
	}
	p := &dhcp.Prober{Interface: ifi, Log: slog.New(slog.DiscardHandler)}
	for _, c := range []struct {
		addr  string
		own   bool
		user  string
		limit time.Duration
	}{
		{"10.0.0.77", true, "02:00:00:00:00:77", 300 * time.Millisecond},
		{"10.0.0.78", true, "", 2 * time.Second},
		{"10.0.0.1", true, "", 2 * time.Second}, // we do not answer ourselves
		{"10.1.0.1", false, "somebody who answers a ping", 900 * time.Millisecond},
		{"10.1.0.9", false, "", 3 * time.Second},
	} {
		for try := 1; ; try++ { // on a busy machine an answer may come late
			began := time.Now()
			user := p.Probe(t.Context(), netip.MustParseAddr(c.addr), c.own)
			if took := time.Since(began); user == c.user && took <= c.limit {
				break
			} else if try == 10 {
				t.Errorf("%s: %q after %v", c.addr, user, took)
				break
			}
		}
	}
	own := netip.MustParseAddr("10.0.0.1")
	if found, err := dhcp.Servers(t.Context(), ifi, own); err != nil || len(found) != 0 {
		t.Errorf("servers on a network without one: %v, %v", found, err)
	}
	defer dnsmasq(t, 1)()
	for try := 1; ; try++ { // likewise
		found, err := dhcp.Servers(t.Context(), ifi, own)
		if err == nil && fmt.Sprint(found) == "[10.0.0.2]" {
			break
		} else if try == 5 {
			t.Fatalf("servers: %v, %v", found, err)
		}
	}
}

// TestARPFrame: the probe's bytes, and which frames tell of a user.
func TestARPFrame(t *testing.T) {
	a := netip.MustParseAddr("10.0.0.77")
	from := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	probe := dhcp.ARPFrame(from, a)
	if got, want := fmt.Sprintf("%x", probe), "ffffffffffff020000000001"+"0806"+"0001080006040001"+"020000000001"+"00000000"+"000000000000"+"0a00004d"; got != want {
		t.Errorf("probe %s, want %s", got, want)
	}
	if user := dhcp.ARPUser(probe, a); user != nil {
		t.Errorf("somebody else's probe is taken for its user: %v", user)
	}
	reply := append([]byte(nil), probe...)
	reply[21], reply[31] = 2, 77 // a reply of who has it
	copy(reply[28:], a.AsSlice())
	if user := dhcp.ARPUser(reply, a); user.String() != from.String() {
		t.Errorf("user %v", user)
	}
	for n := range reply {
		if user := dhcp.ARPUser(reply[:n], a); user != nil {
			t.Errorf("a frame of %d bytes tells of %v", n, user)
		}
	}
	if user := dhcp.ARPUser(reply, netip.MustParseAddr("10.0.0.78")); user != nil {
		t.Errorf("another address's user: %v", user)
	}
}
