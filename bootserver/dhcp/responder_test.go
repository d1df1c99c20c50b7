package dhcp_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"huck/bootserver/dhcp"
)

// kv is a store in memory that outlives a Responder, and can fail.
type kv struct {
	m    map[string][]byte
	fail error
}

func (s *kv) Put(_ context.Context, key string, value []byte) error {
	if s.fail != nil {
		return s.fail
	}
	s.m[key] = value
	return nil
}

func (s *kv) List(_ context.Context, prefix string) (map[string][]byte, error) {
	out := maps.Clone(s.m)
	maps.DeleteFunc(out, func(k string, _ []byte) bool { return !strings.HasPrefix(k, prefix) })
	return out, nil
}

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

var bootConfig = dhcp.BootConfig{
	Server: netip.MustParseAddr("10.0.0.1"), ServerURL: "http://10.0.0.1:8480",
	BootFile: func(c dhcp.Client) dhcp.Boot {
		switch {
		case c.Firmware == dhcp.IPXE:
			return dhcp.Boot{File: "http://10.0.0.1:8480/boot/ipxe"}
		case c.Firmware == dhcp.HTTPBoot && c.Arch == iana.EFI_X86_64_HTTP:
			return dhcp.Boot{File: "http://10.0.0.1:8480/boot/huck.efi"}
		case c.Arch == iana.INTEL_X86PC:
			return dhcp.Boot{File: "undionly.kpxe"}
		case c.Arch == iana.EFI_X86_64 || c.Arch == iana.EFI_BC:
			return dhcp.Boot{File: "huck.efi"}
		}
		return dhcp.Boot{}
	},
}

func config(pool string) dhcp.Config {
	p, err := dhcp.ParsePool(pool)
	if err != nil {
		panic(err) // a test's own constant
	}
	return dhcp.Config{
		BootConfig: bootConfig,
		Subnets: []dhcp.Subnet{{
			Prefix: netip.MustParsePrefix("10.0.0.1/24"), Pools: []dhcp.Pool{p},
			Router: netip.MustParseAddr("10.0.0.254"), DNS: []netip.Addr{netip.MustParseAddr("10.0.0.53")},
		}},
	}
}

// rig is a responder under test with its clock.
type rig struct {
	t     testing.TB
	cfg   dhcp.Config
	store *kv
	r     *dhcp.Responder
	now   time.Time
}

func newRig(t testing.TB, pool string) *rig {
	g := &rig{t: t, cfg: config(pool), store: &kv{m: map[string][]byte{}}, now: start}
	g.restart()
	return g
}

func (g *rig) restart() {
	g.t.Helper()
	r, err := dhcp.NewResponder(g.t.Context(), g.cfg, g.store)
	if err != nil {
		g.t.Fatal(err)
	}
	g.r = r
}

func (g *rig) handle(mods ...dhcpv4.Modifier) (*dhcpv4.DHCPv4, error) {
	g.t.Helper()
	req, err := dhcpv4.New(mods...)
	if err != nil {
		g.t.Fatal(err)
	}
	// Through the bytes, as on the wire.
	if req, err = dhcpv4.FromBytes(req.ToBytes()); err != nil {
		g.t.Fatal(err)
	}
	return g.r.Handle(g.t.Context(), req, g.now)
}

func mac(n int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, byte(n >> 8), byte(n)} }

// say sends a message of client n with the words "req=IP sid=IP ci=IP" set and
// returns the answer in short: "offer IP", "ack IP", "nak", "-".
func (g *rig) say(kind dhcpv4.MessageType, n int, words ...string) string {
	g.t.Helper()
	mods := []dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithHwAddr(mac(n))}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		ip := net.ParseIP(value)
		switch key {
		case "req":
			mods = append(mods, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip)))
		case "sid":
			mods = append(mods, dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ip)))
		case "ci":
			mods = append(mods, dhcpv4.WithClientIP(ip))
		case "gi":
			mods = append(mods, dhcpv4.WithGatewayIP(ip))
		case "link":
			mods = append(mods, dhcpv4.WithGeneric(dhcpv4.OptionRelayAgentInformation, append([]byte{5, 4}, ip.To4()...)))
		case "118":
			mods = append(mods, dhcpv4.WithGeneric(dhcpv4.OptionSubnetSelection, ip.To4()))
		}
	}
	reply, err := g.handle(mods...)
	if err != nil || reply == nil {
		return "-"
	}
	switch reply.MessageType() {
	case dhcpv4.MessageTypeNak:
		return "nak"
	case dhcpv4.MessageTypeOffer:
		return "offer " + reply.YourIPAddr.String()
	}
	return "ack " + reply.YourIPAddr.String()
}

