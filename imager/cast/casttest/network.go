package casttest

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"huck/imager/api"
	"huck/imager/cast"
)

// moderation is for how long a network card gathers packets before it hands
// them to its host together: packets that arrive within it arrive at once, when
// the last of them does.
const moderation = 200 * time.Microsecond

// Network is senders, their receivers and the time. Packets go from a sender
// over the Host port, the Trunk and each receiver's Link.
type Network struct {
	// Now is the virtual time.
	Now time.Time
	// Sender is what Start started last, nil while it is dead.
	Sender *Sender
	// Others are senders that run beside it.
	Others []*Sender
	// Receivers in the order they were added.
	Receivers []*Receiver
	// Host is the interface that all senders share. What its queue does not
	// hold waits in the sender.
	Host Port
	// Trunk is what the packets to all receivers go over first: its losses are
	// everybody's, its port is a bottleneck. Reorder, Duplicate and Corrupt are
	// for receivers' links only.
	Trunk Link
	// Snoop sees every packet a sender sends, if set.
	Snoop func(packet []byte)
	// Heard sees every packet that reaches a sender, if set.
	Heard func(packet []byte)
	// Failed is told, once, of every receiver that has an error, if set.
	Failed func(*Receiver)

	rnd    *rand.Rand
	events events
	host   queue
	trunk  queue
	losses losses
	paths  []*path
	// complete is how many Receivers, from the first on, are done.
	complete int
	train    []sent // scratch
}

// path is what receivers share whom the same packets reach at the same time.
type path struct {
	group     netip.AddrPort
	delay     time.Duration
	port      Port
	queue     queue
	receivers []*Receiver
}

// sent is a packet that is at some place at some time.
type sent struct {
	packet []byte
	at     time.Time
}

// NewNetwork returns an empty network at an arbitrary time.
func NewNetwork(seed uint64) *Network {
	return &Network{
		Now: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		rnd: rand.New(rand.NewPCG(seed, 1)),
	}
}

// Rand is the network's source of chance.
func (n *Network) Rand() *rand.Rand { return n.rnd }

// At calls f at time t.
func (n *Network) At(t time.Time, f func()) { n.events.push(t.UnixNano(), f) }

// After calls f after d.
func (n *Network) After(d time.Duration, f func()) { n.At(n.Now.Add(d), f) }

// Start starts a sender of m, instead of the one that is there, with a session
// of its own.
func (n *Network) Start(m *Image, cfg cast.SenderConfig) (*Sender, error) {
	n.Kill()
	s, err := n.newSender(m, cfg)
	n.Sender = s
	return s, err
}

// StartBeside starts a sender that runs beside those that are there, on the
// same group unless cfg names another.
func (n *Network) StartBeside(m *Image, cfg cast.SenderConfig) (*Sender, error) {
	s, err := n.newSender(m, cfg)
	if err == nil {
		n.Others = append(n.Others, s)
	}
	return s, err
}

// Kill ends the sender without a word.
func (n *Network) Kill() {
	if n.Sender != nil {
		n.Sender.dead = true
		n.Sender = nil
	}
}

// Join adds a receiver that joins the channel now. The link's delay and rate
// stay as they are from then on; all else can be changed in the receiver.
func (n *Network) Join(ch api.Channel, sink *Sink, link Link) (*Receiver, error) {
	r := &Receiver{Sink: sink, Link: link, net: n}
	var err error
	r.Receiver, err = cast.NewReceiver(ch, sink, rand.New(rand.NewPCG(n.rnd.Uint64(), n.rnd.Uint64())))
	if err != nil {
		return nil, err
	}
	n.Receivers = append(n.Receivers, r)
	p := n.path(ch.Group, link)
	p.receivers = append(p.receivers, r)
	r.group = ch.Group
	if s := n.session(ch.Session); s != nil {
		s.Expect(n.Now) // as the API tells it, which the receiver asked for the channel
	}
	r.poll()
	return r, nil
}

// path returns the path to a new receiver: one of its own if its port is
// limited.
func (n *Network) path(group netip.AddrPort, l Link) *path {
	if l.Rate == 0 {
		for _, p := range n.paths {
			if p.group == group && p.delay == l.Delay && p.port.Rate == 0 {
				return p
			}
		}
	}
	p := &path{group: group, delay: l.Delay, port: l.Port}
	n.paths = append(n.paths, p)
	return p
}

