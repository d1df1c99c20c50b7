package casttest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"huck/imager/cast"
	"huck/imager/cast/protocol"
)

const (
	// fullSymbol is the symbol size at MTU 1500, and fullPacket the IP packet
	// that such a symbol makes.
	fullSymbol = 1408
	fullPacket = fullSymbol + protocol.DataSize + 28
	// tenth is what feedback is counted in.
	tenth = time.Second / 10
)

// Scenario is a transfer to simulate. Rates and sizes are those of packets
// with 1408 bytes of payload. To bear thousands of receivers, symbols can be
// smaller than that: then all rates are, too, in the ratio of the packets, so
// that as many packets a second flow, and Result counts data packets as if
// they were full. All other packets keep their true sizes.
type Scenario struct {
	Name string
	Seed uint64
	// Receivers that all want the whole image from the beginning on.
	Receivers int
	// Chunks of the image (0 is 16), each of K source symbols (0 is 187, those
	// of an incompressible region) of Symbol bytes (0 is 32).
	Chunks, K, Symbol int
	// Config is the sender's; Rate caps it, 0 is 100 Mbit/s.
	Config cast.SenderConfig
	// Host, Trunk and each receiver's Link are as in Network.
	Host  Port
	Trunk Link
	Link  Link
	// Decoded is how many receivers recover and compare all chunks, 0 is 8.
	// Those of the others are counted by rank.
	Decoded int
	// Limit is the time after which the scenario has failed; 0 is ten minutes.
	Limit time.Duration
	// Vary changes receiver i before it joins, Script anything else, if set.
	Vary   func(i int, j *Joiner)
	Script func(t *Trial)
}

// Joiner is a receiver that will join.
type Joiner struct {
	After time.Duration // from the start
	Link  Link
	// SinkRate is what its disk takes, in bytes of encoded chunks a second; 0
	// is any.
	SinkRate float64
	// Leaves is after what time from the start it is switched off; 0 is never.
	Leaves time.Duration
	// Other joins the sender that Trial.Beside started first.
	Other bool
}

// Trial is a Scenario that runs.
type Trial struct {
	*Network
	Image *Image
	// Begun is when it started.
	Begun time.Time

	of      Scenario // without zeros
	result  Result
	joining int // receivers that will still join
	joined  map[*Receiver]time.Time
	heard   []int // feedback packets in each tenth of a second
	err     error
}

// Result is what a scenario came to.
type Result struct {
	// Encoded is the image's bytes, Bytes those of all IP packets that senders
	// sent, until they were silent again.
	Encoded, Bytes float64
	// Time until the last receiver was complete, Ideal at the sender's rate for
	// the image and its headers alone, once.
	Time, Ideal time.Duration
	// Took is each receiver's time from its joining on; 0 if it did not finish
	// here.
	Took []time.Duration
	// Feedback is the packets a second that reached a sender in that time, Most
	// those in the second that had most, and Peak those in the tenth of a second
	// that had most, times ten.
	Feedback, Most, Peak float64
	// Rounds is how many times symbols of a chunk were begun to be sent, on
	// average, by all senders.
	Rounds float64
	// Left is how many receivers left the channel with an error, to finish by
	// other means, and Off how many were switched off.
	Left, Off int
	// Again is how many receivers heard nothing at first and joined once more.
	Again int
	// Decoded is how many receivers recovered every chunk.
	Decoded int
	// Sender is what the last sender counted.
	Sender cast.SenderStats
}

// Ratio is what was sent over the encoded image.
func (r *Result) Ratio() float64 { return r.Bytes / r.Encoded }

// Slowdown is the time over the ideal.
func (r *Result) Slowdown() float64 { return r.Time.Seconds() / r.Ideal.Seconds() }

// Run runs the scenario. It fails unless every receiver that is not switched
// off ends complete and exact, or leaves with an error that is not of the
// transfer.
func (s Scenario) Run() (Result, error) {
	t := s.begin()
	t.Run(t.of.Limit, t.over)
	if err := t.check(); err != nil {
		return t.result, fmt.Errorf("casttest: %s, seed %d: %v", s.Name, s.Seed, err)
	}
	return t.end(), nil
}

