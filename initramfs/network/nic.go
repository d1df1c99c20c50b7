package network

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"time"

	"huck/initramfs/cmdline"
)

// nic is one network card that is being worked on.
type nic struct {
	ifi  net.Interface // the card
	dev  string        // what addresses stand on: the card, or a VLAN on it
	vlan int           // 0 for none
	stop context.CancelFunc

	// link and addrs tell people how things stand; Network.mu guards them.
	link  string
	addrs [2]string
}

// family is IPv4 or IPv6, and an index.
type family int

const (
	four family = iota
	six
)

func (f family) String() string { return [...]string{"IPv4", "IPv6"}[f] }

// describe tells how things stand; Network.mu is held.
func (c *nic) describe() string {
	if c.link != "" {
		return c.link
	}
	return strings.Trim(c.addrs[four]+"; "+c.addrs[six], "; ")
}

// noteLink says what there is before any address can be.
func (n *Network) noteLink(c *nic, state string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c.link = state
}

// note says how a family stands.
func (n *Network) note(c *nic, f family, state string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c.addrs[f] = f.String() + ": " + state
}

// work takes one interface from down to configured and keeps it so.
func (n *Network) work(ctx context.Context, c *nic) {
	for ctx.Err() == nil {
		err := n.connect(ctx, c)
		if err == nil {
			n.families(ctx, c)
			break
		}
		if ctx.Err() == nil {
			n.cfg.Log.Warn("network trouble", "interface", c.dev, "err", err)
			n.noteLink(c, err.Error())
			_ = sleep(ctx, retry)
		}
	}
	n.mu.Lock()
	loser := n.chosen != "" && n.chosen != c.dev
	n.mu.Unlock()
	if loser {
		if err := unconfigure(c.dev); err != nil {
			n.cfg.Log.Warn("interface not given up", "interface", c.dev, "err", err)
		}
	}
}

// connect waits until the interface has a carrier and its turn has come.
func (n *Network) connect(ctx context.Context, c *nic) error {
	if n.cfg.MTU > 0 {
		n.setMTU(c.ifi.Name, n.cfg.MTU)
	}
	if err := up(c.ifi.Name); err != nil {
		return err
	}
	if c.vlan != 0 {
		if err := addVLAN(c.ifi, c.dev, c.vlan); err != nil {
			return err
		}
		if err := up(c.dev); err != nil {
			return err
		}
	}
	n.noteLink(c, "no carrier")
	for !carrier(c.dev) {
		if err := sleep(ctx, poll); err != nil {
			return err
		}
	}
	n.noteLink(c, "waiting for the interface we were booted from")
	if err := n.yield(ctx, c); err != nil {
		return err
	}
	n.noteLink(c, "")
	return nil
}

// yield holds all others back while the interface we were booted from has its
// head start, if it is there at all.
func (n *Network) yield(ctx context.Context, c *nic) error {
	if n.cfg.BootIF == nil || bytes.Equal(c.ifi.HardwareAddr, n.cfg.BootIF) {
		return nil
	}
	return sleep(ctx, headStart-time.Since(n.began))
}

// families runs both families until ctx is done. An address that the command
// line gives takes the place of asking, in its family.
func (n *Network) families(ctx context.Context, c *nic) {
	regained := [2]chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1)}
	do := [2]func(context.Context, *nic, <-chan struct{}) error{n.cycle4, n.cycle6}
	for _, s := range n.claim(c) {
		f := four
		if s.Addr.Addr().Is6() {
			f = six
		}
		do[f] = n.static(s)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for f := range do {
		wg.Go(func() { n.persist(ctx, c, family(f), func() error { return do[f](ctx, c, regained[f]) }) })
	}
	wg.Go(func() { n.watch(ctx, c, regained[:]) })
}

// persist runs one family again and again.
func (n *Network) persist(ctx context.Context, c *nic, f family, cycle func() error) {
	told := ""
	for ctx.Err() == nil {
		err := cycle()
		if err == nil || ctx.Err() != nil {
			continue
		}
		if s := err.Error(); s != told { // not the same every second
			n.cfg.Log.Warn("network trouble", "interface", c.dev, "family", f.String(), "err", err)
			told = s
		}
		n.note(c, f, err.Error())
		_ = sleep(ctx, retry)
	}
}

// watch tells both families of a carrier that came back: the cable may be in
// another network now, or the switch has forgotten us.
func (n *Network) watch(ctx context.Context, c *nic, regained []chan struct{}) {
	was := true
	for sleep(ctx, poll) == nil {
		is := carrier(c.dev)
		switch {
		case was && !is:
			n.cfg.Log.Warn("no carrier", "interface", c.dev)
		case !was && is:
			n.cfg.Log.Info("the carrier is back", "interface", c.dev)
			for _, ch := range regained {
				select {
				case ch <- struct{}{}:
				default:
				}
			}
		}
		was = is
	}
}

// static configures an address from the command line, which stays.
func (n *Network) static(s cmdline.Static) func(context.Context, *nic, <-chan struct{}) error {
	return func(ctx context.Context, c *nic, _ <-chan struct{}) error {
		l := Lease{Interface: c.dev, Addr: s.Addr, Gateway: s.Gateway, DNS: s.DNS, MTU: s.MTU, From: "the kernel command line"}
		n.mtu(l)
		if err := configure(l); err != nil {
			return err
		}
		f := four
		if s.Addr.Addr().Is6() {
			f = six
			n.note(c, f, s.Addr.String()+" is being checked for duplicates")
			if err := settled(ctx, c.dev, s.Addr.Addr()); err != nil {
				return err
			}
		}
		n.note(c, f, s.Addr.String())
		n.publish(l)
		<-ctx.Done()
		return ctx.Err()
	}
}

// mtu sets what a lease says, unless the command line says something else. An
// interface that cannot is no reason to have no network.
func (n *Network) mtu(l Lease) {
	if l.MTU > 0 && n.cfg.MTU == 0 {
		n.setMTU(l.Interface, l.MTU)
	}
}

func (n *Network) setMTU(ifname string, mtu int) {
	if err := setMTU(ifname, mtu); err != nil {
		n.cfg.Log.Warn("MTU left as it is", "interface", ifname, "err", err)
	}
}
