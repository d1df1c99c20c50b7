package rig_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"huck/imager/bench/rig"
)

func newNetwork(t *testing.T, cfg rig.Config) *rig.Network {
	t.Helper()
	if err := rig.Supported(); err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	n, err := rig.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// listen opens a UDP socket on a host.
func listen(t *testing.T, n *rig.Network, host int) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	err := n.Do(host, func() (err error) {
		c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: rig.Addr(host).AsSlice(), Port: 7777})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestCounts sends a known number of packets and looks for their bytes in
// every counter.
func TestCounts(t *testing.T) {
	n := newNetwork(t, rig.Config{Links: make([]rig.Link, 3)})
	from, to := listen(t, n, 0), listen(t, n, 2)
	// Neighbours are found before the count begins.
	if _, err := from.WriteTo([]byte("hello"), to.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2000)
	if _, _, err := to.ReadFrom(buf); err != nil {
		t.Fatal(err)
	}
	before, err := n.Sent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	group := netip.MustParseAddr("239.1.2.3")
	for range 10 {
		if _, err := from.WriteToUDPAddrPort(buf[:972], netip.AddrPortFrom(group, 9)); err != nil {
			t.Fatal(err)
		}
		if _, err := from.WriteTo(buf[:72], to.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		if _, _, err := to.ReadFrom(buf); err != nil {
			t.Fatal(err)
		}
	}
	for range 7 {
		if _, err := to.WriteTo(buf[:72], from.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := from.ReadFrom(buf); err != nil {
			t.Fatal(err)
		}
	}
	after, err := n.Sent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := after.Since(before)
	if got.Multicast != 10_000 || got.Groups[group] != 10_000 || got.UDP != 1_000 || got.TCP != 0 || got.Feedback != 7 {
		t.Errorf("counted %+v, want 10000 bytes of multicast and 1000 of UDP, 7 packets back", got)
	}
	// Neighbour discovery of IPv6 goes on in the background.
	if got.Total < 11_000 || got.Total > 11_000+2000 {
		t.Errorf("the interface counted %d bytes, want 11000 and little more", got.Total)
	}
}

// TestLoseFirst: exactly the first packets are lost.
func TestLoseFirst(t *testing.T) {
	n := newNetwork(t, rig.Config{Links: []rig.Link{{}, {LoseFirst: 3}}})
	from, to := listen(t, n, 0), listen(t, n, 1)
	for i := range 5 {
		if _, err := fmt.Fprint(connTo{from, to.LocalAddr()}, i); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"3", "4"} {
		buf := make([]byte, 10)
		k, _, err := to.ReadFrom(buf)
		if err != nil || string(buf[:k]) != want {
			t.Errorf("got packet %q, %v, want %s", buf[:k], err, want)
		}
	}
}

type connTo struct {
	c  *net.UDPConn
	to net.Addr
}

func (c connTo) Write(b []byte) (int, error) { return c.c.WriteTo(b, c.to) }

// TestRate: a slow link is as slow as it should be.
func TestRate(t *testing.T) {
	const rate, size = 20e6, 1 << 20
	n := newNetwork(t, rig.Config{Links: []rig.Link{{}, {Down: rate}}})
	var ln net.Listener
	err := n.Do(1, func() (err error) {
		ln, err = net.Listen("tcp4", rig.Addr(1).String()+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var out net.Conn
	if err := n.Do(0, func() (err error) { out, err = net.Dial("tcp4", ln.Addr().String()); return err }); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := out.Write(make([]byte, size))
		sent <- err
		out.Close()
	}()
	in, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	start := time.Now()
	got, err := io.Copy(io.Discard, in)
	took := time.Since(start)
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if want := time.Duration(size * 8 / rate * 0.95 * float64(time.Second)); err != nil || got != size || took < want {
		t.Errorf("%d bytes, %v in %v, want %d in at least %v", got, err, took, size, want)
	}
}

// TestProcess: programs run in their host's namespace, say what they say, and
// end with the network.
func TestProcess(t *testing.T) {
	n := newNetwork(t, rig.Config{Links: make([]rig.Link, 2)})
	log := filepath.Join(t.TempDir(), "log")
	said := make(chan string, 10)
	p, err := n.Start(1, rig.Command{Args: []string{"ip", "-4", "-brief", "addr", "show", "eth0"}, Log: log, OnLine: func(s string) { said <- s }})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if _, err := p.Ended(); err != nil || p.Usage().Memory == 0 {
		t.Errorf("ended with %v, %+v", err, p.Usage())
	}
	if line := <-said; !strings.Contains(line, rig.Addr(1).String()) {
		t.Errorf("eth0 is %q, want %v", line, rig.Addr(1))
	}
	if b, err := os.ReadFile(log); err != nil || !strings.Contains(string(b), "eth0") {
		t.Errorf("log is %q, %v", b, err)
	}
	p, err = n.Start(1, rig.Command{Args: []string{"sleep", "600"}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	n.Close()
	<-p.Done()
	if _, err := p.Ended(); err == nil {
		t.Error("a program outlived its network")
	}
}

// TestJoined sees who is in a group.
func TestJoined(t *testing.T) {
	n := newNetwork(t, rig.Config{Links: make([]rig.Link, 2)})
	check := func(want bool) {
		t.Helper()
		if got, err := n.Joined(1); err != nil || got != want {
			t.Errorf("joined: %t, %v, want %t", got, err, want)
		}
	}
	check(false)
	var c *net.UDPConn
	err := n.Do(1, func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		c, err = net.ListenMulticastUDP("udp4", eth0, &net.UDPAddr{IP: net.IPv4(239, 1, 2, 3), Port: 9000})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	check(true)
	c.Close()
	check(false)
}
