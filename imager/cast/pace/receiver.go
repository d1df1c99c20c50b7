package pace

import "time"

const (
	// doubtMost stretches in a row that lost more than usual, if not by much, are
	// congestion: the usual loss would have been exceeded half of the times.
	doubtMost = 10
	// minPackets and minTime are the least that is judged; shorter stretches are
	// put together. Fewer packets say nothing about loss, and a sender's bursts of
	// 8 ms nothing about rates in less time.
	minPackets = 32
	minTime    = 40 * time.Millisecond
	// longest is the longest time that is believed; a report is due every 5 s.
	longest = 10 * time.Second

	// fullPart is the part of the rate allowed that makes a stretch one that was
	// sent as fast as allowed.
	fullPart = 0.8
	// stretchLeast and stretchPart are how much longer than sending arrival has to
	// take to be more than bursts (8 ms), batches and a late wake-up.
	stretchLeast = 25 * time.Millisecond
	stretchPart  = 0.15
	// queueMost is the standing queue that is congestion although nothing is lost:
	// more than a switch port's buffer at 1 Gbit/s (0.5 to 12 MB are 4 to 100 ms),
	// above jitter when three reports in a row have it.
	queueMost = 30 * time.Millisecond
	// stalled is the part of a doubled rate delivered that ends the ramp. Alone,
	// it is passed one round later than the first loss; against a flow that fills
	// the bottleneck it is reached when both send about the same.
	stalled = 0.75
	// probed is the part delivered of what is sent to look twice (probe, of which
	// a bottleneck lets 0.8 pass) that ends it.
	probed = 0.93
	// twice in a row makes one receiver's congestion certain.
	twice = 2
	// confirmRun reports over confirmTime confirm a capacity: no hiccup is that
	// long. A disk may pause much longer (writeback, erasing flash) and yet be no
	// reason to leave.
	confirmRun      = 3
	confirmTime     = 300 * time.Millisecond
	confirmSinkTime = 2 * time.Second
	// kneeTime is how long a receiver is known to be the one that limits.
	kneeTime = 30 * time.Second
	// provenTime is how long a rate that was delivered tells of the capacity, and
	// rttTime how long the shortest round trip stands for an empty queue.
	provenTime = 30 * time.Second
	rttTime    = 10 * time.Second
	// proofTime is how often the usual loss has to be measured at a rate below what
	// arrives: where 10 % get lost that costs 20 % for 0.2 s of every 3 s.
	// Less than proofLeast is not worth it.
	proofTime  = 3 * time.Second
	proofLeast = 0.02
	// refuteSteps cuts in refuteTime that leave refutePart of the loss show that
	// the loss has nothing to do with the rate. A competitor's ramp looks the same
	// for half a second.
	refuteSteps = 4
	refuteTime  = time.Second
	refutePart  = 0.7
)

// receiver is what is known of one receiver. Rates are in bit/s.
type receiver struct {
	id    uint64
	index int // in group.all
	heard time.Time

	pending  measure // too short to be judged
	baseline baseline
	// The rate was lowered to measure the baseline again (last at provedAt), and it
	// is as before.
	proving, proven bool
	provedAt        time.Time
	doubt           doubt
	trial           trial
	refuted         bool // a trial showed that its loss is not congestion

	rtt      recent           // negative, so that the highest is the shortest
	rtts     [3]time.Duration // the last ones
	standing time.Duration    // what the queue was at least in them
	queue    time.Duration    // what it is at most

	shown    recent    // rates delivered
	run      int       // congested stretches in a row
	runSince time.Time // when the first was told of
	capacity float64   // as of this run, or of the disk; 0 if neither limits it
	last     float64   // what the run's last stretch showed
	blur     float64   // by how much that may be wrong, as a part
	limited  bool      // certainly
	knee     float64   // the capacity when the group followed it, at kneeAt
	kneeAt   time.Time

	sink     float64 // what its disk takes, smoothed while it lags, 0 if it does not
	sinkRun  int     // stretches in a row that were sent faster
	sinkFrom time.Time

	fair      fair
	straggler bool
}

// doubt counts stretches in a row that lost more than usual, none of them enough
// to exclude chance.
type doubt struct {
	stretches     int
	packets, lost float64
}

// trial is the question whether less rate makes less loss.
type trial struct {
	steps int
	loss  float64
	since time.Time
	cutAt time.Time
}

// measure is a stretch of packets. Rates are in bit/s.
type measure struct {
	start, end time.Time // when it was sent
	packets    float64
	lost       float64
	bits       float64
	send, recv time.Duration
	sent       float64 // rate
	allowed    float64 // rate
	ratio      float64 // of the rate that arrived, but for the baseline's loss
}