// begin sets the scenario up.
func (s Scenario) begin() *Trial {
	s.Chunks, s.K, s.Symbol = or(s.Chunks, 16), or(s.K, 187), or(s.Symbol, 32)
	s.Decoded, s.Limit = or(s.Decoded, 8), or(s.Limit, 10*time.Minute)
	s.Config.Rate = or(s.Config.Rate, 100e6)
	t := &Trial{Network: NewNetwork(s.Seed), of: s, joining: s.Receivers, joined: make(map[*Receiver]time.Time)}
	size := min(s.K*s.Symbol, protocol.MaxChunk)
	t.Image = newWindows(t.Rand(), s.Chunks, size)
	t.Host, t.Trunk = t.port(s.Host), t.link(s.Trunk)
	t.Begun = t.Now
	t.Snoop, t.Heard, t.Failed = t.count, t.hear, t.leave
	t.result.Encoded = float64(size) * fullSymbol / float64(s.Symbol) * float64(s.Chunks)
	t.Restart()
	for i := range s.Receivers {
		t.add(i)
	}
	if s.Script != nil {
		s.Script(t)
	}
	return t
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// Restart starts a sender, instead of the one that is there.
func (t *Trial) Restart() {
	if t.Sender != nil {
		t.tally(t.Sender)
	}
	_, err := t.Start(t.Image, t.config(t.of.Config))
	t.err = errors.Join(t.err, err)
}

// Beside starts a sender of the same image beside the one that is there.
func (t *Trial) Beside(cfg cast.SenderConfig) {
	_, err := t.StartBeside(t.Image, t.config(cfg))
	t.err = errors.Join(t.err, err)
}

func (t *Trial) config(cfg cast.SenderConfig) cast.SenderConfig {
	cfg.Channel.SymbolSize = t.of.Symbol
	cfg.Rate = t.rate(cfg.Rate)
	return cfg
}

// Kill ends the sender without a word.
func (t *Trial) Kill() {
	if t.Sender != nil {
		t.tally(t.Sender)
	}
	t.Network.Kill()
}

// tally adds what a sender did.
func (t *Trial) tally(s *Sender) {
	st := s.Stats()
	t.result.Rounds += float64(st.Chunks) / float64(t.of.Chunks)
	t.result.Sender = st
}

// rate is what a rate is with the scenario's symbols.
func (t *Trial) rate(bits int64) int64 {
	return int64(float64(bits) * float64(t.of.Symbol+fullPacket-fullSymbol) / fullPacket)
}

func (t *Trial) port(p Port) Port {
	return Port{Rate: t.rate(p.Rate), Queue: int(t.rate(int64(p.Queue)))}
}

func (t *Trial) link(l Link) Link {
	l.Port = t.port(l.Port)
	return l
}

// add lets receiver i join.
func (t *Trial) add(i int) {
	j := &Joiner{Link: t.of.Link}
	if t.of.Vary != nil {
		t.of.Vary(i, j)
	}
	t.After(j.After, func() { t.join(i, j) })
}

// join lets receiver i join now.
func (t *Trial) join(i int, j *Joiner) {
	from := t.Sender
	if j.Other {
		from = t.Others[0]
	}
	if from == nil { // switched on while the server is down: it tries again
		t.After(time.Second, func() { t.join(i, j) })
		return
	}
	sink := NewSink(t.Image, nil)
	sink.Count = i >= t.of.Decoded
	like := &Receiver{Sink: sink, Link: t.link(j.Link), SinkRate: j.SinkRate * float64(t.of.Symbol) / fullSymbol}
	r := t.enter(from, like, t.Now)
	if r != nil && j.Leaves > 0 {
		t.After(j.Leaves-j.After, func() { t.off(r) })
	}
}

// enter adds a receiver like another one, which began to try at a time.
func (t *Trial) enter(from *Sender, like *Receiver, since time.Time) *Receiver {
	t.joining--
	r, err := t.Join(from.Channel, like.Sink, like.Link)
	if err != nil {
		t.err = errors.Join(t.err, err)
		return nil
	}
	r.SinkRate = like.SinkRate
	t.joined[r] = since
	return r
}

// off switches a receiver off that is not complete.
func (t *Trial) off(r *Receiver) {
	if r.listening() {
		r.Gone = true
		t.result.Off++
	}
}

// count counts a sender's packet as if its symbol were full.
func (t *Trial) count(packet []byte) {
	size := float64(wireSize(packet))
	if len(packet) > protocol.DataSize && packet[1]&15 == byte(protocol.TypeData) {
		head := float64(protocol.DataSize + 28)
		size = head + (size-head)*fullSymbol/float64(t.of.Symbol)
	}
	t.result.Bytes += size
}

// hear counts a packet to a sender.
func (t *Trial) hear([]byte) {
	i := int(t.Now.Sub(t.Begun) / tenth)
	for len(t.heard) <= i {
		t.heard = append(t.heard, 0)
	}
	t.heard[i]++
}

// feedback sums up what was heard.
func (t *Trial) feedback() {
	r := &t.result
	all, second := 0, 0
	for i, n := range t.heard {
		all += n
		second += n
		if i >= 10 {
			second -= t.heard[i-10]
		}
		r.Most = max(r.Most, float64(second))
		r.Peak = max(r.Peak, float64(n)/tenth.Seconds())
	}
	r.Feedback = float64(all) / r.Time.Seconds()
}

// over reports that every receiver has joined and is complete, switched off
// or told to leave.
func (t *Trial) over() bool { return t.err != nil || t.joining == 0 && t.Complete() }

// again is how long the programs wait before they try a channel again that
// brought nothing.
const again = 30 * time.Second

// leave sees to a receiver that ended with an error: one that was told to
// leave is done here, one that heard nothing tries again. Any other is a
// failure of the scenario.
func (t *Trial) leave(r *Receiver) {
	switch err := r.Err(); {
	case errors.Is(err, cast.ErrStraggler):
		r.Gone = true
		t.result.Left++
	case errors.Is(err, cast.ErrNoMulticast):
		r.Gone = true
		t.result.Again++
		t.joining++
		t.After(again, func() { t.retry(r) })
	default:
		i := slices.Index(t.Receivers, r)
		t.err = errors.Join(t.err, fmt.Errorf("receiver %d after %v: %v", i, t.Now.Sub(t.Begun), err))
	}
}

// retry lets a receiver that heard nothing join once more.
func (t *Trial) retry(r *Receiver) {
	from := t.api(r.group)
	if from == nil {
		t.After(again, func() { t.retry(r) })
		return
	}
	t.enter(from, r, t.joined[r])
}

// check tells what is wrong with the receivers.
func (t *Trial) check() error {
	if t.err != nil {
		return t.err
	}
	if t.joining > 0 {
		return fmt.Errorf("%d receivers have not joined after %v", t.joining, t.Now.Sub(t.Begun))
	}
	for i, r := range t.Receivers {
		switch {
		case r.Sink.Wrong > 0 || r.Sink.Twice > 0:
			return fmt.Errorf("receiver %d: %d chunks wrong, %d twice", i, r.Sink.Wrong, r.Sink.Twice)
		case r.Gone:
			t.result.Took = append(t.result.Took, 0)
		case r.Finished.IsZero():
			return fmt.Errorf("receiver %d after %v: %d of %d chunks left, error %v: %+v",
				i, t.Now.Sub(t.Begun), r.Sink.Left(), t.of.Chunks, r.Err(), r.Stats())
		default:
			t.result.Took = append(t.result.Took, r.Finished.Sub(t.joined[r]))
		}
	}
	return nil
}

// end lets the senders send what is left, and sums up.
func (t *Trial) end() Result {
	r := &t.result
	r.Time = t.Now.Sub(t.Begun)
	t.feedback()
	r.Ideal = time.Duration(r.Encoded * fullPacket / fullSymbol * 8 / float64(t.of.Config.Rate) * float64(time.Second))
	senders := t.Others
	if t.Sender != nil {
		senders = append(senders, t.Sender)
	}
	t.Run(t.of.Limit, func() bool { return !slices.ContainsFunc(senders, func(s *Sender) bool { return s.Active() }) })
	for _, s := range senders {
		t.tally(s)
	}
	r.Decoded = min(t.of.Decoded, t.of.Receivers)
	return *r
}
