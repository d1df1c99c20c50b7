package cast

import (
	"fmt"
	"net/netip"
	"time"

	"huck/imager/api"
	"huck/imager/cast/pace"
	"huck/imager/cast/protocol"
)

const (
	// heartbeat is how often an active sender announces, and the longest it
	// lets a request wait for an answer (PROTOCOL.md, Announcements).
	heartbeat = 100 * time.Millisecond
	// announceGap is the least time between announcements that tell of a
	// changed queue: requests that come together are answered together.
	announceGap = 5 * time.Millisecond
	// announceShare is the part of the rate that announcements may take: 1 %.
	announceShare = 100
	// burstTime is how much unsent time the pacing keeps: what a timer may be
	// late.
	burstTime = 8 * time.Millisecond
	// batchBytes and batchTime bound what a timer waits for: some packets, which
	// every queue has room for.
	batchBytes = 8 << 10
	batchTime  = 10 * time.Millisecond
	// repairBurst is how many symbols of repairs go before a fresh chunk must:
	// as many as a chunk has at most, so that repairs take at most half.
	repairBurst = protocol.MaxSymbols
	// gatherMost is how many times Gather newcomers can hold data back in all.
	gatherMost = 4
	// restTime is how long a channel has to be idle before Gather applies again.
	restTime = 10 * time.Second
	// unreadable is how long a chunk that could not be read is not tried again.
	unreadable = 10 * time.Second
	// maxAsked bounds the chunks that one request can ask for.
	maxAsked = 4096
)

// SenderConfig is what a Sender needs.
type SenderConfig struct {
	// Channel is the session; its addresses only tell the size of headers.
	Channel api.Channel
	// Chunks is how many chunks the image has, Parts how many parts its chunk
	// map, which are numbered behind the chunks.
	Chunks, Parts int
	// Rate caps the channel, in bits a second of IP packets; 0 is no cap.
	Rate int64
	// Polite, Floor and Gather are as in ServerConfig.
	Polite bool
	Floor  float64
	Gather time.Duration
}

// Sender is the sending state machine of one channel. It keeps soft state
// only: what receivers asked for lately. It is not safe for concurrent use.
//
// Its owner calls Packet with what arrives, answers Need with Supply, sends
// what Next returns, and calls again by the time Timer says.
type Sender struct {
	cfg      SenderConfig
	overhead int // IP and UDP header bytes
	key      *protocol.Key
	peers    peers
	counter  uint64
	stats    SenderStats

	// What tells how fast to send.
	pace    *pace.Controller
	rate    int64 // pace's, at paced
	history history
	parity  parity
	members int // receivers heard lately, or about to be
	counted time.Time
	present int // peers that count as members
	// announcedMembers is what the last announcement said.
	announcedMembers uint8
	// expected receivers were told of the channel since expectedAt.
	expected   int
	expectedAt time.Time
	leave      []uint64 // receivers to tell to leave

	// The queue: chunks wanted whole, sent in ascending cyclic order from pos
	// on, and repairs of chunks that flew by, sent as they were asked for.
	fresh   chunkSet
	pos     uint32
	repairs repairQueue
	// sinceFresh counts repair symbols since the last fresh chunk.
	sinceFresh int
	run        run    // being sent; none if left is 0
	loaded     loaded // its chunk
	sent       runs   // sent lately
	cache      cache
	loading    map[uint32]bool
	dirty      bool // Need has something to look for

	unavailable map[uint32]time.Time // when the read failed
	tell        []uint32             // unavailable chunks to tell of

	tokens     float64 // bytes that may be sent at paced
	paced      time.Time
	hold       time.Time // no chunk before, parts of the map aside; zero when there was one
	holdEnd    time.Time // to which newcomers can put hold off
	lastActive time.Time
	announced  time.Time // the last announcement
	// announcedSize is its size in bytes.
	announcedSize int
	announceAt    time.Time // the next one; zero is none
	telling       bool      // one more announcement that nothing is queued is due

	entries []protocol.Entry // scratch
	payload []byte           // scratch
}

// NewSender returns a sender that nobody has asked for anything yet.
func NewSender(cfg SenderConfig) (*Sender, error) {
	if n := cfg.Chunks + cfg.Parts; min(cfg.Chunks, cfg.Parts) < 0 || n > protocol.MaxChunks {
		return nil, fmt.Errorf("cast: %d chunks and parts of the chunk map, at most %d", n, protocol.MaxChunks)
	}
	if cfg.Channel.SymbolSize < 1 || cfg.Channel.SymbolSize > protocol.MaxPacket-protocol.DataSize {
		return nil, fmt.Errorf("cast: symbol size %d", cfg.Channel.SymbolSize)
	}
	key, err := protocol.SenderKey(cfg.Channel.Secret, cfg.Channel.Session)
	if err != nil {
		return nil, fmt.Errorf("cast: %v", err)
	}
	return &Sender{
		cfg:         cfg,
		overhead:    headerBytes(cfg.Channel.Group),
		key:         key,
		peers:       newPeers(cfg.Channel),
		fresh:       newChunkSet(cfg.Chunks + cfg.Parts),
		repairs:     newRepairQueue(cfg.Chunks),
		sent:        newRuns(),
		pace:        pace.New(pace.Config{Max: cfg.Rate, Floor: cfg.Floor, Polite: cfg.Polite}),
		parity:      newParity(),
		cache:       newCache(),
		loading:     make(map[uint32]bool),
		unavailable: make(map[uint32]time.Time),
		payload:     make([]byte, cfg.Channel.SymbolSize),
	}, nil
}

