package casttest

import (
	"cmp"
	"container/heap"
	"context"
	"math/rand/v2"
	"net/netip"
	"time"

	"huck/imager/api"
	"huck/imager/cast"
	"huck/imager/image"
)

// Link is what happens to packets on the way to or from one receiver.
// Probabilities are per packet.
type Link struct {
	// Loss drops packets to the receiver, FeedbackLoss those from it.
	Loss, FeedbackLoss float64
	// Duplicate delivers a packet twice, Corrupt flips one of its bits.
	Duplicate, Corrupt float64
	// Delay of every packet; a part of them, Reorder, gets up to Jitter more.
	Delay, Jitter time.Duration
	Reorder       float64
}

// Network is a sender, its receivers and the time.
type Network struct {
	// Now is the virtual time.
	Now time.Time
	// Sender is nil while it is dead.
	Sender *Sender
	// Receivers in the order they were added.
	Receivers []*Receiver
	// Snoop sees every packet the sender sends, if set.
	Snoop func(packet []byte)
	// Heard sees every packet that reaches the sender, if set.
	Heard func(packet []byte)

	rnd    *rand.Rand
	events events
	seq    int
}

// Sender runs a cast.Sender.
type Sender struct {
	*cast.Sender
	// Channel is what the API tells of it.
	Channel api.Channel
	// ReadTime is how long reading a chunk takes; 0 is 1 ms.
	ReadTime time.Duration
	image    *Image
	net      *Network
	timer    time.Time
	dead     bool
}

