package cast

import (
	"encoding/binary"
	"errors"
	"net"
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

// burst is packets to one address, one after the other in one buffer, so that
// equal ones can go to the kernel as one message.
type burst struct {
	buf  []byte
	ends []int // of the packets in buf
	ms   []message
	oob  [][]byte // for each of ms
}

func newBurst(to net.Addr) *burst {
	b := &burst{
		buf:  make([]byte, 0, burstBytes+protocol.MaxPacket),
		ends: make([]int, 0, burstPackets),
		ms:   make([]message, burstPackets),
		oob:  make([][]byte, burstPackets),
	}
	for i := range b.ms {
		b.ms[i] = message{Addr: to, Buffers: make([][]byte, 1)}
		b.oob[i] = make([]byte, unix.CmsgSpace(2))
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b.oob[i][0]))
		h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		h.SetLen(unix.CmsgLen(2))
	}
	return b
}

func (b *burst) reset()     { b.buf, b.ends = b.buf[:0], b.ends[:0] }
func (b *burst) len() int   { return len(b.ends) }
func (b *burst) full() bool { return len(b.ends) == cap(b.ends) || len(b.buf) >= burstBytes }

// add takes the buffer back after one packet was appended to it.
func (b *burst) add(buf []byte) { b.buf, b.ends = buf, append(b.ends, len(buf)) }

// arrange makes messages of the packets. The kernel can be told to cut one up
// into packets of one size, of which the last may be shorter; longest is the
// most bytes of such a message, 0 makes one message of every packet.
func (b *burst) arrange(longest int) []message {
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
		m := &b.ms[n]
		m.Buffers[0], m.OOB = b.buf[start:end], nil
		if i-first > 1 {
			m.OOB = b.oob[n]
			binary.NativeEndian.PutUint16(m.OOB[unix.CmsgLen(0):], uint16(size))
		}
		start = end
	}
	return b.ms[:n]
}

// segmentSize is the size of the packets that arrange made a message of.
func segmentSize(m *message) int { return int(binary.NativeEndian.Uint16(m.OOB[unix.CmsgLen(0):])) }

// canSegment reports whether the kernel knows UDP_SEGMENT, as Linux does since
// 4.18 (udp(7)).
func canSegment(c *net.UDPConn) bool {
	ok := false
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { ok = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, 0) == nil })
	}
	return ok && err == nil
}

// send sends a burst of a channel that has rate, in bits a second. It returns
// how many packets the host refused, and why the last of them.
func (c *conn) send(b *burst, rate int64) (refused int, err error) {
	longest := 0
	if c.segments.Load() {
		longest = min(int(float64(rate)/8*messageTime), maxMessage)
	}
	for ms := b.arrange(longest); len(ms) > 0; {
		n, e := c.writeBatch(ms)
		ms = ms[max(n, 0):]
		if e == nil {
			continue
		}
		lost := 1
		if ms[0].OOB != nil {
			lost, e = c.sendSingly(&ms[0], e)
		}
		if refused += lost; lost > 0 {
			err = e
		}
		ms = ms[1:]
	}
	return refused, err
}

// sendSingly sends the packets of a message that the kernel refused with the
// error why, one by one. If they go, it was the cutting up that was refused:
// a device that leaves checksums to the kernel (EIO before Linux 6.11), one
// whose MTU has shrunk since (EINVAL, EMSGSIZE), and what else later kernels
// think of. Then messages are not made of several packets again.
func (c *conn) sendSingly(m *message, why error) (refused int, err error) {
	sent, told := 0, control{size: segmentSize(m)}
	for p := range told.packets(m.Buffers[0]) {
		if _, e := c.WriteTo(p, m.Addr); e != nil {
			refused, err = refused+1, e
		} else {
			sent++
		}
	}
	if sent > 0 && !errors.Is(why, unix.ENOBUFS) && c.segments.Swap(false) {
		c.log.Info("kernel or device does not segment, sending packet by packet", "err", why)
	}
	return refused, err
}
