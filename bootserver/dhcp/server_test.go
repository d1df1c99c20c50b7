package dhcp_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"huck/bootserver/dhcp"
	"huck/bootserver/nettest"
)

// client runs udhcpc once and returns the variables its script got.
func client(t *testing.T, args ...string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ $1 = bound ] && env > "+dir+"/env\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "ip", append([]string{"netns", "exec", "client", "udhcpc", "-i", "cli", "-f", "-q", "-n", "-t", "15", "-T", "1", "-s", script}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("udhcpc %v: %v\n%s", args, err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	vars := map[string]string{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		vars[k] = v
	}
	return vars
}

// TestOnTheWire lets udhcpc, an implementation that is not ours, ask for
// leases.
func TestOnTheWire(t *testing.T) {
	nettest.Tool(t, "udhcpc")
	if !nettest.Isolate(t) {
		return
	}
	nettest.Veth(t, "10.0.0.1/24")
	ifi, err := net.InterfaceByName("srv")
	if err != nil {
		t.Fatal(err)
	}
	g := newRig(t, "10.0.0.100-10.0.0.103")
	ctx, cancel := context.WithCancel(t.Context())
	s, err := dhcp.Listen(ctx, dhcp.ServerConfig{Interface: ifi, Source: g.cfg.Server, Handler: g.r.Handle})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	}()

	first := client(t)
	if first["ip"] != "10.0.0.100" || first["mask"] != "24" || first["router"] != "10.0.0.254" || first["serverid"] != "10.0.0.1" || first["lease"] != "43200" || first["boot_file"] != "" {
		t.Errorf("first lease: %v", first)
	}
	if again := client(t); again["ip"] != first["ip"] {
		t.Errorf("second time %v", again["ip"])
	}
	// The ROM has another identifier, and wants its answer broadcast.
	rom := client(t, "-B", "-C", "-V", "PXEClient:Arch:00000:UNDI:002001", "-x", "0x5d:0000")
	if rom["ip"] != first["ip"] || rom["boot_file"] != "undionly.kpxe" || rom["siaddr"] != "10.0.0.1" {
		t.Errorf("as a PXE ROM: %v", rom)
	}
	if ipxe := client(t, "-V", "PXEClient:Arch:00000:UNDI:002001", "-x", "0xaf:b10101"); ipxe["boot_file"] != "http://10.0.0.1:8480/boot/ipxe" {
		t.Errorf("as iPXE: %v", ipxe)
	}
	nettest.Run(t, "ip -n client link set cli address 02:00:00:00:00:77")
	if other := client(t); other["ip"] != "10.0.0.101" {
		t.Errorf("another machine: %v", other)
	}
	renew(t)
}

// renew keeps udhcpc running with its address on the interface and makes it
// renew, which goes by unicast.
func renew(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ $1 = bound ] && ip addr replace $ip/$mask dev $interface\necho $1 $ip >> "+dir+"/log\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "ip", "netns", "exec", "client", "udhcpc", "-i", "cli", "-f", "-s", script)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	for deadline, sent := time.Now().Add(20*time.Second), false; ; {
		b, _ := os.ReadFile(filepath.Join(dir, "log"))
		if !sent && strings.Contains(string(b), "bound 10.0.0.101") {
			sent = true
			cmd.Process.Signal(syscall.SIGUSR1)
		}
		if strings.Contains(string(b), "renew 10.0.0.101") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no renewal: %q", b)
		}
		<-time.After(20 * time.Millisecond)
	}
}
