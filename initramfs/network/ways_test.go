package network_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"huck/imager/api"
	"huck/initramfs/cmdline"
	"huck/initramfs/network"
)

// run starts a network that ends with the test.
func run(t *testing.T, cfg network.Config) *network.Network {
	t.Helper()
	n := network.New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return n
}

// leaseOf waits for a lease of one family.
func leaseOf(t *testing.T, n *network.Network, six bool) network.Lease {
	t.Helper()
	for {
		if l := lease(t, n); l.Addr.Addr().Is6() == six {
			return l
		}
	}
}

const nic = "52:54:00:00:00:0a"

// cable6 makes a cable to a network that has IPv6 only.
func cable6(t *testing.T) {
	t.Helper()
	cable(t, "a0", nic, "one", "10.1.0.1/24")
	ip(t, "-n one addr flush dev lan")
	ip(t, "-n one addr add fd01::1/64 dev lan nodad")
	ip(t, "-n one link set lan up")
}

// TestStateless6: an address of the router's prefix, the rest by DHCPv6.
func TestStateless6(t *testing.T) {
	if !isolate(t) {
		return
	}
	cable6(t)
	log := dnsmasq(t, "one", "--enable-ra", "--dhcp-range=fd01::,ra-stateless,64,10m", "--dhcp-option=option6:59,http://[fd01::1]:8480/boot/huck.efi",
		"--dhcp-option=option6:dns-server,[fd01::53]")
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	n := run(t, network.Config{ResolvConf: resolv})
	l := leaseOf(t, n, true)
	if l.Addr.String() != "fd01::5054:ff:fe00:a/64" || l.Server == nil || l.Server.String() != "http://[fd01::1]:8480" || !strings.Contains(l.From, "DHCPv6") {
		t.Errorf("lease %+v", l)
	}
	if !has(log, "DHCPINFORMATION-REQUEST(lan)")() || !has(resolv, "nameserver fd01::53\n")() {
		t.Error("no information request, or its answer is not in resolv.conf")
	}
	if r := ip(t, "-6 route show default"); !strings.Contains(r, "dev a0") {
		t.Errorf("routes %q", r)
	}
	if s := n.String(); !strings.Contains(s, "IPv6: fd01::5054:ff:fe00:a/64") || !strings.Contains(s, "IPv4: no answer") && !strings.Contains(s, "IPv4: DHCP") {
		t.Errorf("the network is %q", s)
	}
	n.Choose("other")
	await(t, "an interface that lost has no address", func() bool { return !strings.Contains(ip(t, "-6 addr show dev a0"), "inet6") })
}

// TestStateful6: an address from DHCPv6, renewed.
func TestStateful6(t *testing.T) {
	if !isolate(t) {
		return
	}
	cable6(t)
	log := dnsmasq(t, "one", "--enable-ra", "--dhcp-range=fd01::100,fd01::1ff,64,2m", "--dhcp-option-force=option6:59,tftp://[fd01::1]/huck.efi")
	cfg, seen := tells(t)
	n := run(t, cfg)
	l := leaseOf(t, n, true)
	if !netip.MustParsePrefix("fd01::100/120").Contains(l.Addr.Addr()) || l.Addr.Bits() != 128 || l.Server == nil || l.Server.String() != "http://[fd01::1]:8480" {
		t.Errorf("lease %+v", l)
	}
	// The carrier goes and comes: the address is asked for again, and stays.
	ip(t, "-n one link set lan down")
	await(t, "no carrier", has(seen, "no carrier"))
	before := len(since(log, 0))
	ip(t, "-n one link set lan up")
	ip(t, "-n one addr add fd01::1/64 dev lan nodad") // a link that is set down loses them
	await(t, "renewal", func() bool {
		after := since(log, before)
		return strings.Contains(after, "DHCPRENEW(lan)") && strings.Contains(after, "DHCPREPLY(lan) "+l.Addr.Addr().String())
	})
	if got := ip(t, "-6 addr show dev a0"); !strings.Contains(got, l.Addr.String()) {
		t.Errorf("addresses %s", got)
	}
}

// tells returns the configuration of a network that writes its log to a file.
func tells(t *testing.T) (cfg network.Config, file string) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "network"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return network.Config{Log: slog.New(slog.NewTextHandler(f, nil))}, f.Name()
}

// TestFlap: after the carrier was lost an address is confirmed where it still
// holds, and another taken where the cable is in another network.
func TestFlap(t *testing.T) {
	if !isolate(t) {
		return
	}
	cable(t, "a0", nic, "one", "10.1.0.1/24")
	ip(t, "-n one addr add 10.9.0.1/24 dev lan")
	ip(t, "-n one link set lan up")
	serve := func(pool string) (log string, stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		log, ended := dnsmasqIn(t, ctx, "one", "--dhcp-authoritative", "--dhcp-range="+pool+",2m")
		return log, func() { cancel(); <-ended }
	}
	log, stop := serve("10.1.0.50,10.1.0.59")
	cfg, seen := tells(t)
	n := run(t, cfg)
	first := lease(t, n)
	flap := func() {
		before := len(since(seen, 0))
		ip(t, "-n one link set lan down")
		await(t, "no carrier", func() bool { return strings.Contains(since(seen, before), "no carrier") })
		ip(t, "-n one link set lan up")
	}
	before := len(since(log, 0))
	flap()
	await(t, "confirmation", func() bool { return strings.Contains(since(log, before), "DHCPACK(lan)") })
	if said := since(log, before); strings.Contains(said, "DHCPDISCOVER(lan)") {
		t.Errorf("a confirmation asks who is there:\n%s", said)
	}
	if got := ip(t, "-4 addr show dev a0"); !strings.Contains(got, first.Addr.String()) {
		t.Errorf("addresses %s", got)
	}
	stop()
	_, stop = serve("10.9.0.50,10.9.0.59")
	defer stop()
	flap()
	second := lease(t, n)
	if !strings.HasPrefix(second.Addr.String(), "10.9.0.5") {
		t.Errorf("in another network the lease is %v", second)
	}
	if got := ip(t, "-4 addr show dev a0"); strings.Contains(got, first.Addr.String()) {
		t.Errorf("addresses %s", got)
	}
}

