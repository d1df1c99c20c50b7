package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
)

const (
	// solicitMost bounds the pause between two solicitations, which starts at
	// a second and doubles (RFC 7559 section 2: at most an hour; a person
	// waits here).
	solicitMost = 30 * time.Second
	// dhcp6Patience is how long a DHCPv6 server may take where there is an
	// address without it.
	dhcp6Patience = 4 * time.Second
	// keepPoll is how often we look whether an address is still there.
	keepPoll = 2 * time.Second
)

// cycle6 gets an IPv6 address by what routers advertise, and keeps it.
func (n *Network) cycle6(ctx context.Context, c *nic, regained <-chan struct{}) error {
	n.note(c, six, "no link-local address")
	if err := enable6(c.dev); err != nil {
		return err
	}
	adv, err := n.routers(ctx, c)
	if err != nil {
		return err
	}
	lease := Lease{Interface: c.dev, DNS: adv.dns, From: "router " + adv.router.String()}
	dhcp := client6{ifname: c.dev, mac: c.ifi.HardwareAddr}
	said, err := n.ask6(ctx, dhcp, adv, c)
	if err != nil {
		return err
	}
	if said != nil {
		lease.Server, lease.DNS = said.server, append(said.dns, lease.DNS...)
		lease.From = "DHCPv6 server of " + lease.From
	}
	n.note(c, six, "the address is being checked for duplicates")
	if lease.Addr, err = n.address6(ctx, c.dev, said); err != nil {
		return err
	}
	n.note(c, six, lease.Addr.String())
	n.publish(lease)
	return n.keep6(ctx, keeper6{dhcp, said, lease}, regained)
}

// advert is what a router tells us to do.
type advert struct {
	router         netip.Addr
	managed, other bool // ask DHCPv6 for addresses, or for the rest (RFC 4861 section 4.2)
	autonomous     bool // there is a prefix to make an address of
	dns            []netip.Addr
}

// useful tells whether the advertisement leads to an address. That of a boot
// server beside IPv4, "there is no router here", does not.
func (a advert) useful() bool { return a.managed || a.autonomous }

func read(m *ndp.RouterAdvertisement, from netip.Addr) advert {
	a := advert{router: from.WithZone(""), managed: m.ManagedConfiguration, other: m.OtherConfiguration}
	for _, o := range m.Options {
		switch o := o.(type) {
		case *ndp.PrefixInformation:
			// Linux makes addresses of /64 only (RFC 4862 section 5.5.3, RFC 2464 section 4).
			a.autonomous = a.autonomous || o.AutonomousAddressConfiguration && o.ValidLifetime > 0 && o.PrefixLength == 64
		case *ndp.RecursiveDNSServer:
			if o.Lifetime > 0 {
				a.dns = append(a.dns, o.Servers...)
			}
		}
	}
	return a
}