func (g *rig) want(want string, kind dhcpv4.MessageType, n int, words ...string) {
	g.t.Helper()
	if got := g.say(kind, n, words...); got != want {
		g.t.Errorf("client %d %v %v: %q, want %q", n, kind, words, got, want)
	}
}

const (
	discover = dhcpv4.MessageTypeDiscover
	request  = dhcpv4.MessageTypeRequest
	decline  = dhcpv4.MessageTypeDecline
	release  = dhcpv4.MessageTypeRelease
	inform   = dhcpv4.MessageTypeInform
	us       = "sid=10.0.0.1"
)

func TestStateMachine(t *testing.T) {
	for name, story := range map[string]func(*rig){
		"a boot: ROM, iPXE, appliance, system": func(g *rig) {
			g.want("offer 10.0.0.100", discover, 1)
			g.want("ack 10.0.0.100", request, 1, us, "req=10.0.0.100")
			g.want("offer 10.0.0.100", discover, 1)
			g.want("ack 10.0.0.100", request, 1, us, "req=10.0.0.100")
			g.want("ack 10.0.0.100", request, 1, "ci=10.0.0.100")  // renewing
			g.want("ack 10.0.0.100", request, 1, "req=10.0.0.100") // rebooted
		},
		"two at once": func(g *rig) {
			g.want("offer 10.0.0.100", discover, 1)
			g.want("offer 10.0.0.101", discover, 2)
			g.want("offer 10.0.0.100", discover, 1)
			g.want("ack 10.0.0.101", request, 2, us, "req=10.0.0.101")
			g.want("ack 10.0.0.100", request, 1, us, "req=10.0.0.100")
		},
		"two at once, server killed between": func(g *rig) {
			g.want("offer 10.0.0.100", discover, 1)
			g.restart()
			g.want("offer 10.0.0.101", discover, 2)
			g.want("ack 10.0.0.100", request, 1, us, "req=10.0.0.100")
		},
		"a wish is granted if free": func(g *rig) {
			g.want("offer 10.0.0.102", discover, 1, "req=10.0.0.102")
			g.want("offer 10.0.0.100", discover, 2, "req=10.0.0.102")
			g.want("offer 10.0.0.101", discover, 3, "req=10.9.9.9")
		},
		"full": func(g *rig) {
			for n := range 4 {
				g.want(fmt.Sprintf("offer 10.0.0.%d", 100+n), discover, n)
			}
			g.want("-", discover, 9)
			g.now = g.now.Add(time.Minute) // offers nobody took
			g.want("offer 10.0.0.100", discover, 9)
		},
		"the oldest lease goes first": func(g *rig) {
			for n := range 4 {
				g.want(fmt.Sprintf("ack 10.0.0.%d", 100+n), request, n, fmt.Sprintf("req=10.0.0.%d", 100+n), us)
				g.now = g.now.Add(time.Minute)
			}
			g.want("ack 10.0.0.100", request, 0, "ci=10.0.0.100")
			g.now = g.now.Add(dhcp.DefaultLeaseTime + time.Hour)
			g.want("offer 10.0.0.101", discover, 9)
			g.want("offer 10.0.0.103", discover, 3) // its own, though expired
		},
		"another's address": func(g *rig) {
			g.want("ack 10.0.0.100", request, 1, us, "req=10.0.0.100")
			g.want("nak", request, 2, us, "req=10.0.0.100")
			g.want("nak", request, 2, "ci=10.0.0.100")
			g.want("nak", request, 2, "req=10.0.0.100")
		},
		"a second address": func(g *rig) {
			g.want("ack 10.0.0.100", request, 1, us, "req=10.0.0.100")
			g.want("nak", request, 1, "req=10.0.0.101")
		},
		"a wrong network": func(g *rig) {
			g.want("nak", request, 1, "req=192.168.1.5")
			g.want("nak", request, 1, "ci=192.168.1.5")
			g.want("nak", request, 1, "req=10.0.0.200") // in the subnet, not in the pool
		},
		"a lease we forgot": func(g *rig) {
			g.want("ack 10.0.0.103", request, 1, "req=10.0.0.103")
			g.want("ack 10.0.0.102", request, 2, "ci=10.0.0.102")
		},
		"another server was chosen": func(g *rig) {
			g.want("offer 10.0.0.100", discover, 1)
			g.want("-", request, 1, "sid=10.0.0.2", "req=10.0.0.77")
			g.want("offer 10.0.0.100", discover, 2, "req=10.0.0.100") // free at once
		},
		"another server was chosen by one that has a lease": func(g *rig) {
			g.want("ack 10.0.0.100", request, 1, us, "req=10.0.0.100")
			g.want("-", request, 1, "sid=10.0.0.2", "req=10.0.0.77")
			g.want("nak", request, 2, us, "req=10.0.0.100")
		},
		"declined": func(g *rig) {
			g.want("ack 10.0.0.100", request, 1, us, "req=10.0.0.100")
			g.want("-", decline, 2, us, "req=10.0.0.100") // not its own
			g.want("ack 10.0.0.100", request, 1, "ci=10.0.0.100")
			g.want("-", decline, 1, us, "req=10.0.0.100")
			g.want("offer 10.0.0.101", discover, 1, "req=10.0.0.100")
			g.restart()
			g.want("offer 10.0.0.102", discover, 2, "req=10.0.0.100")
		},
		"released": func(g *rig) {
			g.want("ack 10.0.0.100", request, 1, us, "req=10.0.0.100")
			g.want("-", release, 2, us, "ci=10.0.0.100") // not its own
			g.want("nak", request, 2, us, "req=10.0.0.100")
			g.want("-", release, 1, us, "ci=10.0.0.100")
			g.want("offer 10.0.0.101", discover, 2) // nobody's comes before somebody's old one
			g.want("offer 10.0.0.100", discover, 1)
		},
		"inform": func(g *rig) {
			g.want("ack 0.0.0.0", inform, 1, "ci=10.0.0.7")
			g.want("-", inform, 1)
		},
		"no address asked for": func(g *rig) { g.want("-", request, 1, us) },
		"restart": func(g *rig) {
			g.want("ack 10.0.0.102", request, 1, us, "req=10.0.0.102")
			g.restart()
			g.want("offer 10.0.0.102", discover, 1)
			g.want("nak", request, 2, "req=10.0.0.102")
			g.want("ack 10.0.0.102", request, 1, "ci=10.0.0.102")
		},
		"store fails": func(g *rig) {
			g.store.fail = errors.New("disk full")
			g.want("-", discover, 1)
			g.want("-", request, 1, us, "req=10.0.0.100")
			g.store.fail = nil
			g.want("offer 10.0.0.100", discover, 2)
		},
	} {
		t.Run(name, func(t *testing.T) { story(newRig(t, "10.0.0.100-10.0.0.103")) })
	}
}

