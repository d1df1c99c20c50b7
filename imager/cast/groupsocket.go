package cast

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// groupSocket receives what is sent to a group. It is read without waiting and
// is unknown to Go's network poller, which would wake for every packet that
// arrives while its reader rests: at 30 Mbit/s that costs ten times as much as
// the packets. One goroutine at a time uses it.
type groupSocket struct {
	fd  int
	is4 bool
	// buffer is the size in bytes of the receive buffer.
	buffer int
	// sources makes readBatch note where messages came from.
	sources bool
	headers []mmsghdr // scratch
	iovs    []unix.Iovec
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	msg unix.Msghdr
	n   uint32
}

// joinGroup opens a socket that receives what is sent to group on ifi. It is
// bound to the group's address, so that no unicast packet and no other group
// on the port comes through.
func joinGroup(group netip.AddrPort, ifi *net.Interface, log *slog.Logger) (*groupSocket, error) {
	s, err := bindGroup(group, ifi)
	if err != nil {
		return nil, fmt.Errorf("cast: open socket for group %v: %v", group, err)
	}
	if err := s.join(group, ifi); err != nil {
		s.Close()
		return nil, fmt.Errorf("cast: join group %v on %s: %v", group, ifi.Name, err)
	}
	setControl(s.fd)
	s.stamp() // the first call makes the kernel note the time
	s.buffer = setBuffer(s.fd, receiveBuffers, receiveBuffer, log)
	return s, nil
}

func bindGroup(group netip.AddrPort, ifi *net.Interface) (*groupSocket, error) {
	s := &groupSocket{is4: group.Addr().Is4()}
	family := unix.AF_INET6
	var to unix.Sockaddr = &unix.SockaddrInet6{Addr: group.Addr().As16(), Port: int(group.Port()), ZoneId: uint32(ifi.Index)}
	level, all := unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL
	if s.is4 {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Addr: group.Addr().As4(), Port: int(group.Port())}
		level, all = unix.IPPROTO_IP, unix.IP_MULTICAST_ALL
	}
	var err error
	if s.fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		s.Close()
		return nil, os.NewSyscallError("setsockopt", err)
	}
	// Only what this socket joined, not what others on the host did. Kernels
	// before 4.20 lack it for IPv6; the MACs sort it out then.
	_ = unix.SetsockoptInt(s.fd, level, all, 0)
	if err := unix.Bind(s.fd, to); err != nil {
		s.Close()
		return nil, os.NewSyscallError("bind", err)
	}
	return s, nil
}

// Close closes the socket, which leaves the group.
func (s *groupSocket) Close() error { return os.NewSyscallError("close", unix.Close(s.fd)) }

// join makes the kernel report to routers and switches, by IGMPv3 or MLDv2 as
// long as it hears no older querier (RFC 9776, RFC 9777), that the group is
// wanted on ifi.
func (s *groupSocket) join(group netip.AddrPort, ifi *net.Interface) error {
	return s.member(unix.IP_ADD_MEMBERSHIP, unix.IPV6_JOIN_GROUP, group, ifi)
}

// leave undoes join; the kernel reports that, too, if no other socket wants
// the group.
func (s *groupSocket) leave(group netip.AddrPort, ifi *net.Interface) error {
	return s.member(unix.IP_DROP_MEMBERSHIP, unix.IPV6_LEAVE_GROUP, group, ifi)
}

func (s *groupSocket) member(opt4, opt6 int, group netip.AddrPort, ifi *net.Interface) error {
	if s.is4 {
		m := &unix.IPMreqn{Multiaddr: group.Addr().As4(), Ifindex: int32(ifi.Index)}
		return os.NewSyscallError("setsockopt", unix.SetsockoptIPMreqn(s.fd, unix.IPPROTO_IP, opt4, m))
	}
	m := &unix.IPv6Mreq{Multiaddr: group.Addr().As16(), Interface: uint32(ifi.Index)}
	return os.NewSyscallError("setsockopt", unix.SetsockoptIPv6Mreq(s.fd, unix.IPPROTO_IPV6, opt6, m))
}

// await waits until there is something to read, at most for d.
func (s *groupSocket) await(d time.Duration) {
	ms := int((d + time.Millisecond - 1) / time.Millisecond)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, ms) // a signal ends it early, which is no harm
}

// readBatch fills some of ms with what there is, and returns how many.
func (s *groupSocket) readBatch(ms []inbound) (int, error) {
	if len(s.headers) < len(ms) {
		s.headers, s.iovs = make([]mmsghdr, len(ms)), make([]unix.Iovec, len(ms))
	}
	for i := range ms {
		m, h := &ms[i], &s.headers[i].msg
		s.iovs[i].Base = &m.buf[0]
		s.iovs[i].SetLen(len(m.buf))
		h.Name, h.Namelen = nil, 0
		if s.sources {
			h.Name, h.Namelen = (*byte)(unsafe.Pointer(&m.name)), uint32(unsafe.Sizeof(m.name))
		}
		h.Iov = &s.iovs[i]
		h.SetIovlen(1)
		h.Control = &m.oob[0]
		h.SetControllen(len(m.oob))
	}
	// Without waiting it is too short for the scheduler to be told of it.
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.headers[0])),
		uintptr(len(ms)), unix.MSG_DONTWAIT, 0, 0)
	if errno == unix.EAGAIN {
		return 0, nil
	}
	if errno != 0 {
		return 0, os.NewSyscallError("recvmmsg", errno)
	}
	for i := range ms[:n] {
		ms[i].n, ms[i].controlLen = int(s.headers[i].n), int(s.headers[i].msg.Controllen)
	}
	return int(n), nil
}

// stamp returns when the last message that was read came, by the clock on the
// wall; zero is unknown. Told with every message it would take a twenty-fifth
// of a receiver's time.
func (s *groupSocket) stamp() time.Time {
	var ts [2]int64 // struct __kernel_timespec
	if _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(s.fd), unix.SIOCGSTAMPNS_NEW, uintptr(unsafe.Pointer(&ts))); errno != 0 {
		return time.Time{}
	}
	return time.Unix(ts[0], ts[1])
}

// tellSources makes source known from the next readBatch on, at the cost of
// some time for every message.
func (s *groupSocket) tellSources() { s.sources = true }

// inbound is a received message: a packet or several, put together.
type inbound struct {
	buf        []byte
	n          int // bytes in buf
	oob        []byte
	controlLen int                 // bytes in oob
	name       unix.RawSockaddrAny // if sources are told
}

// newInbound returns room for n messages, of any length. Their beginnings,
// which is all that is used of most, lie at different places in the lines of a
// processor's caches.
func newInbound(n int) []inbound {
	const size, stride = 1<<16 - 1, 1<<16 + 2<<10
	ms, all, oob := make([]inbound, n), make([]byte, n*stride), make([]byte, n*controlSize)
	for i := range ms {
		ms[i].buf, ms[i].oob = all[i*stride:][:size:size], oob[i*controlSize:][:controlSize:controlSize]
	}
	return ms
}

// message returns what the kernel delivered and told of it.
func (m *inbound) message() ([]byte, control) { return m.buf[:m.n], parseControl(m.oob[:m.controlLen]) }

// source is the address that the message came from, if that was told.
func (m *inbound) source() netip.AddrPort {
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&m.name)), unsafe.Sizeof(m.name))
	port := binary.BigEndian.Uint16(raw[2:]) // at the same place in both
	switch m.name.Addr.Family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[4:8])), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(raw[8:24])).Unmap(), port)
	}
	return netip.AddrPort{}
}
