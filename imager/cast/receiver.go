package cast

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"huck/imager/api"
	"huck/imager/cast/protocol"
	"huck/imager/image"
)

const (
	// tick is how often a receiver looks what to do, on average, and the least
	// time between two of its requests, which bounds them to 40 a second.
	tick = 25 * time.Millisecond
	// settle is how long after the sender passed a chunk stragglers of its
	// symbols may still come, reordered by the network.
	settle = 5 * time.Millisecond
	// patience is how long an unanswered request waits before it is repeated;
	// it doubles up to maxPatience while the sender is silent.
	patience    = 60 * time.Millisecond
	maxPatience = time.Second
	// fading is how long an announcement is believed.
	fading = 5 * heartbeat
	// probes is how many times a receiver that has heard nothing asks who is
	// there, and probeGap the time to the first repetition, which doubles with
	// each: in 1.4 s there would have been an answer.
	probes   = 3
	probeGap = 200 * time.Millisecond
	// silence is how long nothing may come, though asked for, before the
	// channel is asked for anew, and goneAfter how long until it is given up.
	silence   = 2 * time.Second
	goneAfter = 15 * time.Second
	// replacedAfter is how long only packets of another session or epoch may
	// come before the channel is asked for anew.
	replacedAfter = 250 * time.Millisecond
	// refreshGap is the least time between two refreshes.
	refreshGap = time.Second
	// shun is how long a chunk that failed is not asked for here.
	shun = 30 * time.Second
	// maxBad is how many wrong chunks a channel may deliver.
	maxBad = 3
	// maxMemory bounds the bytes of chunks in assembly and on their way to
	// the sink, maxHeld their number.
	maxMemory = 32 << 20
	maxHeld   = 4096
	// maxBacklog is what may wait for the sink before nothing more is asked
	// for, and lagging the part of it from which on the sink counts as slow.
	maxBacklog = maxMemory / 4
	lagging    = maxBacklog / 4
	// windowTime is how far ahead a receiver asks at the rate that the sender
	// announces: a few times what a request and its answer take in a large
	// group. The more, the more is sent in vain when the receiver goes away or
	// its sink stops, hence the bounds.
	windowTime           = 250 * time.Millisecond
	minWindow, maxWindow = 4 << 20, 64 << 20
	maxWindowChunks      = 1024
)

// Wants is the part of Sink that decides what a Receiver asks for.
type Wants interface {
	Useful(n uint32) bool
	Missing(from uint32, buf []uint32) []uint32
}

// Receiver is the receiving state machine. It is not safe for concurrent use.
//
// Its owner calls Packet with what arrives in the group, sends what Next
// returns to the sender, takes chunks from Done and tells by Delivered what
// became of them, and calls Next again by the time Timer says.
type Receiver struct {
	channel  api.Channel
	overhead int
	wants    Wants
	rnd      *rand.Rand
	id       uint64
	counter  uint64
	key      *protocol.Key // of requests
	sender   *protocol.Key
	seen     protocol.Window
	stats    ReceiveStats

	held     map[assemblyKey]*assembly
	holding  map[uint32]int // chunk → its assemblies in held
	current  *assembly      // the last one touched
	memory   int            // bytes in held, done and delivering
	spares   spares
	backlog  int  // bytes in done and delivering
	stopped  bool // no room: nothing is asked for
	done     []*Assembled
	busy     map[uint32]int // chunks in done and delivering → bytes
	shunned  map[uint32]time.Time
	failures []failure

	runChunk  uint32 // the chunk that the last symbol was of
	running   bool   // runChunk is valid
	runUseful bool
	pos       uint32 // the last chunk begun
	meanChunk int    // moving average of encoded lengths
	queue     []protocol.Entry
	queuedAt  time.Time // when queue was announced
	rate      int64     // announced, in bits a second
	members   uint8     // announced: the binary logarithm of the group's size
	reporting reporting
	swept     time.Time

	heard    time.Time // the last packet believed
	nextTick time.Time
	due      time.Time // when something may have to be asked for; zero is never
	mayAsk   time.Time // no request before
	probed   int
	asked    int // requests since heard
	// shortSince is since when too few of the chunks ahead are queued.
	shortSince time.Time
	windowAt   time.Time // no request for more chunks before
	tries      int       // requests for more chunks without effect
	threshold  float64   // the part of the window that has to be queued
	probeAt    time.Time // no probe before

	foreign     bool // packets of another session or epoch come
	refreshing  bool
	refreshAt   time.Time
	refreshedOK int // since heard
	err         error

	missing []uint32 // scratch
	asking  []*assembly
	entries []protocol.Entry
}