// Run lets time pass until done returns true, nothing can happen any more, or
// limit has passed; it returns whether done did.
func (n *Network) Run(limit time.Duration, done func() bool) bool {
	end := n.Now.Add(limit).UnixNano()
	for !done() {
		e, ok := n.events.pop(end)
		if !ok {
			return false
		}
		n.Now = n.Now.Add(time.Duration(e.at - n.Now.UnixNano()))
		e.f()
	}
	return true
}

// Complete reports that every receiver that is not gone is complete.
func (n *Network) Complete() bool {
	for n.complete < len(n.Receivers) && !n.Receivers[n.complete].listening() {
		n.complete++
	}
	return n.complete == len(n.Receivers)
}

// Inject delivers a packet to the sender of its session (to nil) or a receiver
// now.
func (n *Network) Inject(to *Receiver, packet []byte) {
	if to != nil {
		to.Packet(n.Now, packet)
		to.poll()
	} else if s := n.senderOf(packet); s != nil {
		if n.Heard != nil {
			n.Heard(packet)
		}
		s.Packet(n.Now, packet)
		s.poll()
	}
}

// multicast sends packets to all receivers of a group. They leave their host
// at the times that are in train, which is overwritten.
func (n *Network) multicast(group netip.AddrPort, train []sent) {
	left := train[:0]
	for _, p := range train {
		if n.losses.hit(p.at, n.rnd, n.Trunk.Loss, n.Trunk.Burst) {
			continue
		}
		at, ok := n.trunk.pass(n.Trunk.Port, p.at, wireSize(p.packet))
		if ok {
			left = append(left, sent{p.packet, at.Add(n.Trunk.Delay)})
		}
	}
	for _, p := range n.paths {
		if p.group == group && p.listens() {
			n.deliver(p, left)
		}
	}
}

// deliver schedules the arrival of packets at the receivers of a path.
func (n *Network) deliver(p *path, train []sent) {
	var together [][]byte
	var first, last time.Time
	flush := func() {
		if packets := together; len(packets) > 0 {
			n.At(last, func() { p.arrive(packets) })
		}
		together = nil
	}
	for _, s := range train {
		at, ok := p.queue.pass(p.port, s.at, wireSize(s.packet))
		if !ok {
			continue
		}
		at = at.Add(p.delay)
		if together == nil || at.Sub(first) > moderation {
			flush()
			first = at
		}
		last = at
		together = append(together, s.packet)
	}
	flush()
}

// arrive hands packets that arrive together to each receiver.
func (p *path) arrive(packets [][]byte) {
	for _, r := range p.receivers {
		if r.listening() {
			r.take(packets)
		}
	}
}

// listens drops the receivers that hear no more, and reports whether any does.
func (p *path) listens() bool {
	p.receivers = slices.DeleteFunc(p.receivers, func(r *Receiver) bool { return !r.listening() })
	return len(p.receivers) > 0
}

// event is something to happen at a time in nanoseconds, after those that
// were planned before for the same.
type event struct {
	at  int64
	seq uint64
	f   func()
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// events is a binary heap. Package container/heap would allocate each event.
type events struct {
	heap []event
	seq  uint64
}

func (q *events) push(at int64, f func()) {
	q.seq++
	q.heap = append(q.heap, event{at, q.seq, f})
	h := q.heap
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if h[up].before(&h[i]) {
			break
		}
		h[up], h[i] = h[i], h[up]
		i = up
	}
}

// pop removes the first event; false is none until end.
func (q *events) pop(end int64) (event, bool) {
	h := q.heap
	if len(h) == 0 || h[0].at > end {
		return event{}, false
	}
	first, last := h[0], len(h)-1
	h[0], h[last] = h[last], event{}
	h = h[:last]
	q.heap = h
	for i := 0; ; {
		next := 2*i + 1
		if next >= last {
			break
		}
		if right := next + 1; right < last && h[right].before(&h[next]) {
			next = right
		}
		if h[i].before(&h[next]) {
			break
		}
		h[i], h[next] = h[next], h[i]
		i = next
	}
	return first, true
}
