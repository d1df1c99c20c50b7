package main

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"huck/bootserver/nettest"
)

// campus starts a network that has a DHCP server, and waits for nothing else.
func campus(t *testing.T) (stop func()) {
	t.Helper()
	nettest.Switch(t, "10.0.0.1/24", "campus", "client")
	nettest.Run(t, "ip -n campus addr add 10.0.0.2/24 dev net")
	return nettest.Start(t, "ip netns exec campus dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface=net --bind-interfaces"+
		" --dhcp-range=10.0.0.150,10.0.0.160,1h --dhcp-authoritative --dhcp-leasefile=/dev/null --no-ping --log-facility=- --user=root --pid-file=", "sockets bound")
}

// logged waits until the server's log has said words.
func (r *running) logged(t *testing.T, words string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(r.log.String(), words); {
		if time.Now().After(deadline) {
			t.Fatalf("the log does not say %q:\n%s", words, r.log)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// TestProxyServes: `serve --dhcp proxy` sees that the network has a DHCP server,
// tells UEFI firmware its file, and says nothing to a system.
func TestProxyServes(t *testing.T) {
	nettest.Tool(t, "dnsmasq")
	if !nettest.Isolate(t) {
		return
	}
	stop := campus(t)
	defer stop()
	srv := start(t, "--interface", "srv", "--data", t.TempDir(), "--netboot", netboot(t), "--dhcp", "proxy")
	srv.logged(t, "beside the network's DHCP server")
	var conn net.PacketConn
	var err error
	nettest.In(t, "client", func() {
		nettest.Run(t, "ip -n client route add 255.255.255.255/32 dev net")
		conn, err = net.ListenPacket("udp4", ":68")
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for class, want := range map[string]string{"PXEClient:Arch:00007:UNDI:003016": "huck.efi", "MSFT 5.0": ""} {
		m, err := dhcpv4.NewDiscovery(net.HardwareAddr{2, 0, 0, 0, 0, 1}, dhcpv4.WithBroadcast(true),
			dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class)), dhcpv4.WithOption(dhcpv4.OptClientArch(iana.EFI_X86_64)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
			t.Fatal(err)
		}
		file, wait := "", 20*time.Second
		if want == "" {
			wait = 2 * time.Second // nothing is to come
		}
		conn.SetReadDeadline(time.Now().Add(wait))
		for buf := make([]byte, 2000); file == ""; {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				break
			}
			if o, err := dhcpv4.FromBytes(buf[:n]); err == nil && o.TransactionID == m.TransactionID && o.ServerIdentifier().String() == "10.0.0.1" {
				file = o.BootFileName
				if !o.YourIPAddr.IsUnspecified() {
					t.Errorf("%s is leased %v", class, o.YourIPAddr)
				}
			}
		}
		if file != want {
			t.Errorf("%s is told %q, want %q", class, file, want)
		}
	}
	srv.ends(t)
}

// TestRivalIsNamed: a server that leases warns of another that does.
func TestRivalIsNamed(t *testing.T) {
	nettest.Tool(t, "dnsmasq")
	if !nettest.Isolate(t) {
		return
	}
	stop := campus(t)
	defer stop()
	srv := start(t, "--interface", "srv", "--data", t.TempDir(), "--netboot", netboot(t), "--dhcp", "authoritative", "--pool", "10.0.0.50-10.0.0.60")
	srv.logged(t, `"level":"ERROR","msg":"ANOTHER DHCP SERVER`)
	if !strings.Contains(srv.log.String(), `"server":"10.0.0.2"`) {
		t.Errorf("it is not named:\n%s", srv.log)
	}
	if out, _, _ := command(t, "events", "--server", srv.url); !strings.Contains(out, "another DHCP server, 10.0.0.2,") {
		t.Errorf("no event of it:\n%s", out)
	}
	srv.ends(t)
}
