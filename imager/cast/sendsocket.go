package cast

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendSocket sends to groups. It is not the one that requests come to, and is
// unknown to Go's network poller, which would be woken whenever a packet has
// left the host: at 50 Mbit/s that is a third of the sender's work. Any number
// of goroutines may use it at once.
type sendSocket struct {
	fd  int
	is4 bool
	log *slog.Logger
	// buffer is how many bytes wait at most before writeBatch does.
	buffer int
	// segments says that the kernel cuts messages up into packets.
	segments atomic.Bool
}

// openSend opens a socket that sends from cfg.Addr, from a port of its own.
func openSend(cfg *ServerConfig) (*sendSocket, error) {
	a := cfg.Addr.Addr()
	s := &sendSocket{is4: a.Is4(), log: cfg.Log}
	family, from := unix.AF_INET6, sockaddr(netip.AddrPortFrom(a, 0), cfg.Interface.Index)
	if s.is4 {
		family = unix.AF_INET
	}
	var err error
	if s.fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err = os.NewSyscallError("bind", unix.Bind(s.fd, from)); err == nil {
		err = s.setMulticast(cfg.Interface.Index, cfg.TTL, cfg.DSCP)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	s.buffer = 2 * setBuffer(s.fd, sendBuffers, sendBuffer, cfg.Log)
	// Linux knows UDP_SEGMENT since 4.18 (udp(7)).
	s.segments.Store(unix.SetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_SEGMENT, 0) == nil)
	return s, nil
}

// sockaddr is an address for system calls; zone is that of IPv6 addresses which
// mean nothing without.
func sockaddr(a netip.AddrPort, zone int) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	to := &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	if a.Addr().IsLinkLocalUnicast() {
		to.ZoneId = uint32(zone)
	}
	return to
}

// Close closes the socket, which nobody may be using any more.
func (s *sendSocket) Close() error { return os.NewSyscallError("close", unix.Close(s.fd)) }

// setMulticast chooses interface, reach and class of the packets. Loopback
// stays on, as Linux has it by default: it lets receivers on the sender's own
// host work, and costs nothing where no socket has joined.
func (s *sendSocket) setMulticast(index, ttl, dscp int) error {
	class := dscp << 2 // the two low bits are for congestion notification (RFC 3168)
	options := [][3]int{
		{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index},
		{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, ttl},
		{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, class},
	}
	if s.is4 {
		m := unix.IPMreqn{Ifindex: int32(index)}
		if err := unix.SetsockoptIPMreqn(s.fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &m); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
		options = [][3]int{
			{unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, ttl},
			{unix.IPPROTO_IP, unix.IP_TOS, class},
		}
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(s.fd, o[0], o[1], o[2]); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return nil
}

// interfaceIndex returns the number of an interface in the socket's network
// namespace.
func (s *sendSocket) interfaceIndex(name string) (int, error) {
	req, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(s.fd, unix.SIOCGIFINDEX, req)
	}
	if err != nil {
		return 0, fmt.Errorf("interface %s: %v", name, err)
	}
	return int(req.Uint32()), nil
}

// backlogged reports whether packets that were sent are waiting for the host's
// link: a third of the send buffer, since a sender who waited for room is woken
// when half of it is free.
func (s *sendSocket) backlogged() bool {
	waiting, err := unix.IoctlGetInt(s.fd, unix.SIOCOUTQ)
	return err == nil && waiting >= s.buffer/3
}

// writeBatch sends the first messages of a burst from the one at on, and
// returns how many. It waits for room in the buffer.
func (s *sendSocket) writeBatch(b *burst, at, end int) (int, error) {
	for i := at; i < end; i++ {
		m, h := &b.ms[i], &b.headers[i].msg
		b.iovs[i].Base = &m.packets[0]
		b.iovs[i].SetLen(len(m.packets))
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.name)), b.nameLen
		h.Iov = &b.iovs[i]
		h.SetIovlen(1)
		h.Control = nil
		h.SetControllen(0)
		if m.size > 0 {
			h.Control = &b.oob[i][0]
			h.SetControllen(len(b.oob[i]))
		}
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&b.headers[at])), uintptr(end-at), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// send sends a burst of a channel that has rate, in bits a second. It returns
// how many packets the host refused, and why the last of them.
func (s *sendSocket) send(b *burst, rate int64) (refused int, err error) {
	longest := 0
	if s.segments.Load() {
		longest = min(int(float64(rate)/8*messageTime), maxMessage)
	}
	for at, end := 0, b.arrange(longest); at < end; {
		n, e := s.writeBatch(b, at, end)
		at += n
		if e == nil || e == unix.EINTR {
			continue
		}
		lost := 1
		if b.ms[at].size > 0 {
			lost, e = s.sendSingly(b, &b.ms[at], e)
		}
		if refused += lost; lost > 0 {
			err = os.NewSyscallError("sendmmsg", e)
		}
		at++
	}
	return refused, err
}

// sendSingly sends the packets of a message that the kernel refused with the
// error why, one by one. If they go, it was the cutting up that was refused:
// a device that leaves checksums to the kernel (EIO before Linux 6.11), one
// whose MTU has shrunk since (EINVAL, EMSGSIZE), and what else later kernels
// think of. Then messages are not made of several packets again.
func (s *sendSocket) sendSingly(b *burst, m *message, why error) (refused int, err error) {
	sent, told := 0, control{size: m.size}
	for p := range told.packets(m.packets) {
		if e := unix.Sendto(s.fd, p, 0, sockaddr(b.to, 0)); e != nil {
			refused, err = refused+1, e
		} else {
			sent++
		}
	}
	if sent > 0 && why != unix.ENOBUFS && s.segments.Swap(false) {
		s.log.Info("kernel or device does not segment, sending packet by packet", "err", why)
	}
	return refused, err
}