// TestStatic: addresses of both families from the command line; nobody is
// asked. The card is named by its address, the other one has no link.
func TestStatic(t *testing.T) {
	if !isolate(t) {
		return
	}
	cable(t, "a0", nic, "one", "10.1.0.1/24")
	cable(t, "b0", "52:54:00:00:00:0b", "two", "10.2.0.1/24")
	ip(t, "-n one link set lan up")
	o, err := cmdline.Parse("ip=10.1.0.7::10.1.0.1:24::52-54-00-00-00-0a:none:1400 ip=[fd01::7]::[fd01::1]:64:::none:[fd01::53]")
	if err != nil {
		t.Fatal(err)
	}
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	n := run(t, network.Config{Network: o.Network, ResolvConf: resolv})
	got := map[string]bool{}
	for range 2 {
		l := lease(t, n)
		got[l.String()] = true
		if l.From != "the kernel command line" {
			t.Errorf("lease %+v", l)
		}
	}
	if !got["a0 10.1.0.7/24 via 10.1.0.1"] || !got["a0 fd01::7/64 via fd01::1"] {
		t.Errorf("leases %v", got)
	}
	if got := ip(t, "link show dev a0"); !strings.Contains(got, "mtu 1400 ") {
		t.Errorf("a0 is %s", got)
	}
	if r := ip(t, "-6 route show default"); !strings.Contains(r, "via fd01::1 dev a0") || !has(resolv, "nameserver fd01::53\n")() {
		t.Errorf("routes %q, or no name server", r)
	}
}

// inside opens something in another network namespace.
func inside[T any](t *testing.T, ns string, open func() (T, error)) T {
	t.Helper()
	type outcome struct {
		v   T
		err error
	}
	done := make(chan outcome)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		var o outcome
		defer func() { done <- o }()
		f, err := os.Open("/run/netns/" + ns)
		if err != nil {
			o.err = err
			return
		}
		defer f.Close()
		if o.err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); o.err == nil {
			o.v, o.err = open()
		}
	}()
	o := <-done
	if o.err != nil {
		t.Fatal(o.err)
	}
	return o.v
}

// TestDiscover: a server on the link answers; what is no answer to the
// question is passed over.
func TestDiscover(t *testing.T) {
	if !isolate(t) {
		return
	}
	cable(t, "a0", nic, "one", "10.1.0.1/24")
	ip(t, "-n one addr add fd01::1/64 dev lan nodad")
	ip(t, "-n one link set lan up")
	ip(t, "link set a0 up")
	ip(t, "addr add 10.1.0.2/24 dev a0")
	ip(t, "addr add fd01::2/64 dev a0 nodad")
	for _, c := range []struct{ kind, addr, url string }{{"udp4", "10.1.0.2/24", "http://10.1.0.1:80"}, {"udp6", "fd01::2/64", "http://[fd01::1]:80"}} {
		conn := inside(t, "one", func() (net.PacketConn, error) {
			conn, err := net.ListenPacket(c.kind, ":8480")
			if err != nil {
				return nil, err
			}
			ifi, err := net.InterfaceByName("lan")
			if err != nil {
				return nil, err
			}
			if c.kind == "udp4" {
				return conn, ipv4.NewPacketConn(conn).JoinGroup(ifi, net.UDPAddrFromAddrPort(api.DiscoveryGroup4()))
			}
			return conn, ipv6.NewPacketConn(conn).JoinGroup(ifi, net.UDPAddrFromAddrPort(api.DiscoveryGroup6()))
		})
		ended := make(chan struct{})
		go func() { // ends with the socket
			defer close(ended)
			buf := make([]byte, 512)
			for {
				k, from, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				nonce, err := api.ParseDiscoveryQuestion(buf[:k])
				if err != nil {
					continue
				}
				u, _ := api.ParseServerURL(c.url)
				wrong, _ := api.AppendDiscoveryAnswer(nil, api.DiscoveryNonce{}, u)
				right, _ := api.AppendDiscoveryAnswer(nil, nonce, u)
				for _, m := range [][]byte{{1, 2, 3}, wrong, right} {
					conn.WriteTo(m, from)
				}
			}
		}()
		l := network.Lease{Interface: "a0", Addr: netip.MustParsePrefix(c.addr)}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		u, err := network.Discover(ctx, l)
		if err != nil || u.String() != c.url {
			t.Errorf("%s: found %v, %v", c.kind, u, err)
		}
		cancel()
		conn.Close()
		<-ended
		// It may end while a question is sent, between two of them, or while
		// an answer is awaited: the same to who reads the error.
		for _, after := range []time.Duration{0, 499 * time.Millisecond, 500 * time.Millisecond, 501 * time.Millisecond} {
			ctx, cancel = context.WithTimeout(t.Context(), after)
			if u, err := network.Discover(ctx, l); err == nil || !strings.Contains(err.Error(), "no boot server answers") {
				t.Errorf("%s: without a server for %v: %v, %v", c.kind, after, u, err)
			}
			cancel()
		}
	}
}
