package tftp

// Window lets tests drive the sender's state without a network.
type Window struct{ w window }

// NewWindow is at the beginning of a file.
func NewWindow(size int64, block, blocks int) *Window {
	return &Window{newWindow(size, terms{block: block, window: blocks})}
}

// Take returns the next block to send, or 0.
func (w *Window) Take() int64 { return w.w.take() }

// Ack takes an acknowledgement.
func (w *Window) Ack(n uint16) { w.w.ack(n) }

// Expired reports a timeout.
func (w *Window) Expired() bool { return w.w.expired() }

// Done reports whether all has arrived.
func (w *Window) Done() bool { return w.w.done() }

// Negotiate returns the terms for options and what goes back.
func Negotiate(options []Option, largest int, size int64) (block, window int, accepted []Option) {
	t := negotiate(options, largest, size)
	return t.block, t.window, t.accepted
}
