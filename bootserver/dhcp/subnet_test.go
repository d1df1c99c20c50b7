package dhcp_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"huck/bootserver/dhcp"
)

// reserve reads "MAC ADDR".
func reserve(lines ...string) (rs []dhcp.Reservation) {
	for _, line := range lines {
		mac, a, _ := strings.Cut(line, " ")
		rs = append(rs, dhcp.Reservation{MAC: mac, Addr: netip.MustParseAddr(a)})
	}
	return rs
}

// newCampus is a rig with a second subnet, behind a relay, and reservations.
func newCampus(t testing.TB) *rig {
	g := newRig(t, "10.0.0.100-10.0.0.103")
	g.cfg.Subnets = append(g.cfg.Subnets, dhcp.Subnet{
		Prefix: netip.MustParsePrefix("10.1.0.0/16"), Router: netip.MustParseAddr("10.1.0.1"), LeaseTime: time.Hour,
		Pools: []dhcp.Pool{{First: netip.MustParseAddr("10.1.0.5"), Last: netip.MustParseAddr("10.1.0.6")}, {First: netip.MustParseAddr("10.1.9.1"), Last: netip.MustParseAddr("10.1.9.1")}},
	})
	g.cfg.Reservations = reserve("02:00:00:00:00:07 10.0.0.7", "02:00:00:00:00:08 10.0.0.101", "02:00:00:00:00:07 10.1.0.6")
	g.restart()
	return g
}

const relay = "gi=10.1.0.1"

func TestSubnets(t *testing.T) {
	for name, story := range map[string]func(*rig){
		"each subnet has its pool": func(g *rig) {
			g.want("offer 10.0.0.100", discover, 1)
			g.want("offer 10.1.0.5", discover, 1, relay)
			g.want("ack 10.1.0.5", request, 1, us, "req=10.1.0.5", relay)
			g.want("offer 10.1.9.1", discover, 2, relay) // the second pool; 10.1.0.6 is kept for another
			g.want("-", discover, 3, relay)
		},
		"it moved": func(g *rig) {
			g.want("ack 10.0.0.100", request, 1, us, "req=10.0.0.100")
			g.want("nak", request, 1, "req=10.0.0.100", relay)
			g.want("offer 10.1.0.5", discover, 1, relay)
			g.want("offer 10.0.0.100", discover, 1) // and back
		},
		"renewing by unicast from behind the relay": func(g *rig) {
			g.want("ack 10.1.0.5", request, 1, us, "req=10.1.0.5", relay)
			g.want("ack 10.1.0.5", request, 1, "ci=10.1.0.5")
			g.want("-", release, 1, us, "ci=10.1.0.5")
			g.want("ack 10.1.0.5", request, 2, "req=10.1.0.5", relay)
		},
		"a relay of nowhere": func(g *rig) {
			g.want("-", discover, 1, "gi=192.168.0.1")
			g.want("-", discover, 1, "gi=192.168.0.1", "link=10.1.0.1")
			g.want("-", discover, 1, relay, "link=192.168.0.1")
		},
		"a relay that says the link": func(g *rig) {
			g.want("offer 10.1.0.5", discover, 1, "gi=10.0.0.254", "link=10.1.0.0")
			g.want("offer 10.1.9.1", discover, 2, "gi=10.0.0.254", "118=10.1.0.0")
			g.want("offer 10.0.0.100", discover, 3, "118=10.1.0.0") // not a relay
		},
		"reserved": func(g *rig) {
			g.want("offer 10.0.0.7", discover, 7) // outside the pool
			g.want("ack 10.0.0.7", request, 7, us, "req=10.0.0.7")
			g.want("offer 10.1.0.6", discover, 7, relay)
			g.want("offer 10.0.0.101", discover, 8)
			g.want("offer 10.0.0.101", discover, 8, "req=10.0.0.103")
			g.want("nak", request, 8, us, "req=10.0.0.103")
			g.want("nak", request, 9, us, "req=10.0.0.101")
			g.want("nak", request, 9, us, "req=10.0.0.7")
			g.want("offer 10.0.0.100", discover, 9, "req=10.0.0.101")
		},
		"reserved after it had another": func(g *rig) {
			g.want("ack 10.0.0.100", request, 1, us, "req=10.0.0.100")
			g.cfg.Reservations = append(g.cfg.Reservations, reserve("02:00:00:00:00:01 10.0.0.50")...)
			g.restart()
			g.want("nak", request, 1, "ci=10.0.0.100")
			g.want("offer 10.0.0.50", discover, 1)
		},
		"reserved while another has it": func(g *rig) {
			g.want("ack 10.0.0.100", request, 1, us, "req=10.0.0.100")
			g.cfg.Reservations = append(g.cfg.Reservations, reserve("02:00:00:00:00:02 10.0.0.100")...)
			g.restart()
			g.want("offer 10.0.0.102", discover, 2)
			g.want("nak", request, 1, "ci=10.0.0.100")
			g.want("offer 10.0.0.103", discover, 1)
			g.now = g.now.Add(13 * time.Hour)
			g.want("offer 10.0.0.100", discover, 2)
		},
		"restart": func(g *rig) {
			g.want("ack 10.1.0.5", request, 1, us, "req=10.1.0.5", relay)
			g.restart()
			g.want("nak", request, 2, us, "req=10.1.0.5", relay)
			g.cfg.Subnets = g.cfg.Subnets[:1] // no longer ours
			g.cfg.Reservations = nil
			g.restart()
			g.want("-", request, 1, us, "req=10.1.0.5", relay)
		},
	} {
		t.Run(name, func(t *testing.T) { story(newCampus(t)) })
	}
}

