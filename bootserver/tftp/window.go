package tftp

import "time"

// window is the state of a transfer's sender: which blocks are out, and which
// to send next (RFC 7440, which with a window of 1 is RFC 1350). It has no
// socket and no clock of its own. Blocks are counted from 1, in 64 bits; on the
// wire they are the lower 16, so that after 65535 comes 0.
type window struct {
	size int64 // blocks that may be out at once
	last int64 // the file's last block, which is short
	// acked is the last block that has arrived with all before it, next the one
	// to send next, sent the furthest that was ever sent.
	acked, next, sent int64
	// again is true once the blocks after acked have been sent again for an
	// acknowledgement that said nothing new: the next one like it, a delayed
	// duplicate perhaps, does not double the traffic for ever (the "sorcerer's
	// apprentice", RFC 1123 section 4.2.3.1).
	again bool
	tries int // timeouts since the last progress
}

// newWindow is at the beginning of a file of size bytes.
func newWindow(size int64, t terms) window {
	return window{size: int64(t.window), last: size/int64(t.block) + 1, next: 1}
}

// take returns the block to send now, or 0 if the window is full.
func (w *window) take() int64 {
	if w.next > min(w.last, w.acked+w.size) {
		return 0
	}
	w.next++
	w.sent = max(w.sent, w.next-1)
	return w.next - 1
}

// ack takes an acknowledgement of the block with that number on the wire. One
// for something that is not out is old or forged, and ignored.
func (w *window) ack(number uint16) {
	ahead := int64(number - uint16(w.acked)) // modulo 65536; a window is far smaller
	switch {
	case ahead > w.sent-w.acked:
	case ahead > 0:
		w.acked += ahead
		// What was sent after it is lost or came out of order: RFC 7440 section
		// 3 goes on from here.
		w.next, w.again, w.tries = w.acked+1, false, 0
	case w.size > 1 && !w.again:
		w.next, w.again = w.acked+1, true
	}
}

// expired goes back to the first block that is missing. It returns false when
// that was tried often enough.
func (w *window) expired() bool {
	w.next, w.again = w.acked+1, false
	w.tries++
	if w.acked == 0 {
		return w.tries <= firstRetries
	}
	return w.tries <= retries
}

// done reports whether the client has everything.
func (w *window) done() bool { return w.acked == w.last }

// wait is how long to wait for an acknowledgement now.
func (w *window) wait(timeout time.Duration) time.Duration {
	return timeout << min(w.tries, 3)
}