// Receiver runs a cast.Receiver.
type Receiver struct {
	*cast.Receiver
	Sink *Sink
	Link Link
	// SinkRate is how many bytes a second the sink takes; 0 is any.
	SinkRate float64
	// Lost lists the chunks that have to come by another way.
	Lost []uint32
	// Finished is when the sink was complete, or zero.
	Finished time.Time
	// Gone receivers hear and say nothing any more.
	Gone bool

	net     *Network
	timer   time.Time
	sinkAt  time.Time // when the sink is free again
	session uint32
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
func (n *Network) At(t time.Time, f func()) {
	n.seq++
	heap.Push(&n.events, event{t, n.seq, f})
}

// After calls f after d.
func (n *Network) After(d time.Duration, f func()) { n.At(n.Now.Add(d), f) }

// Start starts a sender of m, instead of the one that is there, with a session
// of its own.
func (n *Network) Start(m *Image, cfg cast.SenderConfig) (*Sender, error) {
	n.Kill()
	secret := make([]byte, 32)
	for i := range secret {
		secret[i] = byte(n.rnd.Uint32())
	}
	if cfg.Channel.SymbolSize == 0 {
		cfg.Channel.SymbolSize = 1408
	}
	cfg.Channel.Group = netip.MustParseAddrPort("239.1.1.1:9000")
	cfg.Channel.Sender = netip.MustParseAddrPort("10.0.0.1:9000")
	cfg.Channel.Session, cfg.Channel.Epoch, cfg.Channel.Secret = n.rnd.Uint32(), n.rnd.Uint32(), secret
	cfg.Chunks = m.Chunks()
	s, err := cast.NewSender(cfg)
	if err != nil {
		return nil, err
	}
	n.Sender = &Sender{Sender: s, Channel: cfg.Channel, image: m, net: n}
	return n.Sender, nil
}

// Kill ends the sender without a word.
func (n *Network) Kill() {
	if n.Sender != nil {
		n.Sender.dead = true
		n.Sender = nil
	}
}

// Join adds a receiver that joins the channel now.
func (n *Network) Join(ch api.Channel, sink *Sink, link Link) (*Receiver, error) {
	r := &Receiver{Sink: sink, Link: link, net: n, session: ch.Session}
	var err error
	r.Receiver, err = cast.NewReceiver(ch, sink, rand.New(rand.NewPCG(n.rnd.Uint64(), n.rnd.Uint64())))
	if err != nil {
		return nil, err
	}
	n.Receivers = append(n.Receivers, r)
	r.poll()
	return r, nil
}

// Run lets time pass until done returns true, nothing can happen any more, or
// limit has passed; it returns whether done did.
func (n *Network) Run(limit time.Duration, done func() bool) bool {
	end := n.Now.Add(limit)
	for !done() {
		if len(n.events) == 0 || n.events[0].at.After(end) {
			return false
		}
		e := heap.Pop(&n.events).(event)
		n.Now = e.at
		e.f()
	}
	return true
}

// Complete reports that every receiver that is not gone is complete.
func (n *Network) Complete() bool {
	for _, r := range n.Receivers {
		if r.Finished.IsZero() && !r.Gone {
			return false
		}
	}
	return true
}

// Inject delivers a packet to the sender (to nil) or a receiver now.
func (n *Network) Inject(to *Receiver, packet []byte) {
	if to != nil {
		to.Packet(n.Now, packet)
		to.poll()
	} else if s := n.Sender; s != nil {
		if n.Heard != nil {
			n.Heard(packet)
		}
		s.Packet(n.Now, packet)
		s.poll()
	}
}

// poll does what an owner of a cast.Sender does.
func (s *Sender) poll() {
	if s.dead {
		return
	}
	for {
		c, ok := s.Need()
		if !ok {
			break
		}
		s.net.After(cmp.Or(s.ReadTime, time.Millisecond), func() {
			if s.dead {
				return
			}
			b, err := s.image.Chunk(context.Background(), c)
			s.Supply(s.net.Now, c, b, image.Tag(b), err)
			s.poll()
		})
	}
	for {
		packet, ok := s.Next(s.net.Now, nil)
		if !ok {
			break
		}
		s.net.multicast(packet)
	}
	t := s.Timer(s.net.Now)
	if t.IsZero() || t.Equal(s.timer) {
		return
	}
	s.timer = t
	s.net.At(later(t, s.net.Now), func() {
		if t.Equal(s.timer) {
			s.timer = time.Time{}
			s.poll()
		}
	})
}

// later keeps a timer that is due from stopping the time.
func later(t, now time.Time) time.Time {
	if !t.After(now) {
		return now.Add(time.Microsecond)
	}
	return t
}

func (n *Network) multicast(packet []byte) {
	if n.Snoop != nil {
		n.Snoop(packet)
	}
	for _, r := range n.Receivers {
		if r.Gone || !r.Finished.IsZero() {
			continue
		}
		n.carry(r.Link, r.Link.Loss, packet, func(p []byte) {
			if !r.Gone && r.Finished.IsZero() {
				r.Packet(n.Now, p)
				r.poll()
			}
		})
	}
}

// carry takes a packet over a link, or does not.
func (n *Network) carry(l Link, loss float64, packet []byte, arrive func([]byte)) {
	copies := 1
	if l.Duplicate > 0 && n.rnd.Float64() < l.Duplicate {
		copies = 2
	}
	for range copies {
		if loss > 0 && n.rnd.Float64() < loss {
			continue
		}
		p := packet
		if l.Corrupt > 0 && n.rnd.Float64() < l.Corrupt {
			p = append([]byte(nil), packet...)
			p[n.rnd.IntN(len(p))] ^= 1 << n.rnd.IntN(8)
		}
		d := l.Delay
		if l.Reorder > 0 && n.rnd.Float64() < l.Reorder {
			d += time.Duration(n.rnd.Int64N(int64(l.Jitter) + 1))
		}
		n.After(d, func() { arrive(p) })
	}
}

// poll does what an owner of a cast.Receiver does.
func (r *Receiver) poll() {
	if r.Gone || !r.Finished.IsZero() {
		return
	}
	for {
		a, ok := r.Done()
		if !ok {
			break
		}
		r.deliver(a)
	}
	for {
		c, _, ok := r.Receiver.Failed()
		if !ok {
			break
		}
		r.Lost = append(r.Lost, c)
	}
	if r.Err() != nil {
		return
	}
	if r.WantRefresh(r.net.Now) {
		r.net.After(5*time.Millisecond, r.refresh)
	}
	for {
		packet, ok := r.Next(r.net.Now, nil)
		if !ok {
			break
		}
		r.net.carry(r.Link, r.Link.FeedbackLoss, packet, func(p []byte) { r.net.Inject(nil, p) })
	}
	t := r.Timer(r.net.Now)
	if t.IsZero() || t.Equal(r.timer) {
		return
	}
	r.timer = t
	r.net.At(later(t, r.net.Now), func() {
		if t.Equal(r.timer) {
			r.timer = time.Time{}
			r.poll()
		}
	})
}

func (r *Receiver) refresh() {
	if s := r.net.Sender; s == nil || r.Rejoin(r.net.Now, s.Channel) != nil {
		r.RefreshFailed(r.net.Now)
	}
	r.poll()
}

// deliver gives a chunk to the sink when that has room.
func (r *Receiver) deliver(a *cast.Assembled) {
	b, err := a.Bytes()
	at := r.net.Now
	if r.SinkRate > 0 {
		if r.sinkAt.Before(at) {
			r.sinkAt = at
		}
		r.sinkAt = r.sinkAt.Add(time.Duration(float64(len(b)) / r.SinkRate * float64(time.Second)))
		at = r.sinkAt
	}
	r.net.At(at, func() {
		if r.Gone {
			return
		}
		if err == nil {
			err = r.Sink.Deliver(context.Background(), a.Chunk, b, cast.Via)
		}
		r.Delivered(r.net.Now, a, err)
		select {
		case <-r.Sink.Complete():
			r.Finished = r.net.Now
		default:
		}
		r.poll()
	})
}

type event struct {
	at  time.Time
	seq int
	f   func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	if !e[i].at.Equal(e[j].at) {
		return e[i].at.Before(e[j].at)
	}
	return e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}
