package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"huck/bootserver/nettest"
)

// TestIPv6Only: on an interface without IPv4 machines get a prefix, files over
// HTTP and TFTP, and a script that names an address they can reach.
func TestIPv6Only(t *testing.T) {
	for _, tool := range []string{"curl", "tftp", "rdisc6"} {
		nettest.Tool(t, tool)
	}
	if !nettest.Isolate(t) {
		return
	}
	nettest.Veth(t, "fd01::1/64")
	if _, stderr, code := command(t, "serve", "--interface", "srv", "--data", t.TempDir(), "--dhcp", "proxy"); code != exitUsage || !strings.Contains(stderr, "no IPv4 address") {
		t.Errorf("a proxy without IPv4: code %d, %s", code, stderr)
	}
	srv := start(t, "--interface", "srv", "--data", t.TempDir(), "--dhcp", "authoritative", "--netboot", netboot(t), "--dns", "fd01::53")
	if !strings.HasPrefix(srv.url, "http://[fd01::1]:") {
		t.Fatalf("serves at %s", srv.url)
	}
	deadline := time.Now().Add(30 * time.Second)
	for !strings.Contains(nettest.Run(t, "ip -n client -6 addr show dev cli scope global -tentative"), "inet6 fd01::") {
		if time.Now().After(deadline) {
			t.Fatalf("the client has made no address: %s", srv.log)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
	if script := inClient(t, "curl", "-gsS", srv.url+"/boot/ipxe"); !strings.Contains(script, "huck.server="+srv.url+" ") {
		t.Errorf("the script is %s", script)
	}
	got := filepath.Join(t.TempDir(), "got")
	inClient(t, "tftp", "-6", "-m", "binary", "fd01::1", "-c", "get", "huck.efi", got)
	if b, err := os.ReadFile(got); err != nil || string(b) != "content of huck.efi" {
		t.Errorf("over TFTP came %q, %v", b, err)
	}
	srv.ends(t)
}

// TestBothFamilies: each machine is told an address of the family it asks over.
func TestBothFamilies(t *testing.T) {
	nettest.Tool(t, "curl")
	if !nettest.Isolate(t) {
		return
	}
	nettest.Veth(t, "10.0.0.1/24")
	nettest.Run(t, "ip addr add fd01::1/64 dev srv nodad")
	nettest.Run(t, "ip -n client addr add 10.0.0.2/24 dev cli")
	nettest.Run(t, "ip -n client addr add fd01::2/64 dev cli nodad")
	srv := start(t, "--interface", "srv", "--data", t.TempDir(), "--netboot", netboot(t))
	_, port, err := net.SplitHostPort(srv.http)
	if err != nil {
		t.Fatal(err)
	}
	for _, base := range []string{"http://10.0.0.1:" + port, "http://[fd01::1]:" + port} {
		if script := inClient(t, "curl", "-gsS", base+"/boot/ipxe"); !strings.Contains(script, "huck.server="+base+" ") {
			t.Errorf("over %s the script is %s", base, script)
		}
	}
}
