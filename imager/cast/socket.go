package cast

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
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
	// requestBuffer is asked for the socket of requests: of a group of 5000,
	// all at once, as when a switch comes back.
	requestBuffer = 4 << 20
	// sendBuffer is asked for sending. The kernel doubles it for what it keeps
	// beside packets, hardly anything of messages of many: 512 KiB wait at most,
	// 4 ms at 1 Gbit/s. Then the sender waits, and knows it; had the host's own
	// queue to drop them (after 1000 packets, or CoDel when they wait for 5 ms,
	// RFC 8289 section 3.2), nobody would be told.
	sendBuffer = 256 << 10
	// requestSize has room for what receivers send.
	requestSize = 2048
)

// request is a packet in a batch; ipv4's and ipv6's are the same type.
type request = ipv4.Message

// conn is a UDP socket that reads many packets at a time.
type conn struct {
	*net.UDPConn
	v4 *ipv4.PacketConn // one of both is set
	v6 *ipv6.PacketConn
}

// readBatch fills some of ms, at least one.
func (c *conn) readBatch(ms []request) (int, error) {
	if c.v4 != nil {
		return c.v4.ReadBatch(ms, 0)
	}
	return c.v6.ReadBatch(ms, 0)
}

// newRequests returns n messages to read, with one buffer of size bytes each.
func newRequests(n, size int) []request {
	ms := make([]request, n)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, size)}
	}
	return ms
}

// source is the address that a message came from.
func source(m *request) netip.AddrPort {
	u, ok := m.Addr.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	a := u.AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// network is the Go name of UDP over the family of a.
func network(a netip.Addr) string {
	if a.Is4() {
		return "udp4"
	}
	return "udp6"
}

// listenRequests opens the socket that requests come to.
func listenRequests(cfg *ServerConfig) (*conn, error) {
	u, err := net.ListenUDP(network(cfg.Addr.Addr()), net.UDPAddrFromAddrPort(cfg.Addr))
	if err != nil {
		return nil, fmt.Errorf("cast: listen for requests: %w", err)
	}
	raw, err := u.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { setBuffer(int(fd), receiveBuffers, requestBuffer, cfg.Log) })
	}
	if err != nil {
		u.Close()
		return nil, fmt.Errorf("cast: listen for requests: %v", err)
	}
	if cfg.Addr.Addr().Is4() {
		return &conn{UDPConn: u, v4: ipv4.NewPacketConn(u)}, nil
	}
	return &conn{UDPConn: u, v6: ipv6.NewPacketConn(u)}, nil
}

// buffers names a direction's socket buffer.
type buffers struct {
	force, plain int // options
	sysctl       string
	why          string
}

var (
	receiveBuffers = buffers{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, "net.core.rmem_max", "packets may get lost"}
	sendBuffers    = buffers{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, "net.core.wmem_max", "sending may be slow"}
)

// setBuffer asks for a socket buffer of size bytes, past the kernel's cap if
// allowed to, and warns if it stays smaller. It returns the size it has.
func setBuffer(fd int, of buffers, size int, log *slog.Logger) (got int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, of.force, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, of.plain, size)
	}
	got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, of.plain)
	got /= 2 // the kernel doubles what it is asked for (socket(7))
	if err == nil && got < size {
		log.Warn("socket buffer is small, "+of.why+"; raise the kernel's limit", "bytes", got, "command", fmt.Sprintf("sysctl -w %s=%d", of.sysctl, size))
	}
	return got
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
