package lab_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"huck/qemu-tests/lab"
	"huck/qemu-tests/proc"
)

func network(t *testing.T) *lab.Network {
	t.Helper()
	missing := ""
	if os.Getuid() != 0 {
		missing = "needs root"
	}
	for _, tool := range []string{"ip", "nft", "tc", "ethtool", "bash"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = err.Error()
		}
	}
	switch {
	case missing != "" && os.Getenv("REQUIRE_TOOLS") == "1":
		t.Fatal(missing)
	case missing != "":
		t.Skip(missing)
	}
	n, err := lab.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func run(t *testing.T, n *lab.Network, args ...string) string {
	t.Helper()
	out, err := proc.Run(t.Context(), proc.Command{Netns: n.Netns, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// send sends n datagrams of 1000 IP bytes.
func send(t *testing.T, network *lab.Network, n int, to string) {
	t.Helper()
	run(t, network, "bash", "-c", fmt.Sprintf("for ((i = 0; i < %d; i++)); do printf %%972s x; done > /dev/udp/%s/9", n, to))
}

func TestSentCountsIPBytes(t *testing.T) {
	n := network(t)
	run(t, n, "ip", "route", "add", "224.0.0.0/4", "dev", lab.Interface)
	run(t, n, "ip", "neighbour", "add", "10.77.0.9", "lladdr", "52:54:00:00:00:09", "dev", lab.Interface)
	before, err := n.Sent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send(t, n, 20, "239.1.1.1")
	send(t, n, 30, "10.77.0.9")
	after, err := n.Sent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sent := after.Sub(before)
	// The kernel's own MLD reports may add a few hundred bytes of multicast.
	if sent.Unicast != 30_000 || sent.Multicast < 20_000 || sent.Multicast > 21_000 {
		t.Errorf("counted %+v, want 30000 unicast and 20000 multicast", sent)
	}
}

func TestLossAtOnePort(t *testing.T) {
	const packets = 3000
	n := network(t)
	run(t, n, "ip", "route", "add", "224.0.0.0/4", "dev", lab.Interface)
	received := func(dev string) int {
		v, err := strconv.Atoi(run(t, n, "cat", "/sys/class/net/"+dev+"/statistics/rx_packets"))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, port := range []string{"good", "bad"} {
		run(t, n, "ip", "link", "add", port, "type", "veth", "peer", "name", "far-"+port)
		run(t, n, "ip", "link", "set", port, "master", "br0", "up")
		run(t, n, "ip", "link", "set", "far-"+port, "up")
	}
	if err := n.SetLoss(t.Context(), "bad", 10); err != nil {
		t.Fatal(err)
	}
	good, bad := received("far-good"), received("far-bad")
	send(t, n, packets, "239.1.1.1")
	good, bad = received("far-good")-good, received("far-bad")-bad
	// Six standard deviations around 10 %.
	if good < packets || bad < packets*867/1000 || bad > packets*933/1000 {
		t.Errorf("of %d packets %d reached the good port and %d the one that loses 10 %%", packets, good, bad)
	}
}

// TestLimitSending floods from behind a port that takes little.
func TestLimitSending(t *testing.T) {
	const packets, size, rate = 3000, 1000, 500_000
	n := network(t)
	run(t, n, "ip", "link", "add", "port", "type", "veth", "peer", "name", "far")
	run(t, n, "ip", "link", "set", "port", "master", "br0", "up")
	run(t, n, "ip", "link", "set", "far", "up")
	if err := n.LimitSending(t.Context(), "port", rate); err != nil {
		t.Fatal(err)
	}
	run(t, n, "ip", "addr", "add", "10.99.0.1/24", "dev", "far")
	run(t, n, "ip", "neighbour", "add", "10.99.0.9", "lladdr", "52:54:00:00:00:09", "dev", "far")
	for _, dev := range []string{"port", "far"} { // before that the kernel drops all
		for !strings.Contains(run(t, n, "ip", "-o", "link", "show", dev), "state UP") {
			if t.Context().Err() != nil {
				t.Fatalf("%s does not come up", dev)
			}
		}
	}
	start := time.Now()
	send(t, n, packets, "10.99.0.9")
	took := time.Since(start)
	_, counter, _ := strings.Cut(run(t, n, "nft", "list", "table", "netdev", "limit-port"), "counter packets ")
	var dropped int
	if _, err := fmt.Sscan(counter, &dropped); err != nil {
		t.Fatal(err)
	}
	// What passes is the burst, to which nft adds a second's worth, and the rate's
	// part of the time.
	const least = 256<<10 + rate
	most := (least + rate*took.Seconds()) / size * 1.1
	if passed := packets - dropped; float64(passed) > most || passed < least/size*9/10 {
		t.Errorf("%d of %d packets passed in %v, want at most %.0f", passed, packets, took, most)
	}
}

func TestLimitMulticast(t *testing.T) {
	n := network(t)
	run(t, n, "ip", "route", "add", "224.0.0.0/4", "dev", lab.Interface)
	took := func() time.Duration {
		start := time.Now()
		before, err := n.Sent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		send(t, n, 500, "239.1.1.1")
		for {
			now, err := n.Sent(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if now.Sub(before).Multicast >= 500_000 {
				return time.Since(start)
			}
		}
	}
	free := took()
	if err := n.LimitMulticast(t.Context(), 2_000_000); err != nil {
		t.Fatal(err)
	}
	limited := took()
	if err := n.LimitMulticast(t.Context(), 1_000_000_000); err != nil {
		t.Fatal(err)
	}
	again := took()
	t.Logf("500 kB: %v, at 2 Mbit/s %v, without limit again %v", free, limited, again)
	if limited < 1500*time.Millisecond {
		t.Errorf("500 kB at 2 Mbit/s took %v", limited)
	}
}

// A network whose maker was killed is removed by the next one made.
func TestRemoveStale(t *testing.T) {
	n := network(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	stale := fmt.Sprintf("huck-%d-1-1", dead.Process.Pid)
	if _, err := proc.Run(t.Context(), proc.Command{Args: []string{"ip", "netns", "add", stale}}); err != nil {
		t.Fatal(err)
	}
	leftover, err := proc.Start(proc.Command{Netns: stale, Args: []string{"sleep", "600"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.RemoveStale(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := leftover.Wait(ctx); ctx.Err() != nil {
		t.Errorf("the process in the stale network still runs: %v", err)
	}
	list := run(t, n, "ip", "netns", "list")
	if strings.Contains(list, stale) || !strings.Contains(list, n.Netns) {
		t.Errorf("want %s gone and %s there:\n%s", stale, n.Netns, list)
	}
}
