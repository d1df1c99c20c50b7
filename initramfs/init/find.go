package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"huck/imager/origin"
	"huck/initramfs/network"
)

const (
	// reachTime is how long a server may take to accept a connection.
	reachTime = 5 * time.Second
	// lookTime is how long we look for a server on a link where none was named,
	// or the named one cannot be reached.
	lookTime = 3 * time.Second
)

// network waits for an address; package network works on it all the time.
func (b *boot) network(ctx context.Context, _ func()) (string, error) {
	if len(b.leases) > 0 {
		return "", nil
	}
	select {
	case l := <-b.net.Leases():
		b.addLease(l)
		return l.String(), nil
	case <-ctx.Done():
		return "", fmt.Errorf("no address: %s", b.net)
	}
}

// addLease notes a lease in place of an older one.
func (b *boot) addLease(l network.Lease) {
	b.leases = append(slices.DeleteFunc(b.leases, l.Same), l)
}

// found is what became of one lease.
type found struct {
	lease network.Lease
	url   *url.URL
	err   error
}

// findServer tries every lease at the same time, those that come in meanwhile,
// too; the first that leads to a server decides, and no other is waited for.
func (b *boot) findServer(ctx context.Context, alive func()) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	answers := make(chan found)
	running := 0
	defer func() { // none is left behind
		cancel()
		for ; running > 0; running-- {
			<-answers
		}
	}()
	try := func(l network.Lease) {
		running++
		go func() {
			u, err := b.lookFor(ctx, l)
			answers <- found{l, u, err}
		}()
	}
	for _, l := range b.leases {
		try(l)
	}
	var errs []error
	for running > 0 {
		select {
		case l := <-b.net.Leases():
			b.addLease(l)
			alive()
			try(l)
		case a := <-answers:
			running--
			if a.err == nil {
				b.lease, b.server = a.lease, a.url
				b.net.Choose(a.lease.Interface)
				return fmt.Sprintf("%s over %s", a.url, a.lease.Interface), nil
			}
			errs = append(errs, a.err)
		}
	}
	return "", errors.Join(errs...)
}

// lookFor finds the server that a lease leads to: the command line's and no
// other; else the one that came with the lease; else one that answers on the
// link.
func (b *boot) lookFor(ctx context.Context, l network.Lease) (*url.URL, error) {
	if b.opts.Server != nil {
		return b.opts.Server, reach(ctx, l, b.opts.Server)
	}
	var named error
	if l.Server != nil {
		if named = reach(ctx, l, l.Server); named == nil {
			return l.Server, nil
		}
	} else {
		named = fmt.Errorf("no server: huck.server= is not on the kernel command line, and %s names none to %s (DHCP option %d, next-server; DHCPv6 option 59)",
			l.From, l.Interface, network.OptionServer)
	}
	look, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	u, err := b.discover(look, l)
	if err == nil {
		if err = reach(ctx, l, u); err == nil {
			return u, nil
		}
	}
	return nil, errors.Join(named, err)
}

// reach connects to a server from a lease's address over its interface.
func reach(ctx context.Context, l network.Lease, u *url.URL) error {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	d := net.Dialer{Timeout: reachTime, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.Addr.Addr(), 0)), Control: network.Bind(l.Interface)}
	c, err := origin.Dial(d.DialContext).Hedged()(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return fmt.Errorf("server %s over %s: %w", u, l.Interface, err)
	}
	return c.Close()
}