// full reports whether the stretch was sent as fast as allowed.
func (m *measure) full() bool { return m.sent >= fullPart*m.allowed }

// delivered is the rate that arrived, or would have without the baseline's loss.
func (m *measure) delivered() float64 { return m.sent * m.ratio }

// verdict is what one stretch says.
type verdict int

const (
	fine     verdict = iota
	hazy             // fine, or not
	unclear          // congested, but sent before the rate was lowered for that
	suspect          // congested, or by chance
	withheld         // too slow a disk
)

// view is what the controller knows that a stretch is judged by.
type view struct {
	ramp, gentle bool
	polite       bool
	learn        bool // there was no congestion yet
	host         bool // the host refuses packets
	alone        bool // the capacity is steady
	settled      bool // the queue has had time to drain
	rate, knee   float64
	best         float64 // the highest rate that anybody got in the ramp
	cutAt        time.Time
}

// collect adds a sample to what is pending, and returns it when it is enough.
func (r *receiver) collect(now time.Time, s Sample) (measure, bool) {
	if s.Sent <= 0 || s.Bytes <= 0 || s.SendTime < 0 || s.RecvTime < 0 || s.SendTime > longest || s.RecvTime > longest {
		return measure{}, false
	}
	r.heard = now
	r.roundTrip(now, s.RTT)
	r.disk(now, s)
	p := &r.pending
	if p.send > longest-s.SendTime || p.recv > longest-s.RecvTime {
		*p = measure{}
	}
	p.packets += float64(s.Sent)
	p.lost += float64(s.Sent - min(max(s.Received, 0), s.Sent))
	p.bits += float64(s.Bytes) * 8
	p.send += s.SendTime
	p.recv += s.RecvTime
	if p.packets < minPackets || p.send < minTime {
		return measure{}, false
	}
	m := *p
	*p = measure{}
	m.end = now.Add(-min(max(s.RTT, 0), longest))
	m.start = m.end.Add(-m.send)
	m.sent = m.bits / m.send.Seconds()
	return m, true
}

// roundTrip notes a round trip and how long the queue is that it shows.
func (r *receiver) roundTrip(now time.Time, rtt time.Duration) {
	rtt = min(max(rtt, 0), longest)
	r.rtt.note(now, -float64(rtt), rttTime)
	copy(r.rtts[1:], r.rtts[:])
	r.rtts[0] = rtt
	shortest := -time.Duration(r.rtt.max())
	r.standing = max(0, min(r.rtts[0], r.rtts[1], r.rtts[2])-shortest)
	r.queue = max(r.rtts[0], r.rtts[1]) - shortest
}

// disk notes how fast the sink is.
func (r *receiver) disk(now time.Time, s Sample) {
	if s.SinkRate <= 0 {
		r.sink, r.sinkRun = 0, 0
		return
	}
	rate := float64(s.SinkRate)
	if r.sink > 0 {
		rate = (rate + r.sink) / 2
	}
	r.sink = rate
	if r.sink > 0.98*float64(s.Bytes)*8/max(s.SendTime, time.Millisecond).Seconds() {
		r.sinkRun = 0
	} else if r.sinkRun++; r.sinkRun == 1 {
		r.sinkFrom = now
	}
}

// judge decides what a stretch says, and learns from it.
func (r *receiver) judge(now time.Time, m *measure, v view) verdict {
	if r.proving && !m.start.Before(v.cutAt) {
		was := r.baseline.part()
		r.baseline.reset(m.packets, m.lost)
		r.proving, r.proven = false, r.baseline.part() > refutePart*was
	}
	lossy, doubtful := r.compare(m)
	stretched := m.recv-m.send > max(stretchLeast, time.Duration(stretchPart*float64(m.send)))
	standing := r.standing > queueMost && r.rtts[0] >= r.rtts[2] && v.settled && !v.polite
	congested := lossy || stretched || standing
	if congested || v.ramp {
		m.ratio = min(m.ratio*float64(m.send)/float64(max(m.recv, minTime/2)), 1)
	}
	if v.ramp && !v.gentle {
		congested = m.ratio < stalled || r.run > 0 && m.ratio < probed
	}
	r.fair.note(m, r.rtts[0])
	r.learn(m, v, congested, doubtful)
	switch {
	case congested && m.start.Before(v.cutAt) && m.delivered() > 0.95*v.rate:
		return unclear
	case congested:
		r.suspect(now, m, v, lossy)
		return suspect
	}
	r.run, r.capacity, r.last, r.limited, r.trial = 0, 0, 0, false, trial{}
	r.shown.note(now, m.sent, provenTime)
	if r.sinkRun >= twice {
		r.limited, r.capacity = true, r.sink
		return withheld
	}
	if doubtful && !v.ramp {
		return hazy
	}
	return fine
}

