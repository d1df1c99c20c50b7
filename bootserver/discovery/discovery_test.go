package discovery_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"os"
	"testing"
	"time"

	"huck/bootserver/discovery"
	"huck/bootserver/nettest"
	"huck/imager/api"
)

// TestAnswers: over both families, with the family's URL, to the asker; what is
// no question is passed over, and a flood is cut off.
func TestAnswers(t *testing.T) {
	if !nettest.Isolate(t) {
		return
	}
	nettest.Veth(t, "10.0.0.1/24")
	nettest.Run(t, "ip addr add fd01::1/64 dev srv nodad")
	ifi, err := net.InterfaceByName("srv")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	url4, url6 := &url.URL{Scheme: "http", Host: "10.0.0.1:8480"}, &url.URL{Scheme: "http", Host: "[fd01::1]:8480"}
	s, err := discovery.Listen(ctx, discovery.Config{Interface: ifi, URL4: url4, URL6: url6})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	nettest.Run(t, "ip -n client addr add 10.0.0.2/24 dev cli")
	nettest.Run(t, "ip -n client addr add fd01::2/64 dev cli nodad")
	for kind, c := range map[string]struct {
		group netip.AddrPort
		want  string
	}{
		"udp4": {api.DiscoveryGroup4(), url4.String()},
		"udp6": {netip.AddrPortFrom(api.DiscoveryGroup6().Addr().WithZone("cli"), api.DiscoveryPort), url6.String()},
	} {
		nettest.Run(t, "ip -n client route replace 239.0.0.0/8 dev cli")
		var conn net.PacketConn
		var to *net.UDPAddr
		var err error
		nettest.In(t, "client", func() {
			to, _ = net.ResolveUDPAddr(kind, c.group.String()) // the zone is the client's
			conn, err = net.ListenPacket(kind, ":0")
		})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// ask returns the answers to b: as many as there must be, however long
		// they take, and those that come soon after.
		ask := func(b []byte, times, least int) (answers [][]byte) {
			for range times {
				if _, err := conn.WriteTo(b, to); err != nil {
					t.Fatal(err)
				}
			}
			for {
				wait := 400 * time.Millisecond
				if len(answers) < least {
					wait = 10 * time.Second
				}
				conn.SetReadDeadline(time.Now().Add(wait))
				buf := make([]byte, 512)
				n, _, err := conn.ReadFrom(buf)
				if errors.Is(err, os.ErrDeadlineExceeded) {
					return answers
				}
				if err != nil {
					t.Fatal(err)
				}
				answers = append(answers, buf[:n])
			}
		}
		nonce := api.DiscoveryNonce{1, 2, 3}
		question := api.AppendDiscoveryQuestion(nil, nonce)
		if got := ask(question[:100], 1, 0); got != nil {
			t.Errorf("%s: a short question is answered %q", kind, got)
		}
		got := ask(question, 1, 1)
		if len(got) != 1 {
			t.Fatalf("%s: %d answers", kind, len(got))
		}
		n, u, err := api.ParseDiscoveryAnswer(got[0])
		if err != nil || n != nonce || u.String() != c.want {
			t.Errorf("%s: answered %v, %v, %v", kind, n, u, err)
		}
		if got := ask(question, 1000, 0); len(got) > 600 { // 200 a second, of a second or two
			t.Errorf("%s: a flood of 1000 is answered %d times", kind, len(got))
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
