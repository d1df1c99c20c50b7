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
	"huck/imager/origin"
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

// send starts `imager send golden` on host 0 and returns where it answers, and
// how to end it.
func (nw *network) send(t *testing.T, bin, st, server string, flags ...string) (url string, stop func()) {
	t.Helper()
	args := append([]string{"--json", "send", "golden", "--store", st, "--listen", server + ":0", "--interface", "eth0"}, flags...)
	cmd := nw.command(0, bin, args...)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("send ended with %v", err)
		}
	}
	lines := bufio.NewScanner(out)
	var ready struct{ HTTP string }
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &ready) != nil {
		stop()
		t.Fatalf("no ready line: %q", lines.Text())
	}
	return "http://" + ready.HTTP + "/golden", stop
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
			url, stop := nw.send(t, bin, st, server, "--rate", "20M")
			defer stop()
			before := nw.sentBytes(0)
			encoded := nw.receive(t, bin, url, receivers)
			if sent := nw.sentBytes(0) - before; float64(sent) > 1.15*float64(encoded) {
				t.Errorf("%d bytes sent for %d encoded to %d receivers: %.3f, want at most 1.15", sent, encoded, receivers, float64(sent)/float64(encoded))
			}
		})
	}
}

// receiver is a running `imager receive`.
type receiver struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    bytes.Buffer
	said   *bufio.Scanner // its log
	target string
}

// start starts a receiver on a host. What it says has room in a pipe until
// somebody reads it.
func (nw *network) start(t *testing.T, host int, bin, url string) *receiver {
	t.Helper()
	r := &receiver{t: t, target: filepath.Join(t.TempDir(), "target")}
	r.cmd = nw.command(host, bin, "--json", "receive", url, "--to", r.target, "--verify")
	r.cmd.Stdout = &r.out
	said, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.said = bufio.NewScanner(said)
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return r
}

// await reads what the receiver says up to a line with these words, or all.
func (r *receiver) await(words string) bool {
	for r.said.Scan() {
		fmt.Fprintln(r.t.Output(), r.said.Text())
		if words != "" && strings.Contains(r.said.Text(), words) {
			return true
		}
	}
	return false
}

// result waits for the receiver's end and checks what it wrote.
func (r *receiver) result() (done api.Result) {
	r.t.Helper()
	r.await("")
	if err := r.cmd.Wait(); err != nil {
		r.t.Fatal(err)
	}
	if err := json.Unmarshal(r.out.Bytes(), &done); err != nil {
		r.t.Fatalf("receiver printed %q: %v", r.out.String(), err)
	}
	tool(r.t, "e2fsck", "-fn", r.target)
	return done
}

// TestMulticastComesLate: a machine that no multicast reaches takes the image
// over HTTP, held to a small share so that the other machine gets all of the
// channel; when multicast does reach it, it goes on with that.
func TestMulticastComesLate(t *testing.T) {
	nw := newNetwork(t, 3)
	bin := filepath.Join(t.TempDir(), "imager")
	tool(t, "go", "build", "-o", bin, "huck/imager")
	disk, st := ext4Disk(t, 1), filepath.Join(t.TempDir(), "store")
	want(t, 0, nil, "capture", disk, "--store", st, "--name", "golden")
	const late = 2
	nft := func(args ...string) {
		t.Helper()
		tool(t, "ip", append([]string{"netns", "exec", nw.ns(late), "nft"}, args...)...)
	}
	nft("add", "table", "inet", "huck")
	nft("add", "chain", "inet", "huck", "in", "{ type filter hook input priority 0; }")
	nft("add", "rule", "inet", "huck", "in", "udp", "dport", strconv.Itoa(origin.DefaultPort), "drop")

	// At this rate the channel is busy until after the first retry.
	url, stop := nw.send(t, bin, st, "10.77.0.1", "--rate", "2M")
	defer stop()
	first, second := nw.start(t, 1, bin, url), nw.start(t, late, bin, url)
	if !second.await("going on over HTTP") {
		t.Fatal("nobody said that there is no multicast")
	}
	nft("delete", "table", "inet", "huck")
	if !second.await("multicast arrives") {
		t.Error("nobody said that multicast arrives")
	}
	done := second.result()
	if n := done.Received["http"]; n == 0 || n > done.EncodedBytes*6/10 {
		t.Errorf("%d of %d bytes came over HTTP: want some, held to a small share", n, done.EncodedBytes)
	}
	if n := done.Received["multicast"]; n < done.EncodedBytes*3/10 {
		t.Errorf("%d of %d bytes came by multicast", n, done.EncodedBytes)
	}
	if r := first.result(); r.Received["http"] > r.EncodedBytes/20 {
		t.Errorf("the other machine: %+v", r)
	}
}

// receive runs n receivers at once, checks what each ends with and returns
// the image's encoded size.
func (nw *network) receive(t *testing.T, bin, url string, n int) int64 {
	t.Helper()
	rs := make([]*receiver, n)
	for i := range n {
		rs[i] = nw.start(t, i+1, bin, url)
	}
	var encoded int64
	for i, r := range rs {
		done := r.result()
		if done.Received["multicast"] == 0 || done.Received["http"] > done.EncodedBytes/20 {
			t.Errorf("receiver %d: %+v, want nearly all by multicast", i, done)
		}
		encoded = done.EncodedBytes
	}
	return encoded
}