// TestRelayedAnswer: what comes back to a relay and in it.
func TestRelayedAnswer(t *testing.T) {
	g := newCampus(t)
	agent := dhcpv4.WithGeneric(dhcpv4.OptionRelayAgentInformation, []byte("\x01\x04port\x02\x03abc"))
	mods := []dhcpv4.Modifier{dhcpv4.WithMessageType(discover), dhcpv4.WithHwAddr(mac(1)), dhcpv4.WithGatewayIP(net.IP{10, 1, 0, 1}), agent}
	m, err := g.handle(mods...)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Options.Get(dhcpv4.OptionRelayAgentInformation); string(got) != "\x01\x04port\x02\x03abc" {
		t.Errorf("option 82 came back as %q", got)
	}
	if !strings.Contains(string(m.ToBytes()), "\x52\x0b\x01\x04port\x02\x03abc\xff") {
		t.Error("option 82 is not the last")
	}
	if m.Router()[0].String() != "10.1.0.1" || net.IP(m.SubnetMask()).String() != "255.255.0.0" || m.IPAddressLeaseTime(0) != time.Hour || len(m.DNS()) != 0 || m.GatewayIPAddr.String() != "10.1.0.1" {
		t.Errorf("options: %s", m.Summary())
	}
	req, _ := dhcpv4.New(mods...)
	if to := dhcp.Destination(req, m); to.String() != "10.1.0.1:67" {
		t.Errorf("it goes to %v", to)
	}
	mods[0] = dhcpv4.WithMessageType(request)
	if m, err = g.handle(append(mods, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IP{10, 0, 0, 100})))...); err != nil || m.MessageType() != dhcpv4.MessageTypeNak || !m.IsBroadcast() {
		t.Errorf("a refusal through a relay: %v, %v", m, err)
	}
}

// TestProbe: an address that somebody uses is not offered, and set aside.
func TestProbe(t *testing.T) {
	g := newRig(t, "10.0.0.100-10.0.0.109")
	users := map[string]string{"10.0.0.100": "02:ff:00:00:00:01", "10.0.0.101": "a ping", "10.0.0.102": mac(2).String()}
	var probed, conflicts []string
	g.cfg.Probe = func(_ context.Context, a netip.Addr, own bool) string {
		probed = append(probed, a.String())
		if !own {
			t.Errorf("%v is in our own subnet", a)
		}
		return users[a.String()]
	}
	g.cfg.Conflict = func(a netip.Addr, user string) { conflicts = append(conflicts, fmt.Sprint(a, " ", user)) }
	g.restart()
	g.want("offer 10.0.0.102", discover, 2) // it is itself who uses it
	if want := []string{"10.0.0.100 02:ff:00:00:00:01", "10.0.0.101 a ping"}; !slices.Equal(conflicts, want) || len(probed) != 3 {
		t.Errorf("conflicts %q after probes of %q", conflicts, probed)
	}
	g.want("offer 10.0.0.102", discover, 2)
	g.want("ack 10.0.0.102", request, 2, us, "req=10.0.0.102")
	g.want("offer 10.0.0.102", discover, 2)
	if len(probed) != 3 {
		t.Errorf("an address that is the machine's own is probed: %q", probed)
	}
	g.restart() // what was set aside stays so
	g.want("offer 10.0.0.103", discover, 3, "req=10.0.0.100")
	if len(probed) != 4 {
		t.Errorf("probes of %q", probed)
	}
	// Somebody else's pool.
	for i := range 10 {
		users[fmt.Sprintf("10.0.0.10%d", i)] = "somebody"
	}
	g.want("-", discover, 4)
	if len(probed) != 8 {
		t.Errorf("probes of %q", probed)
	}
	g.now = g.now.Add(2 * time.Hour)
	clear(users)
	g.want("offer 10.0.0.100", discover, 4, "req=10.0.0.100")
}

// TestProbeDoesNotBlock: while one address is probed, others are served, and
// the same machine's next try is not offered the address unprobed.
func TestProbeDoesNotBlock(t *testing.T) {
	g := newRig(t, "10.0.0.100-10.0.0.103")
	entered, leave := make(chan netip.Addr, 2), make(chan string)
	g.cfg.Probe = func(_ context.Context, a netip.Addr, _ bool) string {
		entered <- a
		return <-leave
	}
	g.restart()
	first := make(chan string)
	go func() { first <- g.say(discover, 1) }()
	<-entered
	g.want("-", discover, 1)
	g.want("ack 10.0.0.103", request, 2, us, "req=10.0.0.103")
	g.want("offer 10.0.0.103", discover, 2)
	leave <- ""
	if got := <-first; got != "offer 10.0.0.100" {
		t.Error(got)
	}
}

// TestRival: who chose another server tells us of it.
func TestRival(t *testing.T) {
	g := newRig(t, "10.0.0.100-10.0.0.103")
	var rivals []string
	g.cfg.Rival = func(server netip.Addr, mac string) { rivals = append(rivals, fmt.Sprint(server, " ", mac)) }
	g.restart()
	g.want("-", request, 1, "sid=10.0.0.9", "req=10.0.0.77")
	g.want("ack 10.0.0.100", request, 1, us, "req=10.0.0.100")
	if want := []string{"10.0.0.9 02:00:00:00:00:01"}; !slices.Equal(rivals, want) {
		t.Errorf("rivals %q", rivals)
	}
}
