package network

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
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

	mu     sync.Mutex
	nics   map[string]*nic
	chosen string
}

// nic is one interface that is being worked on.
type nic struct {
	ifi   net.Interface
	state string
	stop  context.CancelFunc
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
// leases. Calls after the first do nothing.
func (n *Network) Choose(ifname string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.chosen != "" {
		return
	}
	n.chosen = ifname
	for name, c := range n.nics {
		if name != ifname {
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
	for name, c := range n.nics {
		s = append(s, fmt.Sprintf("%s (%s): %s", name, c.ifi.HardwareAddr, c.state))
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
	c := &nic{ifi: ifi, state: "down", stop: stop}
	n.nics[ifi.Name] = c
	return c, ctx
}

func (n *Network) note(c *nic, state string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c.state = state
}

// work takes one interface from down to leased, again and again.
func (n *Network) work(ctx context.Context, c *nic) {
	for ctx.Err() == nil {
		if err := n.cycle(ctx, c); err != nil && ctx.Err() == nil {
			n.cfg.Log.Warn("network trouble", "interface", c.ifi.Name, "err", err)
			n.note(c, err.Error())
			_ = sleep(ctx, retry)
		}
	}
	n.mu.Lock()
	loser := n.chosen != "" && n.chosen != c.ifi.Name
	n.mu.Unlock()
	if loser {
		if err := unconfigure(c.ifi.Name); err != nil {
			n.cfg.Log.Warn("interface not given up", "interface", c.ifi.Name, "err", err)
		}
	}
}

// cycle waits for a carrier, gets a lease and keeps it for as long as it can.
func (n *Network) cycle(ctx context.Context, c *nic) error {
	if err := up(c.ifi.Name); err != nil {
		return err
	}
	n.note(c, "no carrier")
	for !carrier(c.ifi.Name) {
		if err := sleep(ctx, poll); err != nil {
			return err
		}
	}
	n.note(c, "waiting for the interface we were booted from")
	if err := n.yield(ctx, c); err != nil {
		return err
	}
	n.note(c, "no answer from a DHCP server")
	dhcp := client{ifname: c.ifi.Name, mac: c.ifi.HardwareAddr}
	raw, err := dhcp.acquire(ctx, func(err error) { n.note(c, "DHCP: "+err.Error()) })
	if err != nil {
		return err
	}
	lease, err := n.apply(c, raw)
	if err != nil {
		return err
	}
	select {
	case n.leases <- lease:
	default: // nobody listens any more
	}
	return n.keep(ctx, c, dhcp, raw, lease)
}

// yield holds all others back while the interface we were booted from has its
// head start, if it is there at all.
func (n *Network) yield(ctx context.Context, c *nic) error {
	if n.cfg.BootIF == nil || bytes.Equal(c.ifi.HardwareAddr, n.cfg.BootIF) {
		return nil
	}
	return sleep(ctx, headStart-time.Since(n.began))
}

func (n *Network) apply(c *nic, raw *nclient4.Lease) (Lease, error) {
	lease, err := ParseLease(c.ifi.Name, raw.ACK)
	if err != nil {
		return lease, err
	}
	if err := configure(lease); err != nil {
		return lease, err
	}
	if n.cfg.ResolvConf != "" && len(lease.DNS) > 0 {
		if err := writeResolvConf(n.cfg.ResolvConf, lease); err != nil {
			return lease, err
		}
	}
	n.note(c, lease.Addr.String())
	return lease, nil
}

// keep renews a lease when its time has come, and returns when it is lost.
func (n *Network) keep(ctx context.Context, c *nic, dhcp client, raw *nclient4.Lease, lease Lease) error {
	for {
		if lease.Expire == 0 {
			<-ctx.Done()
			return ctx.Err()
		}
		if err := sleep(ctx, time.Until(raw.CreationTime.Add(lease.Renew))); err != nil {
			return err
		}
		next, err := dhcp.renew(ctx, raw, raw.CreationTime.Add(lease.Expire))
		if err != nil {
			if ctx.Err() == nil {
				if uerr := unconfigure(c.ifi.Name); uerr != nil {
					n.cfg.Log.Warn("expired address not removed", "interface", c.ifi.Name, "err", uerr)
				}
			}
			return err
		}
		// Only the times are new: some servers leave out of a renewal what they said at first.
		if !next.ACK.YourIPAddr.Equal(raw.ACK.YourIPAddr) {
			return fmt.Errorf("network: %s: lease renewed with another address, %v", c.ifi.Name, next.ACK.YourIPAddr)
		}
		raw = next
		lease.times(raw.ACK)
	}
}
