package cast

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"huck/imager/cast/protocol"
)

const (
	// burstPackets and burstBytes bound what is handed to the kernel at a time:
	// about 1 ms at 1 Gbit/s.
	burstPackets = 128
	burstBytes   = 128 << 10
	// maxSegments is how many packets the kernel cuts one message into:
	// UDP_MAX_SEGMENTS, which grew to 128 in Linux 6.9.
	maxSegments = 64
	// maxMessage is the longest message in bytes: what the 16-bit length of an
	// IP packet leaves beside the headers.
	maxMessage = 1<<16 - 1 - 40 - 8
	// messageTime is how much of the time a message's packets take at the
	// channel's rate. They leave the host back to back, and queues on the way
	// drop or keep a message as a whole as long as it is one.
	messageTime = 1e-3 // seconds
)

// message is packets that go to the kernel as one.
type message struct {
	packets []byte
	size    int // of the packets but the last; 0 is that it is one
}

// burst is packets to one address, one after the other in one buffer, so that
// equal ones can go to the kernel as one message.
type burst struct {
	buf  []byte
	ends []int // of the packets in buf
	ms   []message
	// Each message as sendmmsg(2) has it; oob tells its packets' size.
	headers []mmsghdr
	iovs    []unix.Iovec
	oob     [][]byte
	to      netip.AddrPort
	name    unix.RawSockaddrAny // to
	nameLen uint32
}

func newBurst(to netip.AddrPort) *burst {
	b := &burst{
		buf:     make([]byte, 0, burstBytes+protocol.MaxPacket),
		ends:    make([]int, 0, burstPackets),
		ms:      make([]message, burstPackets),
		headers: make([]mmsghdr, burstPackets),
		iovs:    make([]unix.Iovec, burstPackets),
		oob:     make([][]byte, burstPackets),
		to:      to,
	}
	b.nameLen = putSockaddr(&b.name, to)
	for i := range b.ms {
		b.oob[i] = make([]byte, unix.CmsgSpace(2))
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b.oob[i][0]))
		h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		h.SetLen(unix.CmsgLen(2))
	}
	return b
}

// putSockaddr writes a as the kernel reads it, and returns its length.
func putSockaddr(raw *unix.RawSockaddrAny, a netip.AddrPort) uint32 {
	b := unsafe.Slice((*byte)(unsafe.Pointer(raw)), unsafe.Sizeof(*raw))
	binary.BigEndian.PutUint16(b[2:], a.Port()) // at the same place in both
	if a.Addr().Is4() {
		raw.Addr.Family = unix.AF_INET
		copy(b[4:], a.Addr().AsSlice())
		return unix.SizeofSockaddrInet4
	}
	raw.Addr.Family = unix.AF_INET6
	copy(b[8:], a.Addr().AsSlice())
	return unix.SizeofSockaddrInet6
}

func (b *burst) reset()     { b.buf, b.ends = b.buf[:0], b.ends[:0] }
func (b *burst) len() int   { return len(b.ends) }
func (b *burst) full() bool { return len(b.ends) == cap(b.ends) || len(b.buf) >= burstBytes }

// add takes the buffer back after one packet was appended to it.
func (b *burst) add(buf []byte) { b.buf, b.ends = buf, append(b.ends, len(buf)) }

// arrange makes messages of the packets and returns how many. The kernel can be
// told to cut one up into packets of one size, of which the last may be
// shorter; longest is the most bytes of such a message, 0 makes one message of
// every packet.
func (b *burst) arrange(longest int) int {
	n, start := 0, 0
	for i := 0; i < len(b.ends); n++ {
		end, size := b.ends[i], b.ends[i]-start
		first := i
		for i++; i < len(b.ends) && i-first < maxSegments && b.ends[i]-start <= longest; i++ {
			next := b.ends[i] - end
			if next > size {
				break
			}
			end = b.ends[i]
			if next < size {
				i++
				break
			}
		}
		b.ms[n] = message{packets: b.buf[start:end]}
		if i-first > 1 {
			b.ms[n].size = size
			binary.NativeEndian.PutUint16(b.oob[n][unix.CmsgLen(0):], uint16(size))
		}
		start = end
	}
	return n
}