// TestNeverGivenAway: the server's, router's, DNS server's, network and
// broadcast addresses stay out, though the pool has them.
func TestNeverGivenAway(t *testing.T) {
	g := newRig(t, "10.0.0.0-10.0.0.255")
	never := []string{"10.0.0.0", "10.0.0.1", "10.0.0.53", "10.0.0.254", "10.0.0.255"}
	seen := map[string]bool{}
	for n := range 251 {
		got := g.say(discover, n)
		if !strings.HasPrefix(got, "offer ") || seen[got] || slices.Contains(never, got[len("offer "):]) {
			t.Fatalf("client %d: %s", n, got)
		}
		seen[got] = true
	}
	g.want("-", discover, 999)
	for _, a := range never {
		g.want("nak", request, 998, "req="+a, us)
	}
}

func TestOptions(t *testing.T) {
	for name, c := range map[string]struct {
		mods       []dhcpv4.Modifier
		file, next string
		url        string
		class      string
	}{
		"plain":                          {nil, "", "0.0.0.0", "http://10.0.0.1:8480", ""},
		"BIOS PXE":                       {firmware["BIOS"], "undionly.kpxe", "10.0.0.1", "", ""},
		"UEFI PXE":                       {firmware["UEFI"], "huck.efi", "10.0.0.1", "", ""},
		"UEFI HTTP Boot":                 {firmware["HTTP"], "http://10.0.0.1:8480/boot/huck.efi", "10.0.0.1", "", "HTTPClient"},
		"PXE without an architecture":    {[]dhcpv4.Modifier{class("PXEClient")}, "undionly.kpxe", "10.0.0.1", "", ""},
		"PXE for which there is nothing": {[]dhcpv4.Modifier{class("PXEClient:Arch:00011:UNDI:003000"), arch(iana.EFI_ARM64)}, "", "0.0.0.0", "", ""},
		"iPXE by option 175":             {firmware["UEFI iPXE"], script, "10.0.0.1", "", ""},
		"iPXE by user class":             {[]dhcpv4.Modifier{dhcpv4.WithUserClass("iPXE", false)}, script, "10.0.0.1", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, "10.0.0.100-10.0.0.103")
			id := dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte("an identifier")))
			r, err := g.handle(append(c.mods, dhcpv4.WithMessageType(discover), dhcpv4.WithHwAddr(mac(1)), id)...)
			if err != nil {
				t.Fatal(err)
			}
			if r.BootFileName != c.file || r.BootFileNameOption() != c.file || r.ServerIPAddr.String() != c.next || string(r.Options.Get(dhcp.OptionServerURL)) != c.url ||
				r.ClassIdentifier() != c.class || r.Options.Has(optionIPXE) != (c.file == script) {
				t.Errorf("file %q and %q, next server %v, URL %q, class %q, iPXE %q", r.BootFileName, r.BootFileNameOption(), r.ServerIPAddr, r.Options.Get(dhcp.OptionServerURL), r.ClassIdentifier(), r.Options.Get(optionIPXE))
			}
			if r.ServerIdentifier().String() != "10.0.0.1" || net.IP(r.SubnetMask()).String() != "255.255.255.0" || r.Router()[0].String() != "10.0.0.254" ||
				r.DNS()[0].String() != "10.0.0.53" || r.IPAddressLeaseTime(0) != dhcp.DefaultLeaseTime || r.BroadcastAddress().String() != "10.0.0.255" ||
				string(r.Options.Get(dhcpv4.OptionClientIdentifier)) != "an identifier" {
				t.Errorf("options: %s", r.Summary())
			}
		})
	}
}

