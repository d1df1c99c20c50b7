package dhcp_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"huck/bootserver/dhcp"
	"huck/bootserver/nettest"
)

// dnsmasq runs the network's own DHCP server, which knows nothing of booting,
// in its namespace. A delay in seconds lets it answer late.
func dnsmasq(t *testing.T, delay int) (stop func()) {
	t.Helper()
	return nettest.Start(t, fmt.Sprintf("ip netns exec campus dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0"+
		" --interface=net --bind-interfaces --dhcp-range=10.0.0.50,10.0.0.60,1h --dhcp-authoritative --dhcp-leasefile=/dev/null"+
		" --no-ping --log-facility=- --user=root --pid-file= --dhcp-reply-delay=%d", delay), "sockets bound")
}

// machine is a scripted ROM in the namespace "client".
type machine struct {
	t    *testing.T
	kind string // of firmware
	// heard, if set, gets the server of each offer.
	heard chan string
}

// socket opens a UDP socket of the client's interface.
func (m *machine) socket(port int) net.PacketConn {
	m.t.Helper()
	var conn net.PacketConn
	var err error
	nettest.In(m.t, "client", func() {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var opt error
			ctl := c.Control(func(fd uintptr) {
				if opt = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "net"); opt == nil {
					opt = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
				}
			})
			if ctl != nil {
				return ctl
			}
			return opt
		}}
		conn, err = lc.ListenPacket(m.t.Context(), "udp4", fmt.Sprintf(":%d", port))
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return conn
}

// say sends a message and collects answers to it until enough says so.
func (m *machine) say(conn net.PacketConn, to net.IP, port int, kind dhcpv4.MessageType, mods []dhcpv4.Modifier, enough func([]*dhcpv4.DHCPv4) bool) []*dhcpv4.DHCPv4 {
	m.t.Helper()
	req := ask(m.t, kind, append(append([]dhcpv4.Modifier{dhcpv4.WithBroadcast(true)}, firmware[m.kind]...), mods...)...)
	if _, err := conn.WriteTo(req.ToBytes(), &net.UDPAddr{IP: to, Port: port}); err != nil {
		m.t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var got []*dhcpv4.DHCPv4
	buf := make([]byte, 2000)
	for !enough(got) {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			m.t.Fatalf("%s: %v to port %d: %v after %d answers", m.kind, kind, port, err, len(got))
		}
		reply, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			m.t.Fatal(err)
		}
		if reply.TransactionID != req.TransactionID {
			continue
		}
		if from.(*net.UDPAddr).Port != port {
			m.t.Errorf("%s: an answer from port %d to a message for port %d", m.kind, from.(*net.UDPAddr).Port, port)
		}
		got = append(got, reply)
		if m.heard != nil && kind == discover {
			m.heard <- reply.ServerIdentifier().String()
		}
	}
	return got
}

// boot does what a ROM does from power-on to its file, with offers merged as
// the kind of firmware does it, and returns its address, next server and file.
func (m *machine) boot() string {
	m.t.Helper()
	conn := m.socket(68)
	defer conn.Close()
	offers := m.say(conn, net.IPv4bcast, 67, discover, nil, func(got []*dhcpv4.DHCPv4) bool { return len(got) == 2 })
	lease, proxy := merge(m.kind, offers)
	if lease == nil || proxy == nil {
		return fmt.Sprintf("lease %v, proxy %v", lease, proxy)
	}
	ack := m.say(conn, net.IPv4bcast, 67, request, []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(lease.YourIPAddr)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(lease.ServerIdentifier())),
	}, func(got []*dhcpv4.DHCPv4) bool { return len(got) == 1 })[0]
	if ack.MessageType() != dhcpv4.MessageTypeAck || ack.ServerIdentifier().String() != "10.0.0.2" {
		m.t.Fatalf("%s: %s", m.kind, ack.Summary())
	}
	if asksAgain(m.kind, proxy) {
		nettest.Run(m.t, fmt.Sprintf("ip -n client addr add %v/24 dev net", ack.YourIPAddr))
		defer nettest.Run(m.t, fmt.Sprintf("ip -n client addr del %v/24 dev net", ack.YourIPAddr))
		from := conn
		if strings.HasPrefix(m.kind, "UEFI") { // edk2 listens on the server's port
			from = m.socket(dhcp.BootServerPort)
			defer from.Close()
		}
		proxy = m.say(from, proxy.ServerIPAddr, dhcp.BootServerPort, request, []dhcpv4.Modifier{dhcpv4.WithClientIP(ack.YourIPAddr)},
			func(got []*dhcpv4.DHCPv4) bool { return len(got) == 1 })[0]
	}
	return fmt.Sprintf("%v, %v %s", ack.YourIPAddr, proxy.ServerIPAddr, proxy.BootFileName)
}