// learn learns the usual loss where it is not the rate that makes it: as long as
// no congestion was seen, and below the capacity unless somebody shares it.
func (r *receiver) learn(m *measure, v view, congested, doubtful bool) {
	b := &r.baseline
	below := m.sent < 0.97*v.knee
	if v.learn && !(v.ramp && congested) || below {
		b.vary(m.packets, m.lost)
	}
	if v.learn && !(v.ramp && congested) || below && (v.alone || !doubtful) || b.fewer(m.packets, m.lost) {
		b.learn(m.packets, m.lost)
	}
}

// compare works out which part arrived. It reports whether more was lost than
// usual and chance explain, and whether more than usual was.
func (r *receiver) compare(m *measure) (lossy, doubtful bool) {
	b := &r.baseline
	m.ratio = b.ratio(m.packets, m.lost)
	if b.packets == 0 {
		return false, false
	}
	if b.exceeded(m.packets, m.lost) {
		r.doubt = doubt{}
		return true, true
	}
	if m.ratio > 1-lossLeast {
		r.doubt = doubt{}
		return false, false
	}
	d := &r.doubt
	d.stretches++
	d.packets += m.packets
	d.lost += m.lost
	if lossy = b.exceeded(d.packets, d.lost) || d.stretches == doubtMost; lossy {
		m.ratio = b.ratio(d.packets, d.lost)
	}
	if lossy {
		*d = doubt{}
	}
	return lossy, true
}

// suspect notes a congested stretch.
func (r *receiver) suspect(now time.Time, m *measure, v view, lossy bool) {
	if r.run++; r.run == 1 {
		r.runSince, r.last = now, 0
	}
	// A stretch that began before the congestion shows too little, hence two; one
	// with pauses was sent in bursts at the rate allowed, unless that is more than
	// anybody has got yet: then it may be the host's link that made the pauses.
	rate := m.sent
	if !m.full() && !v.host {
		rate = m.allowed
		if v.ramp {
			rate = max(m.sent, min(rate, v.best))
		}
	}
	shown := rate * m.ratio
	r.capacity = shown
	if m.start.Add(m.send / 4).Before(r.runSince) {
		r.capacity = max(shown, r.last)
	}
	r.last = shown
	r.blur = (r.baseline.noise(m.packets) - fewPackets) / m.packets
	known := v.alone && !v.ramp && now.Sub(r.kneeAt) < kneeTime && m.sent > 0.9*r.knee
	r.limited = r.run >= twice || known
	if lossy && !m.start.Before(v.cutAt) {
		r.try(now, m, v)
	}
}

// try notes another loss, and gives in if it does not depend on the rate.
func (r *receiver) try(now time.Time, m *measure, v view) {
	t := &r.trial
	loss := m.lost / m.packets
	switch {
	case t.steps == 0 || loss < refutePart*t.loss:
		*t = trial{1, loss, now, v.cutAt}
	case v.cutAt.After(t.cutAt):
		t.steps++
		t.cutAt = v.cutAt
	}
	if t.steps >= refuteSteps && now.Sub(t.since) >= refuteTime {
		r.baseline.reset(m.packets, m.lost)
		r.run, r.limited, r.refuted, r.knee, *t = 0, false, true, 0, trial{}
	}
}

// unproven is the baseline's loss if it has to be measured again, without
// congestion: what is always there looks usual.
func (r *receiver) unproven(now time.Time) float64 {
	if p := r.baseline.part(); p > proofLeast && now.Sub(r.provedAt) > proofTime {
		return p
	}
	return 0
}

// congested reports whether its last stretch was, or its disk lags.
func (r *receiver) congested() bool { return r.run > 0 || r.limited }

// confirmed reports whether the capacity is no hiccup, which may be as long as
// pause for a disk.
func (r *receiver) confirmed(now time.Time, pause time.Duration) bool {
	if r.run > 0 {
		return r.run >= confirmRun && now.Sub(r.runSince) >= confirmTime
	}
	return r.sinkRun >= confirmRun && now.Sub(r.sinkFrom) >= pause
}

// can is what it can take, as far as is known.
func (r *receiver) can(rate float64) float64 {
	switch shown := r.shown.max(); {
	case r.congested():
		return r.capacity
	case shown > 0:
		return shown
	}
	return rate
}

// recent is the highest value of the last while, forgotten after one to two
// times as long.
type recent struct {
	now, before float64
	since       time.Time
	some        bool
}

func (r *recent) note(now time.Time, v float64, span time.Duration) {
	switch {
	case !r.some:
		*r = recent{v, v, now, true}
	case now.Sub(r.since) > span:
		r.now, r.before, r.since = v, r.now, now
	}
	r.now = max(r.now, v)
}

func (r *recent) max() float64 { return max(r.now, r.before) }