// headerBytes is the size of the IP and UDP headers of a packet to group.
func headerBytes(group netip.AddrPort) int {
	if group.Addr().Is4() {
		return 20 + 8
	}
	return 40 + 8
}

// Stats returns the counters.
func (s *Sender) Stats() SenderStats {
	st := s.stats
	st.Rate, st.Members = s.rate, s.members
	st.Queued = s.fresh.count + s.repairs.len()
	if s.run.left > 0 {
		st.Queued++
	}
	return st
}

// Active reports that something is queued.
func (s *Sender) Active() bool {
	return s.run.left > 0 || s.fresh.count > 0 || s.repairs.len() > 0
}

// Packet takes a packet that came to the request socket.
func (s *Sender) Packet(now time.Time, packet []byte) {
	from, kind, body, ok := s.peers.open(now, packet)
	if ok && kind == protocol.TypeReport {
		ok = s.report(now, body)
	} else if ok {
		ok = s.request(now, from, body)
	}
	if !ok {
		s.stats.Rejected++
		return
	}
	s.meet(now, from)
	if s.pace.Straggler(from.id) {
		s.tellLeave(now, from)
	}
}

// request takes a request; false is one that cannot be.
func (s *Sender) request(now time.Time, from *peer, body []byte) bool {
	req, err := protocol.ParseRequest(body, s.entries)
	if err != nil || req.Seen > s.counter {
		return false
	}
	s.entries = req.Want
	s.stats.Requests++
	if s.pace.Straggler(from.id) {
		return true
	}
	before := s.Active()
	asked, changed := 0, false
	for _, e := range req.Want {
		for i := range uint32(e.Count) {
			if asked++; asked > maxAsked || e.Chunk+i >= uint32(s.cfg.Chunks+s.cfg.Parts) {
				break
			}
			changed = s.ask(now, e.Chunk+i, e, req.Seen) || changed
		}
	}
	if changed {
		s.dirty = true
		if !before && (s.lastActive.IsZero() || now.Sub(s.lastActive) > restTime) {
			s.hold, s.holdEnd = now.Add(s.cfg.Gather), now.Add(gatherMost*s.cfg.Gather)
		}
		s.lastActive = now
	}
	switch {
	case changed && !before: // what everybody waits for, and asks for until he hears of it
		s.announceBy(now, now)
	case changed || !before || len(req.Want) == 0:
		s.announceBy(now, s.announced.Add(s.gap()))
	default:
		s.announceBy(now, s.announced.Add(heartbeat))
	}
	return true
}

// ask queues what e asks of chunk c after the packet with counter seen, and
// reports whether that changed the queue.
func (s *Sender) ask(now time.Time, c uint32, e protocol.Entry, seen uint64) bool {
	if t, ok := s.unavailable[c]; ok {
		if now.Sub(t) < unreadable {
			s.tellUnavailable(c)
			return false
		}
		delete(s.unavailable, c)
	}
	if s.run.left > 0 && s.run.chunk == c {
		return s.run.extend(e, seen, s.sent.get(c).after(seen))
	}
	if s.fresh.has(c) {
		return false
	}
	sent := s.sent.get(c)
	old := sent.latest()
	if flying := sent.after(seen); flying > 0 {
		need := int(e.N)
		if need == 0 {
			need = old.k
		}
		if need -= flying; need <= 0 {
			return false
		}
		e.From, e.N = old.next, uint8(min(need, 255))
	}
	// What a receiver saw can only lag behind what was sent, unless this
	// sender forgot it or began again from symbol 0 for somebody else.
	if sent != nil && e.N > 0 && e.From-old.next >= protocol.MaxSymbols/2 {
		e.From = old.next
	}
	s.parity.asked(c, int(e.N))
	switch {
	case s.repairs.has(c):
		return s.repairs.merge(c, e)
	case e.N == 0 && !s.part(c):
		s.fresh.add(c)
	default:
		s.repairs.add(c, e.From, e.N)
	}
	return true
}

// Supply answers Need with the encoded chunk and its encoding tag
// (image.Tag), or the error that reading it met.
func (s *Sender) Supply(now time.Time, c uint32, encoded []byte, tag uint32, err error) {
	delete(s.loading, c)
	s.dirty = true
	var shape protocol.Shape
	if err == nil {
		shape, err = protocol.NewShape(len(encoded), s.cfg.Channel.SymbolSize)
	}
	if err == nil {
		s.cache.add(c, loaded{encoded, tag, shape})
		return
	}
	s.stats.Unavailable++
	if len(s.unavailable) >= maxAsked {
		clear(s.unavailable)
	}
	s.unavailable[c] = now
	s.fresh.remove(c)
	s.repairs.remove(c)
	s.tellUnavailable(c)
	s.idle(now)
}

