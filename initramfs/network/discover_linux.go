package network

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"huck/imager/api"
)

// discoverEvery is between two questions.
const discoverEvery = 500 * time.Millisecond

// Bind makes sockets send and receive on one interface only, whatever the
// routes say: two cards may be in one subnet.
func Bind(ifname string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), ifname) }), err)
	}
}

// Discover asks the link of a lease for a boot server until one answers or ctx
// is done, and returns its URL. BOOTING.md of the boot server has the protocol.
func Discover(ctx context.Context, l Lease) (*url.URL, error) {
	u, err := discover(ctx, l)
	switch {
	case err == nil:
		return u, nil
	case ctx.Err() != nil: // whichever call it was that noticed
		return nil, fmt.Errorf("network: no boot server answers on %s's link", l.Interface)
	}
	return nil, fmt.Errorf("network: look for a boot server on %s: %v", l.Interface, err)
}

func discover(ctx context.Context, l Lease) (*url.URL, error) {
	conn, to, err := discoverySocket(ctx, l)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var nonce api.DiscoveryNonce
	_, _ = rand.Read(nonce[:]) // never fails
	question := api.AppendDiscoveryQuestion(nil, nonce)
	buf := make([]byte, 512)
	for {
		if _, err := conn.WriteTo(question, to); err != nil && !errors.Is(err, unix.ENETUNREACH) {
			return nil, err
		}
		if err := conn.SetReadDeadline(time.Now().Add(discoverEvery)); err != nil {
			return nil, err
		}
		for {
			n, _, err := conn.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return nil, err
			}
			if got, u, err := api.ParseDiscoveryAnswer(buf[:n]); err == nil && got == nonce {
				return u, nil
			}
		}
	}
}

// discoverySocket opens a socket at the lease's address and returns the group.
func discoverySocket(ctx context.Context, l Lease) (net.PacketConn, net.Addr, error) {
	ifi, err := net.InterfaceByName(l.Interface)
	if err != nil {
		return nil, nil, err
	}
	kind, group := "udp4", api.DiscoveryGroup4()
	if l.Addr.Addr().Is6() {
		kind, group = "udp6", api.DiscoveryGroup6()
	}
	lc := net.ListenConfig{Control: Bind(l.Interface)}
	conn, err := lc.ListenPacket(ctx, kind, net.JoinHostPort(l.Addr.Addr().String(), "0"))
	if err != nil {
		return nil, nil, err
	}
	if kind == "udp4" {
		err = ipv4.NewPacketConn(conn).SetMulticastInterface(ifi)
	} else {
		err = ipv6.NewPacketConn(conn).SetMulticastInterface(ifi)
	}
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, net.UDPAddrFromAddrPort(group), nil
}
