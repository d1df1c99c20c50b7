package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"huck/imager/api"
)

// network is a bridge in a network namespace of its own with hosts in others.
type network struct {
	t    *testing.T
	name string
}

// newNetwork makes n hosts, 0 the server. Host i has 10.77.0.(i+1) and
// fd77::(i+1) on eth0. It needs root.
func newNetwork(t *testing.T, n int) *network {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal("network namespaces need root")
		}
		t.Skip("network namespaces need root")
	}
	nw := &network{t, fmt.Sprintf("huck-cli-%d", os.Getpid())}
	t.Cleanup(func() {
		for i := -1; i < n; i++ {
			// What was never made cannot be deleted; the rest goes with its links.
			_ = exec.Command("ip", "netns", "del", nw.ns(i)).Run()
		}
	})
	for i := -1; i < n; i++ {
		tool(t, "ip", "netns", "add", nw.ns(i))
	}
	tool(t, "ip", "-n", nw.ns(-1), "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	tool(t, "ip", "-n", nw.ns(-1), "link", "set", "br0", "up")
	for i := range n {
		port := fmt.Sprintf("p%d", i)
		tool(t, "ip", "-n", nw.ns(-1), "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", nw.ns(i))
		tool(t, "ip", "-n", nw.ns(-1), "link", "set", port, "master", "br0", "up")
		tool(t, "ip", "-n", nw.ns(i), "link", "set", "lo", "up")
		tool(t, "ip", "-n", nw.ns(i), "addr", "add", fmt.Sprintf("10.77.0.%d/24", i+1), "dev", "eth0")
		tool(t, "ip", "-n", nw.ns(i), "addr", "add", fmt.Sprintf("fd77::%x/64", i+1), "dev", "eth0", "nodad")
		tool(t, "ip", "-n", nw.ns(i), "link", "set", "eth0", "up")
	}
	return nw
}

func (nw *network) ns(i int) string { return nw.name + "-" + strconv.Itoa(i+1) }

func (nw *network) command(host int, bin string, args ...string) *exec.Cmd {
	c := exec.CommandContext(nw.t.Context(), "ip", append([]string{"netns", "exec", nw.ns(host), bin}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}

func (nw *network) sentBytes(host int) int64 {
	nw.t.Helper()
	b, err := nw.command(host, "cat", "/sys/class/net/eth0/statistics/tx_bytes").Output()
	if err != nil {
		nw.t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		nw.t.Fatal(err)
	}
	return n
}

// TestMulticast lets three machines receive an image at once from the real
// program, over IPv4 and IPv6. The rate is low, so that a receiver that a busy
// machine starts late misses little.
func TestMulticast(t *testing.T) {
	const receivers = 3
	nw := newNetwork(t, receivers+1)
	bin := filepath.Join(t.TempDir(), "imager")
	tool(t, "go", "build", "-o", bin, "huck/imager")
	disk, st := ext4Disk(t, 1), filepath.Join(t.TempDir(), "store")
	want(t, 0, nil, "capture", disk, "--store", st, "--name", "golden")

	for _, server := range []string{"10.77.0.1", "[fd77::1]"} {
		t.Run(server, func(t *testing.T) {
			send := nw.command(0, bin, "--json", "send", "golden", "--store", st, "--listen", server+":0", "--interface", "eth0", "--rate", "20M")
			send.Stderr = t.Output()
			out, err := send.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := send.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			var ready struct{ HTTP string }
			if !lines.Scan() || json.Unmarshal(lines.Bytes(), &ready) != nil {
				t.Fatalf("no ready line: %q", lines.Text())
			}
			before := nw.sentBytes(0)
			encoded := nw.receive(t, bin, "http://"+ready.HTTP+"/golden", receivers)
			if sent := nw.sentBytes(0) - before; float64(sent) > 1.15*float64(encoded) {
				t.Errorf("%d bytes sent for %d encoded to %d receivers: %.3f, want at most 1.15", sent, encoded, receivers, float64(sent)/float64(encoded))
			}
			if err := send.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := send.Wait(); err != nil {
				t.Errorf("send ended with %v", err)
			}
		})
	}
}

// receive runs n receivers at once, checks what each ends with and returns
// the image's encoded size.
func (nw *network) receive(t *testing.T, bin, url string, n int) int64 {
	t.Helper()
	cmds, outs := make([]*exec.Cmd, n), make([]bytes.Buffer, n)
	targets := make([]string, n)
	for i := range n {
		targets[i] = filepath.Join(t.TempDir(), "target")
		cmds[i] = nw.command(i+1, bin, "--json", "receive", url, "--to", targets[i], "--verify")
		cmds[i].Stdout, cmds[i].Stderr = &outs[i], t.Output()
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	var encoded int64
	for i := range n {
		if err := cmds[i].Wait(); err != nil {
			t.Fatalf("receiver %d: %v", i, err)
		}
		var done api.Result
		if err := json.Unmarshal(outs[i].Bytes(), &done); err != nil {
			t.Fatalf("receiver %d printed %q: %v", i, outs[i].String(), err)
		}
		if done.Received["multicast"] == 0 || done.Received["http"] > done.EncodedBytes/20 {
			t.Errorf("receiver %d: %+v, want nearly all by multicast", i, done)
		}
		tool(t, "e2fsck", "-fn", targets[i])
		encoded = done.EncodedBytes
	}
	return encoded
}
