package ra_test

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"huck/bootserver/nettest"
	"huck/bootserver/ra"
)

// TestOnTheWire lets rdisc6, an implementation that is not ours, solicit and
// print what it gets; then dnsmasq advertises as a router, and we fall silent.
func TestOnTheWire(t *testing.T) {
	for _, tool := range []string{"rdisc6", "dnsmasq"} {
		nettest.Tool(t, tool)
	}
	if !nettest.Isolate(t) {
		return
	}
	nettest.Veth(t, "")
	ifi, err := net.InterfaceByName("srv")
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- ra.New(ifi, ra.Network{}, slog.New(slog.NewTextHandler(&log, nil))).Run(ctx) }()

	var out string
	for !strings.Contains(out, "Router lifetime") {
		if ctx.Err() != nil {
			t.Fatalf("no advertisement: %s", out)
		}
		b, _ := exec.CommandContext(ctx, "ip", "netns", "exec", "client", "rdisc6", "-1", "-r", "2", "-w", "500", "cli").CombinedOutput()
		out = string(b)
	}
	t.Log(out)
	for _, want := range []string{"Hop limit                 :    undefined", "Stateful address conf.    :           No", "Router lifetime           :            0 (0x00000000) seconds"} {
		if !strings.Contains(out, want) {
			t.Errorf("advertisement lacks %q", want)
		}
	}
	if strings.Contains(out, "Prefix") {
		t.Error("advertisement has a prefix")
	}
	routes := nettest.Run(t, "ip -n client -6 route show default")
	if routes != "" {
		t.Errorf("the client got a default route: %s", routes)
	}

	nettest.Run(t, "ip -n client addr add 2001:db8::1/64 dev cli nodad")
	router := exec.CommandContext(ctx, "ip", "netns", "exec", "client", "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0",
		"--interface=cli", "--enable-ra", "--dhcp-range=2001:db8::,ra-only", "--leasefile-ro")
	pipe, err := router.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := router.Start(); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for sc := bufio.NewScanner(pipe); sc.Scan(); {
			t.Log(sc.Text())
		}
	}()
	defer func() { router.Process.Kill(); <-drained; router.Wait() }()
	select {
	case err := <-done:
		if err != nil || !strings.Contains(log.String(), "another IPv6 router") {
			t.Errorf("ended with %v, log %s", err, log.String())
		}
	case <-ctx.Done():
		t.Fatalf("still advertising beside a router; log: %s", log.String())
	}
}

// TestPrefix: a Linux client makes an address of the prefix, without a route
// that leads nowhere, and rdisc6 reads what else we say.
func TestPrefix(t *testing.T) {
	nettest.Tool(t, "rdisc6")
	if !nettest.Isolate(t) {
		return
	}
	nettest.Veth(t, "fd01::1/64")
	ifi, err := net.InterfaceByName("srv")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	done := make(chan error, 1)
	s := ra.New(ifi, ra.Network{Prefix: netip.MustParsePrefix("fd01::1/64"), DNS: []netip.Addr{netip.MustParseAddr("fd01::53")}}, nil)
	go func() { done <- s.Run(ctx) }()
	var out string
	for !strings.Contains(out, "Prefix") {
		if ctx.Err() != nil {
			t.Fatalf("no advertisement: %s", out)
		}
		b, _ := exec.CommandContext(ctx, "ip", "netns", "exec", "client", "rdisc6", "-1", "-r", "2", "-w", "500", "cli").CombinedOutput()
		out = string(b)
	}
	for _, want := range []string{"Stateful address conf.    :           No", "Stateful other conf.      :          Yes", "Router lifetime           :            0 (0x00000000) seconds",
		" Prefix                   : fd01::/64", "On-link                 :          Yes", "Autonomous address conf.:          Yes",
		"Valid time              :        43200 (0x0000a8c0) seconds", "Recursive DNS server     : fd01::53"} {
		if !strings.Contains(out, want) {
			t.Errorf("advertisement lacks %q:\n%s", want, out)
		}
	}
	for !strings.Contains(nettest.Run(t, "ip -n client -6 addr show dev cli scope global -tentative"), "inet6 fd01::") {
		if ctx.Err() != nil {
			t.Fatal("the client has made no address")
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	if routes := nettest.Run(t, "ip -n client -6 route show default"); routes != "" {
		t.Errorf("the client got a default route: %s", routes)
	}
	cancel()
	if err := <-done; err != nil || s.Silent() {
		t.Errorf("ended with %v, silent %v", err, s.Silent())
	}
}