// routers asks for routers until one has something for us.
func (n *Network) routers(ctx context.Context, c *nic) (advert, error) {
	conn, err := listen6(ctx, c.dev)
	if err != nil {
		return advert{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	n.note(c, six, "no router advertisement")
	for pause := time.Second; ; pause = min(2*pause, solicitMost) {
		// The link may be down again; then so is the next one.
		_ = conn.WriteTo(&ndp.RouterSolicitation{}, nil, netip.IPv6LinkLocalAllRouters())
		if err := conn.SetReadDeadline(time.Now().Add(pause)); err != nil {
			return advert{}, closed(ctx, err)
		}
		for {
			m, cm, from, err := conn.ReadFrom()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return advert{}, closed(ctx, fmt.Errorf("network: %s: router advertisements: %v", c.dev, err))
			}
			ra, ok := m.(*ndp.RouterAdvertisement)
			if !ok || cm == nil || cm.HopLimit != ndp.HopLimit || !from.IsLinkLocalUnicast() {
				continue
			}
			if a := read(ra, from); a.useful() {
				return a, nil
			}
			n.note(c, six, "a router that offers no address")
		}
	}
}

// closed prefers the reason that a socket was closed for.
func closed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// listen6 opens a socket for neighbour discovery as soon as the interface has
// its link-local address, which takes the kernel a second or two.
func listen6(ctx context.Context, ifname string) (*ndp.Conn, error) {
	for {
		ifi, err := net.InterfaceByName(ifname)
		if err != nil {
			return nil, fmt.Errorf("network: %s: %v", ifname, err)
		}
		conn, _, err := ndp.Listen(ifi, ndp.LinkLocal)
		if err != nil {
			if err := sleep(ctx, poll); err != nil {
				return nil, err
			}
			continue
		}
		var filter ipv6.ICMPFilter
		filter.SetAll(true)
		filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
		if err := errors.Join(conn.SetICMPFilter(&filter), conn.SetControlMessage(ipv6.FlagHopLimit, true)); err != nil {
			return nil, errors.Join(fmt.Errorf("network: %s: %v", ifname, err), conn.Close())
		}
		return conn, nil
	}
}

// ask6 asks DHCPv6 for what the router says is to be had there. Where there is
// an address without it, it need not answer.
func (n *Network) ask6(ctx context.Context, dhcp client6, adv advert, c *nic) (*said6, error) {
	if !adv.managed && !adv.other {
		return nil, nil
	}
	n.note(c, six, "no answer from a DHCPv6 server")
	asking := ctx
	if adv.autonomous {
		var cancel context.CancelFunc
		asking, cancel = context.WithTimeout(ctx, dhcp6Patience)
		defer cancel()
	}
	said, err := dhcp.ask(asking, adv.managed)
	if err != nil && adv.autonomous && ctx.Err() == nil {
		n.cfg.Log.Info("no DHCPv6", "interface", c.dev, "err", err)
		return nil, nil
	}
	return said, err
}

// address6 waits for the address that DHCPv6 gave, or else one that the kernel
// made.
func (n *Network) address6(ctx context.Context, ifname string, said *said6) (netip.Prefix, error) {
	if said != nil && said.addr.IsValid() {
		if err := configure6(ifname, said); err != nil {
			return netip.Prefix{}, err
		}
		return netip.PrefixFrom(said.addr, 128), settled(ctx, ifname, said.addr)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if p, err := global6(ifname); err != nil || p.IsValid() {
			return p, err
		}
		if err := sleep(ctx, poll); err != nil {
			return netip.Prefix{}, err
		}
	}
	return netip.Prefix{}, fmt.Errorf("network: %s: the router's prefix made no address", ifname)
}

// keeper6 is an IPv6 address with what is needed to keep it.
type keeper6 struct {
	dhcp  client6
	said  *said6
	lease Lease
}

// keep6 renews what came from DHCPv6 and returns when the address is gone: the
// kernel takes it away when its lifetime is over.
func (n *Network) keep6(ctx context.Context, k keeper6, regained <-chan struct{}) error {
	for {
		again := false
		timer := time.NewTimer(keepPoll)
		select {
		case <-timer.C:
		case <-regained:
			again = true
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if again {
			resolicit(k.lease.Interface)
		}
		if k.said != nil && k.said.addr.IsValid() && (again || time.Now().After(k.said.renew)) {
			if err := k.renew(ctx); err != nil {
				n.cfg.Log.Info("no DHCPv6 renewal", "interface", k.lease.Interface, "err", err)
			}
		}
		if ok, err := present(k.lease.Interface, k.lease.Addr.Addr()); err != nil || !ok {
			return fmt.Errorf("network: %s: address %v has gone: %v", k.lease.Interface, k.lease.Addr.Addr(), err)
		}
	}
}

// renew extends an address's lifetime. Failing that it is tried again after a
// while, for as long as there is a lifetime.
func (k *keeper6) renew(ctx context.Context) error {
	next, err := k.dhcp.renew(ctx, k.said)
	if err != nil {
		k.said.renew = time.Now().Add(renewPause)
		return err
	}
	k.said = next
	return configure6(k.lease.Interface, next)
}

// resolicit asks the routers once; the kernel hears the answer.
func resolicit(ifname string) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return
	}
	conn, _, err := ndp.Listen(ifi, ndp.LinkLocal)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.WriteTo(&ndp.RouterSolicitation{}, nil, netip.IPv6LinkLocalAllRouters()) // they advertise without, too
}
