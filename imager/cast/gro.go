package cast

import (
	"encoding/binary"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// receiveBatch is how many messages one system call receives at most, each
	// of one packet or, put together by the kernel, many. A full batch means
	// that more are waiting.
	receiveBatch = 64
	// controlSize has room for what the kernel tells of a message: 24 bytes
	// each for the size of its packets and for the drops.
	controlSize = 48
	// dropGap is the least time between two log lines about packets that
	// found no room in a socket's buffer.
	dropGap = 10 * time.Second
)

// control is what the kernel tells of a received message.
type control struct {
	// size is that of the packets in the message, but the last, which may be
	// shorter; 0 is that it is one packet.
	size int
	// drops counts what found no room in the socket's buffer so far, where
	// counted is set.
	drops   uint32
	counted bool
}

// setControl asks for all of it. What an old kernel does not know it does not
// tell: UDP_GRO came with Linux 5.0.
func setControl(fd int) {
	_ = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
}

// parseControl reads the control messages in b.
func parseControl(b []byte) control {
	var c control
	for len(b) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			break
		}
		b = rest
		switch {
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			c.size = int(binary.NativeEndian.Uint32(data))
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			c.drops, c.counted = binary.NativeEndian.Uint32(data), true
		}
	}
	return c
}

// packets yields the packets of a message.
func (c *control) packets(message []byte) func(yield func([]byte) bool) {
	size := c.size
	if size <= 0 {
		size = len(message)
	}
	return func(yield func([]byte) bool) {
		for len(message) > 0 {
			n := min(size, len(message))
			if !yield(message[:n]) {
				return
			}
			message = message[n:]
		}
	}
}

// arrival is when a message that is read now came: what the kernel's stamp
// says, unless its clock was set meanwhile, and never before last.
func arrival(now, stamp, last time.Time) time.Time {
	at := now
	if age := now.Sub(stamp); !stamp.IsZero() && age > 0 && age < time.Second {
		at = now.Add(-age)
	}
	if at.Before(last) {
		return last
	}
	return at
}

// drops counts what found no room in the buffer of a socket.
type drops struct {
	total  uint64
	last   uint32 // the kernel's counter, which wraps
	warned time.Time
	told   uint64 // of total, in the log
}

// note takes the kernel's counter and warns, now and then, if it has grown.
func (d *drops) note(now time.Time, counter uint32, log *slog.Logger) {
	d.total += uint64(counter - d.last)
	d.last = counter
	if d.total == d.told || now.Sub(d.warned) < dropGap {
		return
	}
	log.Warn("packets found no room in the socket's buffer: this machine is too busy for the channel's rate, or its net.core.rmem_max is too low",
		"drops", d.total-d.told)
	d.told, d.warned = d.total, now
}