// NewReceiver returns a receiver that has joined ch and heard nothing yet. rnd
// gives it its number and spreads its requests; it must differ among receivers.
func NewReceiver(ch api.Channel, wants Wants, rnd *rand.Rand) (*Receiver, error) {
	r := &Receiver{
		wants:     wants,
		rnd:       rnd,
		id:        rnd.Uint64(),
		held:      make(map[assemblyKey]*assembly),
		holding:   make(map[uint32]int),
		busy:      make(map[uint32]int),
		shunned:   make(map[uint32]time.Time),
		meanChunk: protocol.MaxChunk,
		missing:   make([]uint32, maxWindowChunks),
	}
	return r, r.join(ch)
}

// Want has the receiver ask for what wants says from now on, instead of what it
// did before.
func (r *Receiver) Want(now time.Time, wants Wants) {
	r.wants = wants
	r.tries, r.windowAt, r.shortSince = 0, now, time.Time{}
	if r.running {
		r.runUseful = wants.Useful(r.runChunk)
	}
}

// join takes the keys of ch.
func (r *Receiver) join(ch api.Channel) error {
	if ch.SymbolSize < 1 || ch.SymbolSize > protocol.MaxPacket-protocol.DataSize {
		return fmt.Errorf("cast: channel with symbol size %d", ch.SymbolSize)
	}
	sender, err := protocol.SenderKey(ch.Secret, ch.Session)
	if err != nil {
		return fmt.Errorf("cast: join channel: %v", err)
	}
	key, err := protocol.ReceiverKey(ch.Secret, ch.Session, r.id)
	if err != nil {
		return fmt.Errorf("cast: join channel: %v", err)
	}
	r.channel, r.overhead, r.sender, r.key = ch, headerBytes(ch.Group), sender, key
	r.threshold = 0.25 + r.rnd.Float64()/4
	return nil
}

// Err returns what makes going on useless: nil, or an error that wraps
// ErrNoMulticast, ErrBadChannel or ErrStraggler.
func (r *Receiver) Err() error { return r.err }

// Stats returns the counters.
func (r *Receiver) Stats() ReceiveStats { return r.stats }

// Packet takes a packet that came to the group's socket.
func (r *Receiver) Packet(now time.Time, packet []byte) {
	h, body, err := protocol.ParseHeader(packet)
	if err != nil {
		r.stats.Rejected++
		return
	}
	if h.Session != r.channel.Session || h.Epoch != r.channel.Epoch {
		// Anybody can send this. It matters only where nothing else comes.
		r.stats.Rejected++
		r.stats.Foreign++
		if !r.foreign {
			r.foreign = true
			if at := now.Add(r.jitter(refreshGap / 4)); r.refreshAt.Before(at) {
				r.refreshAt = at
			}
		}
		return
	}
	if !r.sender.Open(packet) {
		r.stats.Rejected++
		return
	}
	if !r.seen.See(h.Counter) {
		r.stats.Replayed++
		return
	}
	r.stats.Packets++
	r.stats.Bytes += uint64(len(packet) + r.overhead)
	r.heard, r.asked, r.refreshedOK, r.foreign = now, 0, 0, false
	r.reporting.packet(now, h.Counter)
	switch h.Type {
	case protocol.TypeData:
		err = r.data(now, body)
	case protocol.TypeAnnounce:
		err = r.announcement(now, body)
	case protocol.TypeUnavailable:
		err = r.unavailable(now, body)
	case protocol.TypeStraggler:
		err = r.straggler(body)
	}
	if err != nil {
		r.stats.Rejected++
	}
}

