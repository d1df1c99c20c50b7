package cast

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"huck/imager/api"
	"huck/imager/image"
)

// readers is how many chunks are read from the source at a time.
const readers = 4

// Channel is one image's multicast group and the sender that serves it.
type Channel struct {
	server *Server
	info   api.Channel
	sender *Sender
	src    Source

	inbox  chan []byte // requests
	reads  chan uint32
	loads  chan load
	cancel context.CancelFunc
	// expected receivers were told of the channel since run last looked.
	expected atomic.Int32
	ctx      context.Context
	wait     sync.WaitGroup

	backlog    time.Time // since when packets wait for the host's link; zero is not
	refused    uint64    // packets, by the kernel
	complained time.Time // when the last log line about that was written
	renewed    time.Time // when the interface was looked up

	mu    sync.Mutex
	stats SenderStats
}

// load is a chunk that was read.
type load struct {
	chunk   uint32
	encoded []byte
	tag     uint32
	err     error
}

func newChannel(s *Server, info api.Channel, m *Sender, src Source) *Channel {
	c := &Channel{
		server: s,
		info:   info,
		sender: m,
		src:    src,
		inbox:  make(chan []byte, 1024),
		reads:  make(chan uint32, maxReads),
		loads:  make(chan load, maxReads),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// start starts the channel's goroutines; Close ends them and waits.
func (c *Channel) start() {
	for range readers {
		c.wait.Go(c.read)
	}
	c.wait.Go(c.run)
}

// Info returns what receivers need to join; the secret is in it.
func (c *Channel) Info() api.Channel { return c.info }

// Expect tells the channel that one more receiver has been told of it.
func (c *Channel) Expect() { c.expected.Add(1) }

// Stats returns the sender's counters, as they were a moment ago.
func (c *Channel) Stats() SenderStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// Close ends the channel and waits for its goroutines. The session is over:
// another Open makes a new one.
func (c *Channel) Close() {
	c.server.mu.Lock()
	if c.server.channels[c.info.Session] == c {
		delete(c.server.channels, c.info.Session)
	}
	c.server.mu.Unlock()
	c.cancel()
	c.wait.Wait()
}

// read serves the sender's needs from the source.
func (c *Channel) read() {
	for {
		select {
		case <-c.ctx.Done():
			return
		case n := <-c.reads:
			l := load{chunk: n}
			if l.encoded, l.err = c.src.Chunk(c.ctx, n); l.err == nil {
				l.tag = image.Tag(l.encoded)
			}
			select {
			case <-c.ctx.Done():
				return
			case c.loads <- l:
			}
		}
	}
}

// run drives the sender.
func (c *Channel) run() {
	out := newBurst(c.info.Group)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		for range c.expected.Swap(0) {
			c.sender.Expect(now)
		}
		for n, ok := c.sender.Need(); ok; n, ok = c.sender.Need() {
			c.reads <- n // has room for maxReads
		}
		more := c.fill(now, out)
		if n := out.len(); n > 0 {
			if !c.sleep(timer, c.server.total.take(now, len(out.buf)+n*c.sender.overhead)) {
				return
			}
			c.send(out)
		}
		c.publish()
		wait := time.Duration(0)
		if !more {
			wait = time.Hour
			if t := c.sender.Timer(now); !t.IsZero() {
				wait = t.Sub(now)
			}
		}
		if !c.pause(timer, wait) {
			return
		}
	}
}

// fill takes from the sender what it has to send now, a burst at most, and
// reports whether there may be more.
func (c *Channel) fill(now time.Time, out *burst) (more bool) {
	for out.reset(); !out.full(); {
		buf, ok := c.sender.Next(now, out.buf)
		if !ok {
			return false
		}
		out.add(buf)
	}
	return true
}

// sleep waits for d and returns false if the channel was closed meanwhile.
func (c *Channel) sleep(timer *time.Timer, d time.Duration) bool {
	if d <= 0 {
		return c.ctx.Err() == nil
	}
	timer.Reset(d)
	select {
	case <-timer.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// pause takes requests and chunks until wait is over and none is there. It
// returns false if the channel was closed.
func (c *Channel) pause(timer *time.Timer, wait time.Duration) bool {
	if wait > 0 {
		timer.Reset(wait)
		select {
		case <-c.ctx.Done():
			return false
		case <-timer.C:
		case p := <-c.inbox:
			c.sender.Packet(time.Now(), p)
		case l := <-c.loads:
			c.supply(l)
		}
	}
	for range cap(c.loads) {
		select {
		case <-c.ctx.Done():
			return false
		case p := <-c.inbox:
			c.sender.Packet(time.Now(), p)
		case l := <-c.loads:
			c.supply(l)
		default:
			return true
		}
	}
	return true
}

func (c *Channel) supply(l load) {
	if l.err != nil && c.ctx.Err() == nil {
		c.server.cfg.Log.Error("chunk unavailable", "chunk", l.chunk, "err", l.err)
	}
	c.sender.Supply(time.Now(), l.chunk, l.encoded, l.tag, l.err)
}

const (
	// complainGap is the least time between two log lines about packets that
	// cannot be sent.
	complainGap = 10 * time.Second
	// renewGap is how often it is looked whether the interface is another one
	// now, while they cannot be sent.
	renewGap = time.Second
)

// send sends a burst. What the host cannot send now is lost like any packet on
// the way; the sender pauses.
func (c *Channel) send(out *burst) {
	refused, err := c.server.out.send(out, c.stats.Rate)
	now := time.Now()
	if refused == 0 {
		c.queueing(now)
		return
	}
	c.refused += uint64(refused)
	c.sender.Congested(now)
	if now.Sub(c.complained) > complainGap {
		c.complained = now
		c.server.cfg.Log.Warn("cannot send multicast, going on", "group", c.info.Group, "err", err)
	}
	if now.Sub(c.renewed) > renewGap {
		c.renewed = now
		c.server.renew()
	}
}

// queueing notes whether packets wait for the host's link. If that lasts longer
// than a burst, the link is slower than the channel's rate; what a sender sends
// at once that had to wait for a processor is gone by then.
func (c *Channel) queueing(now time.Time) {
	switch {
	case !c.server.out.backlogged():
		c.backlog = time.Time{}
	case c.backlog.IsZero():
		c.backlog = now
	case now.Sub(c.backlog) > burstTime:
		c.sender.pace.HostLimited(now)
	}
}

func (c *Channel) publish() {
	st := c.sender.Stats()
	st.SendErrors = c.refused
	c.mu.Lock()
	c.stats = st
	c.mu.Unlock()
}