// merge picks the offer of an address and the one of a file. The rules are
// edk2's (PxeBcDhcp4.c, HttpBootDhcp4.c), with the mistake of issue 6944 for
// all UEFI PXE, and iPXE's (net/udp/dhcp.c).
func merge(kind string, offers []*dhcpv4.DHCPv4) (lease, proxy *dhcpv4.DHCPv4) {
	for _, o := range offers {
		class := o.ClassIdentifier()
		control := len(o.Options.Get(optionVendor)) > 0
		switch {
		case !o.YourIPAddr.IsUnspecified():
			lease = o
		case kind == "HTTP" && (class != "HTTPClient" || !strings.HasPrefix(o.BootFileNameOption(), "http://10.")),
			kind != "HTTP" && !strings.HasPrefix(class, "PXEClient"),
			strings.HasPrefix(kind, "UEFI") && !strings.Contains(kind, "iPXE") && control,
			kind == "BIOS" && !control:
		default:
			proxy = o
		}
	}
	return lease, proxy
}

// asksAgain reports whether firmware goes to port 4011 for its file.
func asksAgain(kind string, proxy *dhcpv4.DHCPv4) bool {
	switch kind {
	case "BIOS":
		v := proxy.Options.Get(optionVendor)
		return !strings.Contains(string(v), "\x06\x01\x08")
	case "HTTP", "iPXE", "UEFI iPXE":
		return false
	}
	return true
}

// TestBesideAnother boots every kind of firmware beside dnsmasq, which leases,
// with both orders of the answers.
func TestBesideAnother(t *testing.T) {
	nettest.Tool(t, "dnsmasq")
	if !nettest.Isolate(t) {
		return
	}
	nettest.Switch(t, "10.0.0.1/24", "campus", "client")
	nettest.Run(t, "ip -n campus addr add 10.0.0.2/24 dev net")
	ifi, err := net.InterfaceByName("srv")
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 100)
	p := newProxy(t)
	// late holds our answer back until the client has heard the other's.
	late := func(ctx context.Context, req *dhcpv4.DHCPv4, now time.Time) (*dhcpv4.DHCPv4, error) {
		for {
			select {
			case server := <-heard:
				if server == "10.0.0.2" {
					return p.Handle(ctx, req, now)
				}
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	for order, c := range map[string]struct {
		handler dhcp.Handler
		heard   chan string
		delay   int // of dnsmasq, seconds
	}{
		"proxy first": {p.Handle, nil, 1},
		"proxy last": {func(ctx context.Context, req *dhcpv4.DHCPv4, now time.Time) (*dhcpv4.DHCPv4, error) {
			if req.MessageType() != discover {
				return p.Handle(ctx, req, now)
			}
			return late(ctx, req, now)
		}, heard, 0},
	} {
		stop := dnsmasq(t, c.delay)
		ctx, cancel := context.WithCancel(t.Context())
		s, err := dhcp.Listen(ctx, dhcp.ServerConfig{Interface: ifi, Source: bootConfig.Server, Handler: c.handler, BootServer: p.HandleBoot})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		for kind, want := range map[string]string{
			"BIOS": "undionly.kpxe", "UEFI": "huck.efi", "UEFI BC": "huck.efi", "HTTP": "http://10.0.0.1:8480/boot/huck.efi", "iPXE": script, "UEFI iPXE": script,
		} {
			got := (&machine{t: t, kind: kind, heard: c.heard}).boot()
			if !strings.HasPrefix(got, "10.0.0.5") || !strings.HasSuffix(got, ", 10.0.0.1 "+want) {
				t.Errorf("%s, %s: %s", order, kind, got)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
		stop()
	}
}
