package cast

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const (
	// receiveBuffer is asked of the kernel for the group's socket, in bytes:
	// 60 ms at 1 Gbit/s, in which a receiver may be busy elsewhere.
	receiveBuffer = 8 << 20
	// sendBuffer is asked for sending: several bursts at 1 Gbit/s.
	sendBuffer = 4 << 20
)

// message is a packet in a batch; ipv4's and ipv6's are the same type.
type message = ipv4.Message

// conn is a UDP socket that reads and writes many packets at a time.
type conn struct {
	*net.UDPConn
	v4 *ipv4.PacketConn // one of both is set
	v6 *ipv6.PacketConn
}

func newConn(c *net.UDPConn, is4 bool) *conn {
	if is4 {
		return &conn{UDPConn: c, v4: ipv4.NewPacketConn(c)}
	}
	return &conn{UDPConn: c, v6: ipv6.NewPacketConn(c)}
}

// readBatch fills some of ms, at least one.
func (c *conn) readBatch(ms []message) (int, error) {
	if c.v4 != nil {
		return c.v4.ReadBatch(ms, 0)
	}
	return c.v6.ReadBatch(ms, 0)
}

// writeBatch sends the first packets of ms and returns how many.
func (c *conn) writeBatch(ms []message) (int, error) {
	if c.v4 != nil {
		return c.v4.WriteBatch(ms, 0)
	}
	return c.v6.WriteBatch(ms, 0)
}

// newMessages returns n messages with one buffer of size bytes each.
func newMessages(n, size int) []message {
	ms := make([]message, n)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, size)}
	}
	return ms
}

// network is the Go name of UDP over the family of a.
func network(a netip.Addr) string {
	if a.Is4() {
		return "udp4"
	}
	return "udp6"
}

// listenServer opens the socket of a server: requests come in at addr,
// multicast goes out over ifi.
func listenServer(addr netip.AddrPort, ifi *net.Interface, ttl int, log *slog.Logger) (*conn, error) {
	u, err := net.ListenUDP(network(addr.Addr()), net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, fmt.Errorf("cast: listen for requests: %w", err)
	}
	c := newConn(u, addr.Addr().Is4())
	if err := c.setMulticast(ifi, ttl); err != nil {
		u.Close()
		return nil, fmt.Errorf("cast: send multicast over %s: %v", ifi.Name, err)
	}
	setBuffer(u, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer, "net.core.wmem_max", log)
	return c, nil
}

// setMulticast chooses interface and reach of multicast packets. Loopback
// stays on, as Linux has it by default: it lets receivers on the sender's own
// host work, and costs nothing where no socket has joined.
func (c *conn) setMulticast(ifi *net.Interface, ttl int) error {
	if c.v4 != nil {
		if err := c.v4.SetMulticastInterface(ifi); err != nil {
			return err
		}
		return c.v4.SetMulticastTTL(ttl)
	}
	if err := c.v6.SetMulticastInterface(ifi); err != nil {
		return err
	}
	return c.v6.SetMulticastHopLimit(ttl)
}

// joinGroup opens a socket that receives what is sent to group on ifi. It is
// bound to the group's address, which package net does not do, so that no
// unicast packet and no other group on the port comes through.
func joinGroup(group netip.AddrPort, ifi *net.Interface, log *slog.Logger) (*conn, error) {
	c, err := bindGroup(group, ifi)
	if err != nil {
		return nil, fmt.Errorf("cast: open socket for group %v: %v", group, err)
	}
	g := &net.UDPAddr{IP: group.Addr().AsSlice()}
	if c.v4 != nil {
		err = c.v4.JoinGroup(ifi, g)
	} else {
		err = c.v6.JoinGroup(ifi, g)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("cast: join group %v on %s: %v", group, ifi.Name, err)
	}
	setBuffer(c.UDPConn, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer, "net.core.rmem_max", log)
	return c, nil
}

func bindGroup(group netip.AddrPort, ifi *net.Interface) (*conn, error) {
	family, is4 := unix.AF_INET6, group.Addr().Is4()
	var to unix.Sockaddr = &unix.SockaddrInet6{Addr: group.Addr().As16(), Port: int(group.Port()), ZoneId: uint32(ifi.Index)}
	level, all := unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL
	if is4 {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Addr: group.Addr().As4(), Port: int(group.Port())}
		level, all = unix.IPPROTO_IP, unix.IP_MULTICAST_ALL
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "multicast")
	defer f.Close() // FilePacketConn takes a copy
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	// Only what this socket joined, not what others on the host did. Kernels
	// before 4.20 lack it for IPv6; the MACs sort it out then.
	_ = unix.SetsockoptInt(fd, level, all, 0)
	if err := unix.Bind(fd, to); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	p, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return newConn(p.(*net.UDPConn), is4), nil
}

// setBuffer asks for a socket buffer of size bytes, past the kernel's cap if
// allowed to, and warns if it stays smaller.
func setBuffer(c *net.UDPConn, force, plain, size int, sysctl string, log *slog.Logger) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	got := 0
	err = raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, force, size) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, plain, size)
		}
		got, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, plain)
	})
	// The kernel doubles what it is asked for (socket(7)).
	if err == nil && got < 2*size {
		log.Warn("socket buffer is small, packets may get lost; raise it", "bytes", got/2, "sysctl", fmt.Sprintf("%s=%d", sysctl, size))
	}
}

// dialSender opens the socket that requests to sender go out of.
func dialSender(ctx context.Context, sender netip.AddrPort, ifi *net.Interface) (*net.UDPConn, error) {
	to := withZone(sender, ifi)
	var d net.Dialer
	c, err := d.DialContext(ctx, network(to.Addr()), to.String())
	if err != nil {
		return nil, fmt.Errorf("cast: reach sender %v: %v", to, err)
	}
	return c.(*net.UDPConn), nil
}

// withZone adds the interface, by its index, to an IPv6 address that means
// nothing without.
func withZone(a netip.AddrPort, ifi *net.Interface) netip.AddrPort {
	ip := a.Addr()
	local := ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() || ip.IsInterfaceLocalMulticast()
	if ip.Is6() && local && ip.Zone() == "" && ifi != nil {
		return netip.AddrPortFrom(ip.WithZone(strconv.Itoa(ifi.Index)), a.Port())
	}
	return a
}

// routeTo returns the interface that packets to sender leave by.
func routeTo(ctx context.Context, sender netip.AddrPort) (*net.Interface, error) {
	if z := sender.Addr().Zone(); z != "" {
		if i, err := strconv.Atoi(z); err == nil {
			return net.InterfaceByIndex(i)
		}
		return net.InterfaceByName(z)
	}
	c, err := dialSender(ctx, sender, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	local := c.LocalAddr().(*net.UDPAddr).IP
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for i := range all {
		addrs, err := all[i].Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(local) {
				return &all[i], nil
			}
		}
	}
	return nil, fmt.Errorf("cast: no interface has address %v, the way to sender %v", local, sender)
}

// transient reports an error of a UDP socket that passes or that one packet
// caused: full queues, a firewall's verdict, a link that is down for now, an
// ICMP answer to an earlier packet.
func transient(err error) bool {
	var e syscall.Errno
	if !errors.As(err, &e) {
		return false
	}
	switch e {
	case unix.ENOBUFS, unix.EAGAIN, unix.EPERM, unix.EACCES, unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTUNREACH,
		unix.EHOSTDOWN, unix.ECONNREFUSED, unix.ENOMEM, unix.EADDRNOTAVAIL, unix.EINVAL, unix.EINTR, unix.ENODEV, unix.EMSGSIZE:
		return true
	}
	return false
}