func class(s string) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptClassIdentifier(s)) }
func arch(a iana.Arch) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptClientArch(a))
}

func TestIgnored(t *testing.T) {
	g := newRig(t, "10.0.0.100-10.0.0.103")
	for name, mods := range map[string][]dhcpv4.Modifier{
		"a reply":      {dhcpv4.WithMessageType(discover), dhcpv4.WithHwAddr(mac(1)), func(d *dhcpv4.DHCPv4) { d.OpCode = dhcpv4.OpcodeBootReply }},
		"BOOTP":        {dhcpv4.WithHwAddr(mac(1))},
		"no MAC":       {dhcpv4.WithMessageType(discover)},
		"group MAC":    {dhcpv4.WithMessageType(discover), dhcpv4.WithHwAddr(net.HardwareAddr{1, 0, 0, 0, 0, 1})},
		"not Ethernet": {dhcpv4.WithMessageType(discover), dhcpv4.WithHwAddr(mac(1)), dhcpv4.WithHWType(iana.HWTypeInfiniband)},
		"an offer":     {dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer), dhcpv4.WithHwAddr(mac(1))},
	} {
		if r, err := g.handle(mods...); r != nil || !errors.Is(err, dhcp.ErrIgnored) {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}

func TestDestination(t *testing.T) {
	for _, c := range []struct {
		ciaddr string
		kind   dhcpv4.MessageType
		want   string
	}{
		{"0.0.0.0", dhcpv4.MessageTypeOffer, "255.255.255.255:68"},
		{"10.0.0.100", dhcpv4.MessageTypeAck, "10.0.0.100:68"},
		{"10.0.0.100", dhcpv4.MessageTypeNak, "255.255.255.255:68"},
	} {
		req, _ := dhcpv4.New(dhcpv4.WithClientIP(net.ParseIP(c.ciaddr)))
		reply, _ := dhcpv4.New(dhcpv4.WithMessageType(c.kind))
		if got := dhcp.Destination(req, reply).String(); got != c.want {
			t.Errorf("%v to %s goes to %s", c.kind, c.ciaddr, got)
		}
	}
}

func TestConfigRefused(t *testing.T) {
	for name, change := range map[string]func(*dhcp.Config){
		"server elsewhere": func(c *dhcp.Config) { c.Server = netip.MustParseAddr("10.1.0.1") },
		"IPv6 server":      func(c *dhcp.Config) { c.Server = netip.MustParseAddr("fd00::1") },
		"pool elsewhere":   func(c *dhcp.Config) { c.Subnets[0].Pools[0].Last = netip.MustParseAddr("10.0.1.5") },
		"router elsewhere": func(c *dhcp.Config) { c.Subnets[0].Router = netip.MustParseAddr("10.1.0.1") },
		"IPv6 DNS":         func(c *dhcp.Config) { c.Subnets[0].DNS = []netip.Addr{netip.MustParseAddr("fd00::1")} },
		"no room":          func(c *dhcp.Config) { c.Subnets[0].Prefix = netip.MustParsePrefix("10.0.0.1/31") },
		"IPv6 subnet": func(c *dhcp.Config) {
			c.Subnets = append(c.Subnets, dhcp.Subnet{Prefix: netip.MustParsePrefix("fd00::/64")})
		},
		"short leases": func(c *dhcp.Config) { c.Subnets[0].LeaseTime = time.Second },
		"overlap": func(c *dhcp.Config) {
			c.Subnets = append(c.Subnets, dhcp.Subnet{Prefix: netip.MustParsePrefix("10.0.0.128/25")})
		},
		"pools overlap": func(c *dhcp.Config) {
			c.Subnets[0].Pools = append(c.Subnets[0].Pools, dhcp.Pool{First: netip.MustParseAddr("10.0.0.103"), Last: netip.MustParseAddr("10.0.0.110")})
		},
		"reserved elsewhere": func(c *dhcp.Config) { c.Reservations = reserve("02:00:00:00:00:01 10.1.0.9") },
		"reserved twice": func(c *dhcp.Config) {
			c.Reservations = reserve("02:00:00:00:00:01 10.0.0.9", "02:00:00:00:00:02 10.0.0.9")
		},
		"two for one": func(c *dhcp.Config) {
			c.Reservations = reserve("02:00:00:00:00:01 10.0.0.9", "02:00:00:00:00:01 10.0.0.8")
		},
		"our own reserved": func(c *dhcp.Config) { c.Reservations = reserve("02:00:00:00:00:01 10.0.0.1") },
	} {
		c := config("10.0.0.100-10.0.0.103")
		change(&c)
		if _, err := dhcp.NewResponder(t.Context(), c, &kv{m: map[string][]byte{}}); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	damaged := &kv{m: map[string][]byte{"leases/10.0.0.100": []byte(`{"addr":"10.0.0.101"}`)}}
	if _, err := dhcp.NewResponder(t.Context(), config("10.0.0.100-10.0.0.103"), damaged); err == nil {
		t.Error("a lease under another's key is accepted")
	}
}

func TestPools(t *testing.T) {
	for _, bad := range []string{"", "10.0.0.1", "10.0.0.9-10.0.0.1", "fd00::1-fd00::2", "10.0.0.0-10.9.0.0", "a-b"} {
		if p, err := dhcp.ParsePool(bad); err == nil {
			t.Errorf("ParsePool(%q) = %v", bad, p)
		}
	}
	for subnet, want := range map[string]string{
		"10.0.0.1/24": "10.0.0.128-10.0.0.254", "192.168.4.1/30": "192.168.4.2-192.168.4.2", "10.1.2.3/8": "10.255.239.255-10.255.255.254",
	} {
		if got := dhcp.DefaultPool(netip.MustParsePrefix(subnet)).String(); got != want {
			t.Errorf("DefaultPool(%s) = %s, want %s", subnet, got, want)
		}
	}
}