// Congested tells the sender that the host could not send its last packets:
// it pauses for the time of a full burst.
func (s *Sender) Congested(now time.Time) {
	s.stats.SendErrors++
	s.pace.HostLimited(now)
	s.tokens = min(s.tokens, 0) - s.bytesPerSecond()*burstTime.Seconds()
}

// Next appends the packet that is to be sent now to buf. It returns false if
// there is none now.
func (s *Sender) Next(now time.Time, buf []byte) ([]byte, bool) {
	s.refill(now)
	if !s.announceAt.IsZero() && !now.Before(s.announceAt) {
		return s.announce(now, buf), true
	}
	if len(s.tell) > 0 {
		return s.unavailables(buf), true
	}
	if len(s.leave) > 0 {
		return s.stragglers(buf), true
	}
	if s.tokens <= 0 || s.run.left == 0 && !s.begin(now) {
		return nil, false
	}
	s.lastActive = now
	return s.symbol(now, buf), true
}

// Timer returns when Next has to be called again, if nothing else happens
// before; zero is never.
func (s *Sender) Timer(now time.Time) time.Time {
	t := s.announceAt
	if len(s.tell)+len(s.leave) > 0 {
		return now
	}
	if s.run.left == 0 && !s.ready(now) {
		if now.Before(s.hold) && s.Active() && (t.IsZero() || s.hold.Before(t)) {
			t = s.hold
		}
		return t
	}
	wait := time.Duration((s.batch() - s.tokens) / s.bytesPerSecond() * float64(time.Second))
	at := s.paced.Add(max(wait, 0))
	if t.IsZero() || at.Before(t) {
		t = at
	}
	return t
}

func (s *Sender) bytesPerSecond() float64 { return float64(s.rate) / 8 }

// batch is how many bytes' tokens a timer waits for, so that it wakes for many
// packets: batchBytes or, at high rates, what a timer's grain brings, since a
// batch leaves at the speed of the host's link and queues in small switches;
// but no more than batchTime's worth.
func (s *Sender) batch() float64 {
	rate := s.bytesPerSecond()
	return min(rate*batchTime.Seconds(), max(batchBytes, rate*historyGrain.Seconds()))
}

// burst is the most tokens in bytes: burstTime's worth, two batches and 16
// packets.
func (s *Sender) burst() float64 {
	return max(s.bytesPerSecond()*burstTime.Seconds(), 2*s.batch(), 16*float64(s.cfg.Channel.SymbolSize))
}

func (s *Sender) refill(now time.Time) {
	s.adapt(now)
	if s.paced.IsZero() {
		s.tokens, s.paced = s.burst(), now
	}
	if d := now.Sub(s.paced); d > 0 {
		s.tokens = min(s.tokens+d.Seconds()*s.bytesPerSecond(), s.burst())
		s.paced = now
	}
}

// symbol appends the next packet of the run.
func (s *Sender) symbol(now time.Time, buf []byte) []byte {
	l := &s.loaded
	s.history.note(now, s.counter, s.stats.Bytes)
	d := protocol.Data{Chunk: s.run.chunk, Tag: l.tag, Length: l.shape.Length, Symbol: s.run.next}
	if n := int(d.Symbol); n < l.shape.K {
		d.Payload = l.shape.Source(l.encoded, n)
	} else {
		d.Payload = s.payload[:l.shape.L]
		l.shape.Parity(d.Payload, l.encoded, n)
		s.stats.ParityPackets++
	}
	s.stats.DataPackets++
	at := len(buf)
	buf = must(d.AppendBinary(s.header(protocol.TypeData, buf)))
	s.run.sentSymbol(s.counter)
	if s.run.left == 0 {
		if s.run.extra >= 0 {
			s.parity.sent(now, s.run.chunk, s.run.k, s.run.extra)
		}
		s.sent.add(s.run)
		s.idle(now)
	}
	return s.seal(buf, at)
}

// header appends the next packet's header.
func (s *Sender) header(t protocol.Type, buf []byte) []byte {
	s.counter++
	h := protocol.Header{Type: t, Session: s.cfg.Channel.Session, Epoch: s.cfg.Channel.Epoch, Counter: s.counter}
	return must(h.AppendBinary(buf))
}

// must unwraps what was appended: the only errors are about fields out of
// range, and these were made here.
func must(buf []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return buf
}

// seal ends the packet that begins at at in buf and counts it.
func (s *Sender) seal(buf []byte, at int) []byte {
	buf = s.key.Seal(buf, at)
	size := len(buf) - at + s.overhead
	s.tokens -= float64(size)
	s.stats.Packets++
	s.stats.Bytes += uint64(size)
	return buf
}