// data takes a symbol.
func (r *Receiver) data(now time.Time, body []byte) error {
	d, err := protocol.ParseData(body)
	if err != nil {
		return err
	}
	if !r.running || d.Chunk != r.runChunk {
		r.newRun(now, &d)
	}
	if !r.runUseful || r.busy[d.Chunk] > 0 {
		r.stats.Duplicates++
		return nil
	}
	a := r.current
	if a == nil || a.chunk != d.Chunk || a.tag != d.Tag {
		if a, err = r.assemble(now, &d); err != nil || a == nil {
			return err
		}
		r.current = a
	}
	return r.symbol(now, a, &d)
}

// newRun notes that the sender has gone on to another chunk.
func (r *Receiver) newRun(now time.Time, d *protocol.Data) {
	if r.running {
		r.passed(now, r.runChunk)
	}
	r.runChunk, r.running = d.Chunk, true
	r.runUseful = r.wants.Useful(d.Chunk) && !r.shuns(now, d.Chunk)
	if d.Symbol == 0 {
		r.pos = d.Chunk
	}
	r.meanChunk += (d.Length - r.meanChunk) / 16
}

// passed marks the assemblies of chunk c, which the sender has left.
func (r *Receiver) passed(now time.Time, c uint32) {
	if a := r.current; a != nil && a.chunk == c && r.holding[c] == 1 {
		r.pass(now, a)
		return
	}
	if r.holding[c] == 0 {
		return
	}
	for k, a := range r.held {
		if k.chunk == c {
			r.pass(now, a)
		}
	}
}

// assemble returns the assembly that a symbol belongs to; nil if there is no
// room for a new one.
func (r *Receiver) assemble(now time.Time, d *protocol.Data) (*assembly, error) {
	k := assemblyKey{d.Chunk, d.Tag}
	if a := r.held[k]; a != nil {
		return a, nil
	}
	shape, err := protocol.NewShape(d.Length, r.channel.SymbolSize)
	if err != nil {
		return nil, err
	}
	if !r.room(now, bufferSize(d.Length)) {
		r.stats.Dropped++
		return nil, nil
	}
	a := newAssembly(k, shape, r.spares.get(d.Length))
	r.held[k] = a
	r.holding[k.chunk]++
	r.memory += a.memory
	return a, nil
}

// symbol puts d into a.
func (r *Receiver) symbol(now time.Time, a *assembly, d *protocol.Data) error {
	if d.Length != a.shape.Length || len(d.Payload) != a.shape.SymbolLen(int(d.Symbol)) {
		return protocol.ErrMalformed
	}
	before := a.memory
	if !a.add(now, d) {
		r.stats.Duplicates++
		return nil
	}
	r.memory += a.memory - before
	r.stats.Symbols++
	if int(d.Symbol) >= a.shape.K {
		r.stats.RepairBytes += uint64(len(d.Payload))
	}
	r.tries = 0
	if a.got < a.shape.K {
		return nil
	}
	// Complete: other encodings of the chunk are of no use now.
	r.dropChunk(a.chunk)
	r.memory += a.memory
	r.backlog += a.memory
	r.busy[a.chunk] = a.memory
	r.runUseful = false // the rest of the run may be for others
	r.done = append(r.done, &Assembled{Chunk: a.chunk, assembly: a})
	return nil
}

