package pace_test

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"time"

	"huck/imager/cast/pace"
)

// packetSize is the IP size in bytes of a full data packet of IPv4.
const packetSize = 1476

// epoch is when the virtual time begins.
var epoch = time.Unix(1_000_000, 0)

// network is a packet level model in virtual time: events in order, and
// queues that need none.
type network struct {
	rand   *rand.Rand
	now    time.Duration
	events events
	order  int
}

func newNetwork(seed uint64) *network {
	return &network{rand: rand.New(rand.NewPCG(seed, 1))}
}

type event struct {
	at    time.Duration
	order int
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

func (n *network) after(d time.Duration, do func()) {
	n.order++
	heap.Push(&n.events, event{n.now + d, n.order, do})
}

func (n *network) run(until time.Duration) {
	for len(n.events) > 0 && n.events[0].at <= until {
		e := heap.Pop(&n.events).(event)
		n.now = e.at
		e.do()
	}
	n.now = until
}

// port is a FIFO queue with drop-tail before a link.
type port struct {
	rate   float64 // bit/s, 0 is no limit
	buffer float64 // bytes
	free   time.Duration
	seed   uint64
}

// backlog is the bytes queued at a time.
func (p *port) backlog(at time.Duration) float64 {
	return max(0, (p.free-at).Seconds()*p.rate/8)
}

// phase blurs where the queue is full by up to 16 packets: else of two flows in
// step one would lose everything and the other nothing.
func (p *port) phase() float64 {
	p.seed = p.seed*6364136223846793005 + 1442695040888963407
	return min(16*1500, p.buffer/4) * float64(p.seed>>40) / (1 << 24)
}

// pass returns when a packet that comes at at leaves; false if it is dropped.
func (p *port) pass(at time.Duration, size float64) (time.Duration, bool) {
	if p == nil || p.rate == 0 {
		return at, true
	}
	if full := p.backlog(at) + size + p.phase(); full > p.buffer {
		return 0, false
	}
	p.free = max(p.free, at) + time.Duration(size*8/p.rate*1e9)
	return p.free, true
}

// loss is a Gilbert-Elliott channel: part of the packets are lost, in bursts of
// that mean length.
type loss struct {
	part, burst float64
	bad         bool
}

func (l *loss) drop(r *rand.Rand) bool {
	if l.part == 0 {
		return false
	}
	if l.burst <= 1 {
		return r.Float64() < l.part
	}
	if l.bad {
		l.bad = r.Float64() >= 1/l.burst
	} else {
		l.bad = r.Float64() < l.part/(1-l.part)/l.burst
	}
	return l.bad
}

// client is a receiver.
type client struct {
	id    uint64
	port  *port // its own
	loss  loss
	sink  float64 // bit/s its disk takes, 0 is any
	every time.Duration
	// grain is how long packets wait for being read, jitter how late a report may
	// come.
	grain, jitter time.Duration

	flying   []arrival // in order
	total    int       // arrived
	last     arrival
	start    arrival
	started  int // total at start
	backlog  float64
	sunk     time.Duration
	gone     bool
	goneAt   time.Duration
	received []int // packets, per second
}

type arrival struct {
	counter int
	at      time.Duration
}

// sender is a channel: pacing as in package cast, around a pace.Controller.
type sender struct {
	net     *network
	pace    *pace.Controller
	host    *port // refuses rather than queues
	nic     *port // queues
	shared  *port // a bottleneck that all share
	clients []*client
	delay   time.Duration // one way
	demand  float64       // bit/s asked for, 0 is endless
	tokens  float64
	at      time.Duration
	sentAt  []time.Duration // by counter
	stopped bool
	idle    bool
	rates   []float64 // Rate, every 10 ms
}

func (n *network) sender(cfg pace.Config, shared *port, clients ...*client) *sender {
	s := &sender{net: n, pace: pace.New(cfg), shared: shared, clients: clients, delay: 200 * time.Microsecond}
	return s
}

func (s *sender) now() time.Time { return epoch.Add(s.net.now) }

func (s *sender) begin(at time.Duration) {
	s.net.after(at, func() {
		s.at = s.net.now
		s.wake()
		s.watch()
		for i, c := range s.clients {
			c.id = uint64(i + 1)
			c.sunk = s.net.now
			if c.every == 0 {
				c.every = max(100*time.Millisecond, time.Duration(len(s.clients))*time.Second/400)
			}
			s.net.after(time.Duration(s.net.rand.Int64N(int64(c.every))), func() { s.report(c) })
		}
	})
}

func (s *sender) watch() {
	s.rates = append(s.rates, float64(s.pace.Rate(s.now())))
	s.net.after(10*time.Millisecond, s.watch)
}

// wake sends what the tokens allow, then waits for half a burst.
func (s *sender) wake() {
	if s.stopped {
		return
	}
	if s.idle {
		s.pace.Idle(s.now())
		s.at = s.net.now
		s.net.after(250*time.Millisecond, s.wake)
		return
	}
	rate := float64(s.pace.Rate(s.now()))
	if s.demand > 0 {
		rate = min(rate, s.demand)
	}
	burst := max(rate/8*0.008, 16*1408)
	s.tokens = min(s.tokens+(s.net.now-s.at).Seconds()*rate/8, burst)
	s.at = s.net.now
	for s.tokens > 0 {
		s.tokens -= packetSize
		if !s.send() {
			s.pace.HostLimited(s.now())
			s.tokens = min(s.tokens, 0) - rate/8*0.008
		}
	}
	wait := max(time.Duration((burst/2-s.tokens)/rate*8e9), 100*time.Microsecond)
	// A timer is a bit late.
	s.net.after(wait+time.Duration(s.net.rand.Int64N(200_000)), s.wake)
}

// send sends a packet; false if the host refuses it.
func (s *sender) send() bool {
	s.sentAt = append(s.sentAt, s.net.now)
	at, ok := s.host.pass(s.net.now, packetSize)
	if !ok {
		return false
	}
	at, _ = s.nic.pass(at, packetSize)
	at, ok = s.shared.pass(at, packetSize)
	if !ok {
		return true
	}
	for _, c := range s.clients {
		if c.gone {
			continue
		}
		if at, ok := c.port.pass(at, packetSize); ok && !c.loss.drop(s.net.rand) {
			at += s.delay
			if c.grain > 0 {
				at = (at/c.grain + 1) * c.grain
			}
			c.flying = append(c.flying, arrival{len(s.sentAt), at})
		}
	}
	return true
}

// arrive takes what has arrived by now.
func (c *client) arrive(now time.Duration) {
	i := 0
	for ; i < len(c.flying) && c.flying[i].at <= now; i++ {
		a := c.flying[i]
		c.last = a
		c.total++
		sec := int(a.at / time.Second)
		for len(c.received) <= sec {
			c.received = append(c.received, 0)
		}
		c.received[sec]++
		if c.start.counter == 0 {
			c.start, c.started = a, c.total
		}
	}
	c.flying = c.flying[:copy(c.flying, c.flying[i:])]
	c.backlog = max(0, c.backlog+float64(i)*packetSize-c.sink/8*(now-c.sunk).Seconds())
	c.sunk = now
}

// report sends what a client saw of a stretch of packets.
func (s *sender) report(c *client) {
	if s.stopped || c.gone {
		return
	}
	now := s.net.now
	c.arrive(now)
	s.net.after(c.every, func() { s.report(c) })
	if c.last.counter <= c.start.counter {
		return
	}
	first, last := s.sentAt[c.start.counter-1], s.sentAt[c.last.counter-1]
	smp := pace.Sample{
		Receiver: c.id,
		Sent:     c.last.counter - c.start.counter,
		Received: c.total - c.started,
		Bytes:    packetSize * (c.last.counter - c.start.counter),
		SendTime: last.Truncate(time.Millisecond) - first.Truncate(time.Millisecond),
		RecvTime: c.last.at - c.start.at,
	}
	if c.sink > 0 && c.backlog > 2<<20 {
		smp.SinkRate = int64(c.sink)
	}
	age := now - c.last.at
	c.start, c.started = c.last, c.total
	if c.every > 100*time.Millisecond { // the next one tells of its last part only
		c.start.counter = 0
		s.net.after(c.every-150*time.Millisecond, func() { c.arrive(s.net.now); c.start = c.last; c.started = c.total })
	}
	way := s.delay
	if c.jitter > 0 {
		way += time.Duration(s.net.rand.Int64N(int64(c.jitter)))
	}
	s.net.after(way, func() {
		smp.RTT = s.net.now - last.Truncate(time.Millisecond) - age
		s.pace.Sample(s.now(), smp)
		if s.pace.Straggler(c.id) && !c.gone {
			c.gone, c.goneAt = true, s.net.now
			s.net.after(100*time.Millisecond, func() { s.pace.Forget(c.id) })
		}
	})
}

// goodput is what a client got from one second to another in bit/s.
func (c *client) goodput(from, to int) float64 {
	n := 0
	for _, v := range c.received[min(from, len(c.received)):min(to, len(c.received))] {
		n += v
	}
	return float64(n) * packetSize * 8 / float64(to-from)
}

// meanRate is the mean of Rate between two times after the sender began.
func (s *sender) meanRate(from, to time.Duration) float64 {
	var sum float64
	part := s.rates[min(int(from/(10*time.Millisecond)), len(s.rates)):min(int(to/(10*time.Millisecond)), len(s.rates))]
	for _, r := range part {
		sum += r
	}
	return sum / float64(max(len(part), 1))
}

// tcp is a long TCP flow with CUBIC (RFC 9438, its Reno-friendly region
// included) or NewReno, and SACK.
type tcp struct {
	net        *network
	path       *port
	rtt        time.Duration // without queues
	reno       bool
	window     float64 // packets
	threshold  float64
	flying     int
	counter    int
	recover    int // losses up to this one were answered
	wmax, k    float64
	west       float64
	epochStart time.Duration
	timeout    bool
	acked      []int // packets, per second
}

func (n *network) tcp(path *port, rtt time.Duration, reno bool) *tcp {
	return &tcp{net: n, path: path, rtt: rtt, reno: reno, window: 10, threshold: math.Inf(1)}
}

func (t *tcp) begin(at time.Duration) { t.net.after(at, t.fill) }

func (t *tcp) fill() {
	for !t.timeout && float64(t.flying) < math.Floor(t.window) {
		t.flying++
		t.counter++
		n, sent := t.counter, t.net.now
		at, ok := t.path.pass(sent, 1500)
		if !ok {
			// Known when what is behind it is acknowledged.
			at = t.path.free + time.Duration(3*1500*8/t.path.rate*1e9)
		}
		t.net.after(at-sent+t.rtt, func() { t.ack(n, ok, t.net.now-sent) })
	}
}

func (t *tcp) ack(n int, ok bool, rtt time.Duration) {
	t.flying--
	if ok {
		sec := int(t.net.now / time.Second)
		for len(t.acked) <= sec {
			t.acked = append(t.acked, 0)
		}
		t.acked[sec]++
		t.open(rtt.Seconds())
	} else if n > t.recover {
		t.back()
	}
	t.fill()
}

// open grows the window for an acknowledgement.
func (t *tcp) open(rtt float64) {
	switch {
	case t.window < t.threshold:
		t.window++
	case t.reno:
		t.window += 1 / t.window
	default:
		if t.epochStart == 0 {
			t.epochStart, t.west = t.net.now, t.window
			t.wmax = max(t.wmax, t.window)
			t.k = math.Cbrt((t.wmax - t.window) / 0.4)
		}
		alpha := 0.53
		if t.west >= t.wmax {
			alpha = 1
		}
		t.west += alpha / t.window
		at := (t.net.now - t.epochStart).Seconds() + rtt - t.k
		want := min(max(0.4*at*at*at+t.wmax, t.window), 1.5*t.window)
		t.window = max(t.window+(want-t.window)/t.window, t.west)
	}
}

// back answers a loss.
func (t *tcp) back() {
	t.recover = t.counter
	if t.window < 4 { // too few duplicate acknowledgements
		t.threshold, t.window, t.timeout = 2, 1, true
		t.net.after(200*time.Millisecond, func() { t.timeout = false; t.fill() })
		return
	}
	beta := 0.7
	if t.reno {
		beta = 0.5
	}
	t.wmax = t.window
	t.window = max(t.window*beta, 2)
	t.threshold, t.epochStart = t.window, 0
}

func (t *tcp) goodput(from, to int) float64 {
	n := 0
	for _, v := range t.acked[min(from, len(t.acked)):min(to, len(t.acked))] {
		n += v
	}
	return float64(n) * 1500 * 8 / float64(to-from)
}
