package dhcp6_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"huck/bootserver/dhcp6"
	"huck/bootserver/nettest"
)

// TestDhclient lets ISC's client, which is not ours, get an address and the
// rest, and the rest alone.
func TestDhclient(t *testing.T) {
	nettest.Tool(t, "dhclient")
	if !nettest.Isolate(t) {
		return
	}
	nettest.Veth(t, prefix.String())
	ifi, err := net.InterfaceByName("srv")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	answered := make(chan string, 16)
	r := responder(t, func(c *dhcp6.Config) { c.MAC = ifi.HardwareAddr })
	s, err := dhcp6.Listen(ctx, dhcp6.ServerConfig{Interface: ifi, Responder: r, Answered: func(_, reply *dhcpv6.Message, from netip.Addr) {
		answered <- reply.MessageType.String() + " to " + from.String()
	}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()

	for !strings.Contains(nettest.Run(t, "ip -n client -6 addr show dev cli scope link -tentative"), "inet6 fe80::") {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("the client has no link-local address")
		}
	}
	dir := t.TempDir()
	conf, script := filepath.Join(dir, "conf"), filepath.Join(dir, "script")
	words := "option dhcp6.bootfile-url code 59 = text;\nrequest dhcp6.name-servers, dhcp6.bootfile-url;\n"
	if err := os.WriteFile(conf, []byte(words), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"got reason=$reason addr=$new_ip6_address dns=$new_dhcp6_name_servers url=$new_dhcp6_bootfile_url\"\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	// client returns what the client says until its script has told of a reply; with
	// -d it would stay.
	client := func(args ...string) string {
		t.Helper()
		all := append([]string{"netns", "exec", "client", "dhclient", "-6", "-1", "-d", "-cf", conf, "-sf", script,
			"-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid")}, args...)
		run, stop := context.WithTimeout(ctx, 25*time.Second)
		defer stop()
		cmd := exec.CommandContext(run, "ip", append(all, "cli")...)
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = cmd.Stdout
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for lines := bufio.NewScanner(pipe); !strings.Contains(out.String(), "dns=fd01::53 ") && lines.Scan(); {
			fmt.Fprintln(&out, lines.Text())
		}
		for reply := ""; !strings.HasPrefix(reply, "REPLY to fe80::"); {
			select {
			case reply = <-answered:
			case <-run.Done():
				t.Fatalf("no reply; dhclient says %s", &out)
			}
		}
		stop()
		_ = cmd.Wait() // it was ended
		return out.String()
	}
	if out := client(); !strings.Contains(out, "reason=BOUND6 addr=fd01::") || !strings.Contains(out, "dns=fd01::53 url=http://[fd01::1]:8480") {
		t.Errorf("with an address: %s", out)
	}
	if out := client("-S"); !strings.Contains(out, "url=http://[fd01::1]:8480") || strings.Contains(out, "addr=fd01") {
		t.Errorf("without an address: %s", out)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
