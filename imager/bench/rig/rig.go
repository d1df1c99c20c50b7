// Package rig makes networks to measure bulk delivery on: a server and hosts,
// each in a network namespace of its own, on the ports of a switch in another
// one.
//
//	host 0 (server) eth0 ═ p0 ┐
//	host 1          eth0 ═ p1 ├ br0 (no snooping: floods)
//	host 2          eth0 ═ p2 ┘
//
// The namespaces have no names: each lives as long as a thread of this process
// is in it, or a process that was started there, and those die with the thread.
// So nothing is left of a run that was killed, and there is nothing stale to
// remove. To look around in one: nsenter --net --target PID, of a program that
// runs there.
package rig

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Link is the cable of one host, with the queues at its ends.
type Link struct {
	// Up and Down are bits a second from and to the host; 0 is as fast as the
	// machine can.
	Up, Down int64
	// Loss is the part of the IP packets to the host that it never sees, 0 to 1.
	Loss float64
	// LoseFirst is how many of the first UDP packets to the host it never sees.
	LoseFirst int
}

// Config says what to make.
type Config struct {
	// Links of the hosts, the server's first.
	Links []Link
	// Offload leaves segmentation to the end of the path, as a network card
	// would. Counters then count what no wire carries: packets of up to 64 KiB
	// with one header. Loss drops these, too.
	Offload bool
}

const (
	// hostQueue is how many bytes wait in a host for its link: Linux lets
	// 1000 packets wait by default (txqueuelen).
	hostQueue = 1000 * 1514
	// portQueue is how many bytes wait in the switch for one port: access
	// switches have 1 to 2 MiB for all ports and give one port about half.
	portQueue = 512 << 10
	// networkBits leaves room for 80 hosts and more.
	networkBits = 16
)

// Network is a server and hosts around a switch.
type Network struct {
	sw    *namespace
	hosts []*namespace
}

// Supported says what is missing here to make networks: an error that names
// it, or nil.
func Supported(programs ...string) error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	for _, p := range append([]string{"ip", "tc", "nft", "ethtool"}, programs...) {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%s is not here: build/bootstrap.sh bench installs it", p)
		}
	}
	return nil
}

// New makes a network. Whoever made it closes it.
func New(ctx context.Context, cfg Config) (*Network, error) {
	n := &Network{}
	if err := n.setUp(ctx, cfg); err != nil {
		n.Close()
		return nil, fmt.Errorf("rig: %w", err)
	}
	return n, nil
}

func (n *Network) setUp(ctx context.Context, cfg Config) error {
	var err error
	if n.sw, err = newNamespace(); err != nil {
		return err
	}
	for range cfg.Links {
		ns, err := newNamespace()
		if err != nil {
			return err
		}
		n.hosts = append(n.hosts, ns)
	}
	if err := n.setUpSwitch(ctx, cfg); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, l := range cfg.Links {
		g.Go(func() error { return n.setUpHost(gctx, i, l, cfg.Offload) })
	}
	return g.Wait()
}

func (n *Network) setUpSwitch(ctx context.Context, cfg Config) error {
	links := []string{"link add br0 type bridge mcast_snooping 0", "link set br0 up"}
	var queues []string
	for i, l := range cfg.Links {
		links = append(links,
			fmt.Sprintf("link add p%d type veth peer name eth0 netns %d", i, n.hosts[i].tid),
			fmt.Sprintf("link set p%d master br0 up", i))
		if l.Down > 0 {
			queues = append(queues, tbf(port(i), l.Down, portQueue))
		}
	}
	if err := n.sw.run(ctx, strings.Join(links, "\n"), "ip", "-batch", "-"); err != nil {
		return err
	}
	for i := range cfg.Links {
		if err := n.sw.wireSize(ctx, port(i), cfg.Offload); err != nil {
			return err
		}
	}
	if err := n.sw.run(ctx, strings.Join(queues, "\n"), "tc", "-batch", "-"); err != nil {
		return err
	}
	return n.sw.run(ctx, countingRules, "nft", "-f", "-")
}

func (n *Network) setUpHost(ctx context.Context, i int, l Link, offload bool) error {
	ns := n.hosts[i]
	err := ns.run(ctx, fmt.Sprintf("link set lo up\naddr add %s/%d brd + dev eth0\nlink set eth0 up\nroute add 224.0.0.0/4 dev eth0\n",
		Addr(i), networkBits), "ip", "-batch", "-")
	if err != nil {
		return err
	}
	if err := ns.wireSize(ctx, "eth0", offload); err != nil {
		return err
	}
	if l.Up > 0 {
		if err := ns.run(ctx, tbf("eth0", l.Up, hostQueue), "tc", "-batch", "-"); err != nil {
			return err
		}
	}
	return ns.run(ctx, lossRules(l), "nft", "-f", "-")
}

// wireSize makes every packet on a device one packet of the wire, unless
// offload is wanted. Checksums stay the device's: without them the kernel
// refuses UDP segmentation to the programs, which no real card does.
func (ns *namespace) wireSize(ctx context.Context, dev string, offload bool) error {
	if offload {
		return nil
	}
	return ns.run(ctx, "", "ethtool", "-K", dev, "tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off")
}

// tbf returns the tc command for a link's speed. A token bucket lets what it
// saved pass at once; 1 ms of the rate is little enough for a link and enough
// for timers, but not less than some packets.
func tbf(dev string, rate int64, queue int) string {
	burst := max(rate/8/1000, 16<<10)
	return fmt.Sprintf("qdisc add dev %s root tbf rate %dbit burst %d limit %d", dev, rate, burst, queue)
}

func port(i int) string { return fmt.Sprintf("p%d", i) }

// Addr returns the address of host i.
func Addr(i int) netip.Addr {
	i++
	return netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)})
}

// SetLoss changes what host i loses of what comes to it.
func (n *Network) SetLoss(ctx context.Context, i int, l Link) error {
	return n.hosts[i].run(ctx, lossRules(l), "nft", "-f", "-")
}

// SetCable pulls the cable of host i, or plugs it in again.
func (n *Network) SetCable(ctx context.Context, i int, in bool) error {
	state := "down"
	if in {
		state = "up"
	}
	return n.sw.run(ctx, "", "ip", "link", "set", port(i), state)
}

// Do calls f on a thread in the namespace of host i: sockets that it opens are
// that host's, wherever they are used later.
func (n *Network) Do(i int, f func() error) error { return n.hosts[i].do(f) }

// Close ends every program that was started in the network and removes it.
func (n *Network) Close() {
	for _, ns := range append(n.hosts, n.sw) {
		if ns != nil {
			ns.close()
		}
	}
	n.hosts, n.sw = nil, nil
}
