package network_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"huck/initramfs/network"
)

// isolate runs the calling test in a process with network and mount namespaces
// of its own, which vanish with it. It returns true in that process.
func isolate(t *testing.T) bool {
	t.Helper()
	const inside = "HUCK_NETWORK_TEST"
	if os.Getenv(inside) == t.Name() {
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll("/run/netns", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", "/run/netns", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if os.Getuid() != 0 {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	for _, tool := range []string{"ip", "dnsmasq"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("REQUIRE_TOOLS") == "1" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	return false
}

func ip(t *testing.T, args string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", args, err, out)
	}
	return string(out)
}

// cable makes an interface here, with the given name and MAC, whose other end
// "lan" is in a namespace of its own, down.
func cable(t *testing.T, name, mac, ns, addr string) {
	t.Helper()
	ip(t, "netns add "+ns)
	ip(t, fmt.Sprintf("link add %s address %s type veth peer name lan netns %s", name, mac, ns))
	ip(t, fmt.Sprintf("-n %s addr add %s dev lan", ns, addr))
}

// dnsmasq serves DHCP in a namespace until the test ends and returns its log
// file.
func dnsmasq(t *testing.T, ns string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log, ended := dnsmasqIn(t, ctx, ns, args...)
	t.Cleanup(func() { cancel(); <-ended })
	return log
}

// dnsmasqIn serves DHCP in a namespace until ctx is done; then ended is closed.
func dnsmasqIn(t *testing.T, ctx context.Context, ns string, args ...string) (log string, ended <-chan struct{}) {
	t.Helper()
	dir := t.TempDir()
	log = filepath.Join(dir, "log")
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", ns, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0",
		"--interface=lan", "--bind-interfaces", "--no-ping", "--user=root", "--log-dhcp", "--log-facility=" + log,
		"--pid-file=", "--dhcp-leasefile=" + filepath.Join(dir, "leases")}, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }()
	return log, done
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(what)
		}
	}
}

func lease(t *testing.T, n *network.Network) network.Lease {
	t.Helper()
	select {
	case l := <-n.Leases():
		return l
	case <-time.After(30 * time.Second):
		t.Fatalf("no lease: %v", n)
		return network.Lease{}
	}
}

func has(file, text string) func() bool {
	return func() bool { return strings.Contains(since(file, 0), text) }
}

// since returns what a log has but for its first bytes.
func since(file string, bytes int) string {
	b, _ := os.ReadFile(file) // none yet is an empty one
	return string(b[min(bytes, len(b)):])
}

// TestDHCP: against dnsmasq, with a carrier that comes late, a renewal, and a
// second network that loses.
func TestDHCP(t *testing.T) {
	if !isolate(t) {
		return
	}
	cable(t, "a0", "52:54:00:00:00:0a", "one", "10.1.0.1/24")
	cable(t, "b0", "52:54:00:00:00:0b", "two", "10.2.0.1/24")
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	boot, _ := net.ParseMAC("52:54:00:00:00:0a")
	n := network.New(network.Config{BootIF: boot, ResolvConf: resolv})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx) }()

	await(t, "both interfaces without carrier", func() bool { return strings.Count(n.String(), "no carrier") == 2 })
	ip(t, "-n one link set lan up")
	ip(t, "-n two link set lan up")
	log := dnsmasq(t, "one", "--dhcp-range=10.1.0.50,10.1.0.59,2m", "--dhcp-option-force=option:T1,5", "--dhcp-option-force=option:T2,60",
		"--dhcp-option-force=224,http://10.1.0.1:8480", "--dhcp-option=option:dns-server,10.1.0.53", "--dhcp-option=option:router,10.1.0.1")
	dnsmasq(t, "two", "--dhcp-range=10.2.0.50,10.2.0.59,2m")

	first := lease(t, n)
	if first.Interface != "a0" || !strings.HasPrefix(first.Addr.String(), "10.1.0.5") || first.Server == nil || first.Server.String() != "http://10.1.0.1:8480" {
		t.Errorf("first lease %+v", first)
	}
	if second := lease(t, n); second.Interface != "b0" {
		t.Errorf("second lease %+v", second)
	}
	if !has(log, "vendor class: huck")() {
		t.Error("dnsmasq was not told our vendor class")
	}
	if r := ip(t, "-4 route show default"); !strings.Contains(r, "default via 10.1.0.1 dev a0") {
		t.Errorf("routes %q", r)
	}
	if !has(resolv, "nameserver 10.1.0.53\n")() {
		t.Error("no name server in resolv.conf")
	}
	n.Choose("a0")
	await(t, "the other interface gives its address up", func() bool { return !strings.Contains(ip(t, "-4 addr show dev b0"), "inet") })

	// RENEWING: a REQUEST without a DISCOVER before it.
	before := len(since(log, 0))
	await(t, "renewal", func() bool { return strings.Contains(since(log, before), "DHCPACK(lan)") })
	if said := since(log, before); strings.Contains(said, "DHCPDISCOVER(lan)") {
		t.Errorf("a renewal asks who is there:\n%s", said)
	}
	if got := ip(t, "-4 addr show dev a0"); !strings.Contains(got, first.Addr.String()) {
		t.Errorf("address after renewal: %s", got)
	}
	cancel()
	<-done
	if got := ip(t, "-4 addr show dev a0"); !strings.Contains(got, first.Addr.String()) {
		t.Errorf("address after the end: %s", got)
	}
}

// TestMACs: interfaces that make their address up do not identify a machine.
func TestMACs(t *testing.T) {
	if !isolate(t) {
		return
	}
	cable(t, "a0", "52:54:00:00:00:0a", "one", "10.1.0.1/24")
	cable(t, "b0", "52:54:00:00:00:0b", "two", "10.2.0.1/24")
	ip(t, "link add br0 type bridge")
	if got := network.MACs("b0"); len(got) != 2 || got[0] != "52:54:00:00:00:0b" || got[1] != "52:54:00:00:00:0a" {
		t.Errorf("got %v", got)
	}
}
