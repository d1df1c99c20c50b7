package network

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"huck/initramfs/cmdline"
)

const (
	// headStart is how long the interface we were booted from has the network to itself.
	headStart = 8 * time.Second
	// poll is how often carriers and new interfaces (USB adapters) are looked for.
	poll = 100 * time.Millisecond
)

// Config says how to get onto the network.
type Config struct {
	// BootIF is the address of the interface to try first; nil if unknown.
	BootIF net.HardwareAddr
	// Network is what the kernel command line says.
	cmdline.Network
	// ResolvConf is where name servers are written to; empty is nowhere.
	ResolvConf string
	// Log may be nil.
	Log *slog.Logger
}

// Network keeps a machine on its network.
type Network struct {
	cfg    Config
	leases chan Lease
	began  time.Time

	mu      sync.Mutex
	nics    map[string]*nic
	chosen  string // the device, not the card below a VLAN
	claimed bool   // the static addresses that name no interface have one
	dns     []Lease
}

// New returns a network on which nothing has happened yet.
func New(cfg Config) *Network {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Network{cfg: cfg, leases: make(chan Lease, 64), nics: make(map[string]*nic)}
}

// Leases delivers each lease that is new, not those renewed.
func (n *Network) Leases() <-chan Lease { return n.leases }

// Choose makes one interface the machine's only one: the others lose their
// addresses. Calls after the first do nothing.
func (n *Network) Choose(ifname string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.chosen != "" {
		return
	}
	n.chosen = ifname
	n.dns = slices.DeleteFunc(n.dns, func(l Lease) bool { return l.Interface != ifname })
	n.writeDNS()
	for _, c := range n.nics {
		if c.dev != ifname {
			c.stop()
		}
	}
}

// String tells how things stand on each interface.
func (n *Network) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.nics) == 0 {
		return "no Ethernet interface that this kernel has a driver for"
	}
	var s []string
	for _, c := range n.nics {
		s = append(s, fmt.Sprintf("%s (%s): %s", c.dev, c.ifi.HardwareAddr, c.describe()))
	}
	slices.Sort(s)
	return strings.Join(s, ", ")
}

// Run works on all interfaces, also those that appear later, until ctx is
// done. What it configured stays.
func (n *Network) Run(ctx context.Context) {
	n.began = time.Now()
	var wg sync.WaitGroup
	defer wg.Wait()
	if err := up("lo"); err != nil {
		n.cfg.Log.Warn("no loopback", "err", err)
	}
	for ctx.Err() == nil {
		ifs, err := ethernets()
		if err != nil {
			n.cfg.Log.Warn("cannot list interfaces", "err", err)
		}
		for _, ifi := range ifs {
			if c, cctx := n.adopt(ctx, ifi); c != nil {
				wg.Go(func() { n.work(cctx, c) })
			}
		}
		if sleep(ctx, 5*poll) != nil {
			return
		}
	}
}

// adopt returns a nic for an interface that has none and should have one.
func (n *Network) adopt(ctx context.Context, ifi net.Interface) (*nic, context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nics[ifi.Name] != nil || n.chosen != "" {
		return nil, nil
	}
	ctx, stop := context.WithCancel(ctx)
	c := &nic{ifi: ifi, dev: ifi.Name, link: "down", stop: stop}
	if n.cfg.VLAN.ID != 0 && cmdline.Matches(n.cfg.VLAN.Interface, ifi) {
		c.vlan = n.cfg.VLAN.ID
		c.dev = vlanName(ifi, c.vlan)
	}
	n.nics[ifi.Name] = c
	return c, ctx
}

// claim returns the static addresses of a nic that has a carrier. Those that
// name no interface are the first one's to ask.
func (n *Network) claim(c *nic) (mine []cmdline.Static) {
	n.mu.Lock()
	defer n.mu.Unlock()
	first := !n.claimed
	for _, s := range n.cfg.Static {
		switch {
		case s.Interface == "":
			if !first {
				continue
			}
			n.claimed = true
		case s.Interface != c.dev && !cmdline.Matches(s.Interface, c.ifi):
			continue
		}
		mine = append(mine, s)
	}
	return mine
}

// publish delivers a lease that is configured.
func (n *Network) publish(l Lease) {
	n.mu.Lock()
	if len(l.DNS) > 0 && (n.chosen == "" || n.chosen == l.Interface) {
		n.dns = slices.DeleteFunc(n.dns, func(o Lease) bool { return o.Same(l) })
		n.dns = append(n.dns, l)
		n.writeDNS()
	}
	n.mu.Unlock()
	select {
	case n.leases <- l:
	default: // nobody listens any more
	}
}

// writeDNS writes all name servers down; n.mu is held.
func (n *Network) writeDNS() {
	if n.cfg.ResolvConf == "" {
		return
	}
	if err := writeResolvConf(n.cfg.ResolvConf, n.dns); err != nil {
		n.cfg.Log.Warn("name servers", "err", err)
	}
}
