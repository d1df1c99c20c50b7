package cast

import (
	"context"
	"net"
	"sync"
	"time"

	"huck/imager/api"
	"huck/imager/cast/protocol"
	"huck/imager/image"
)

const (
	// sendBatch is how many packets one system call sends at most.
	sendBatch = 32
	// readers is how many chunks are read from the source at a time.
	readers = 4
)

// Channel is one image's multicast group and the sender that serves it.
type Channel struct {
	server *Server
	info   api.Channel
	group  *net.UDPAddr
	sender *Sender
	src    Source

	inbox  chan []byte // requests
	reads  chan uint32
	loads  chan load
	cancel context.CancelFunc
	ctx    context.Context
	wait   sync.WaitGroup

	complained time.Time // when the last log line about sending was written

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
		group:  net.UDPAddrFromAddrPort(withZone(info.Group, s.cfg.Interface)),
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
	ms := newMessages(sendBatch, max(c.info.SymbolSize+protocol.DataSize, 1280))
	for i := range ms {
		ms[i].Addr = c.group
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		for n, ok := c.sender.Need(); ok; n, ok = c.sender.Need() {
			c.reads <- n // has room for maxReads
		}
		size, n := 0, 0
		for ; n < len(ms); n++ {
			b, ok := c.sender.Next(now, ms[n].Buffers[0][:0])
			if !ok {
				break
			}
			ms[n].Buffers[0] = b
			size += len(b) + c.sender.overhead
		}
		if n > 0 {
			if !c.sleep(timer, c.server.total.take(now, size)) {
				return
			}
			c.send(ms[:n])
		}
		c.publish()
		wait := time.Duration(0)
		if n < len(ms) {
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

// complainGap is the least time between two log lines about packets that
// cannot be sent.
const complainGap = 10 * time.Second

// send sends a batch. What the host cannot send now is lost like any packet
// on the way; the sender pauses.
func (c *Channel) send(ms []message) {
	for len(ms) > 0 {
		n, err := c.server.conn.writeBatch(ms)
		if err != nil {
			c.sender.Congested()
			if now := time.Now(); now.Sub(c.complained) > complainGap {
				c.complained = now
				c.server.cfg.Log.Warn("cannot send multicast, going on", "group", c.info.Group, "err", err)
			}
			n = max(n, 0) + 1 // the one that failed
		}
		ms = ms[min(n, len(ms)):]
	}
}

func (c *Channel) publish() {
	st := c.sender.Stats()
	c.mu.Lock()
	c.stats = st
	c.mu.Unlock()
}