// announcement takes what the sender says it will send.
func (r *Receiver) announcement(now time.Time, body []byte) error {
	a, err := protocol.ParseAnnounce(body, r.queue)
	if err != nil {
		r.queue = r.queue[:0]
		return err
	}
	r.queue, r.queuedAt = a.Queue, now
	r.rate, r.members = int64(a.Rate)*1000, min(a.Members, maxMembers)
	r.reporting.every = time.Duration(a.Reports) * protocol.ReportUnit
	if r.running && !slices.ContainsFunc(a.Queue, func(e protocol.Entry) bool { return e.Chunk == r.runChunk && e.N != 0 }) {
		// The run is over, and nothing else may follow to show it.
		r.passed(now, r.runChunk)
		r.running = false
	}
	slices.SortFunc(r.queue, func(a, b protocol.Entry) int { return cmp.Compare(a.Chunk, b.Chunk) })
	return nil
}

// unavailable takes the sender's word that it cannot read some chunks.
func (r *Receiver) unavailable(now time.Time, body []byte) error {
	u, err := protocol.ParseUnavailable(body, nil)
	if err != nil {
		return err
	}
	n := 0
	for _, e := range u.Chunks {
		for i := range uint32(e.Count) {
			if n++; n > maxAsked {
				return nil
			}
			if c := e.Chunk + i; !r.shuns(now, c) && r.wants.Useful(c) {
				r.stats.Unavailable++
				r.fail(now, c, ErrUnavailable)
			}
		}
	}
	return nil
}

// straggler takes the sender's word that some receivers are to leave.
func (r *Receiver) straggler(body []byte) error {
	m, err := protocol.ParseStraggler(body)
	if err == nil && slices.Contains(m.Receivers, r.id) && r.err == nil {
		r.err = fmt.Errorf("cast: channel %v at %d kbit/s: %w", r.channel.Group, r.rate/1000, ErrStraggler)
	}
	return err
}

type failure struct {
	chunk uint32
	err   error
}

// fail stops asking for chunk c.
func (r *Receiver) fail(now time.Time, c uint32, err error) {
	r.failures = append(r.failures, failure{c, err})
	r.shunned[c] = now
	r.dropChunk(c)
	if r.running && r.runChunk == c {
		r.runUseful = false
	}
}

func (r *Receiver) shuns(now time.Time, c uint32) bool {
	t, ok := r.shunned[c]
	if ok && now.Sub(t) > shun {
		delete(r.shunned, c)
		return false
	}
	return ok
}

// Done returns a chunk whose symbols are together, if there is one.
func (r *Receiver) Done() (*Assembled, bool) {
	if len(r.done) == 0 {
		return nil, false
	}
	a := r.done[0]
	r.done = slices.Delete(r.done, 0, 1)
	return a, true
}

// Failed returns a chunk that is not asked for here for a while and why, once;
// false is none.
func (r *Receiver) Failed() (n uint32, err error, ok bool) {
	if len(r.failures) == 0 {
		return 0, nil, false
	}
	f := r.failures[0]
	r.failures = slices.Delete(r.failures, 0, 1)
	return f.chunk, f.err, true
}

// Delivered tells what the sink said to a chunk from Done, whose bytes nobody
// reads from then on.
func (r *Receiver) Delivered(now time.Time, a *Assembled, err error) {
	r.spares.put(a.encoded)
	size := r.busy[a.Chunk]
	delete(r.busy, a.Chunk)
	r.memory -= size
	r.backlog -= size
	r.reporting.delivered(now, a.shape.Length, r.backlog)
	if _, bad := errors.AsType[*image.ChunkError](err); bad {
		r.stats.Bad++
		r.fail(now, a.Chunk, err)
		if r.stats.Bad >= maxBad && r.err == nil {
			r.err = fmt.Errorf("cast: %d chunks, the last %d: %v: %w", r.stats.Bad, a.Chunk, err, ErrBadChannel)
		}
		return
	}
	if err == nil {
		r.stats.Chunks++
		r.stats.ChunkBytes += uint64(a.shape.Length)
		if r.running && r.runChunk == a.Chunk {
			r.runUseful = false // the rest of a run that began before is for others
		}
	}
}

func (r *Receiver) jitter(d time.Duration) time.Duration {
	return time.Duration(r.rnd.Int64N(int64(d)))
}
