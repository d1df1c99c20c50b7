// Package pace is the congestion controller of a multicast sender: it decides
// how fast to send, and which receivers are too slow to be waited for. It has
// no clock and does no I/O.
package pace

import (
	"math"
	"time"
)

// Config is what an operator decides. Rates are in bits a second of IP packets.
type Config struct {
	// Max is the cap; 0 is none, that is 100 Gbit/s.
	Max int64
	// Min is never gone below; 0 is 1 Mbit/s, or Max if that is lower.
	Min int64
	// Floor is the part of the group's median capacity below which a receiver is
	// a straggler; 0 is 0.25, negative: nobody is.
	Floor float64
	// Polite leaves TCP flows on the path their share.
	Polite bool
}

// Sample is what one receiver saw of a stretch of packets, beside how they were
// sent. Values that cannot be are ignored or cut off, never an error: they come
// from the network.
type Sample struct {
	Receiver       uint64
	Sent, Received int           // packets
	Bytes          int           // IP bytes sent in the stretch
	SendTime       time.Duration // between sending the first and the last of the stretch
	RecvTime       time.Duration // between their arrival
	RTT            time.Duration // an upper bound of the round trip, queues included
	SinkRate       int64         // what the receiver's sink takes while it lags, 0 if it does not lag
}

const (
	// startRate in bit/s is where a sender begins: 170 packets in 100 ms are
	// enough to tell 5 % of loss from chance, a 10 Mbit/s port bears it for a
	// moment, and six doublings from it are 1 Gbit/s.
	startRate = 20e6
	// noCap and noFloor in bit/s are the defaults of Max and Min.
	noCap   = 100e9
	noFloor = 1e6
	// mostRate in bit/s keeps sums of what may be sent within a float64's digits.
	mostRate = 1e15
	// defaultFloor is the default of Floor.
	defaultFloor = 0.25

	// double is the growth for every confirmed round of the ramp: as slow start.
	double = 2
	// probe is how far above the best delivered rate the ramp sends while it
	// looks twice: enough to keep the bottleneck full, without the waste of 2.
	probe = 1.25
	// curve in bit/s⁴: the rate grows by curve·t³, t since congestion. 100 Mbit/s
	// gain 3 % in 0.7 s and 1 Gbit/s in 1.4 s: several report rounds, so that the
	// overshoot stays at a few per cent for a part of that time.
	curve = 10e6
	// broad is the rate from which on it grows slower, by the square down to
	// leastGrowth of that: of two flows the one that has more grows less, which
	// evens them out in half of the time that giving up the same part takes. Less
	// than a quarter would take too long to get back what a hiccup cost: half of
	// 1 Gbit/s takes 6 s.
	broad       = 200e6
	leastGrowth = 0.25
	// steep is the part of the rate that it grows by in a second at most, so that
	// it passes the capacity by a few per cent before that is noticed.
	steep = 0.6
	// escape is the part of the last capacity by which the rate has to pass it,
	// without congestion, to begin another ramp: the link has become another.
	escape = 2
	// patience is how long a ramp that does not rise goes on although some
	// receivers are congested: four rounds, in which stragglers are found.
	patience = 500 * time.Millisecond
	// agreement is how far capacities found in a row may be apart to be one: above
	// the error of measuring (1 ms of a 100 ms stretch, binomial noise), below what
	// a competitor who gains or loses a tenth makes of them.
	agreement = 0.04
	// stepTime is the longest time that one report lets the rate grow for: two
	// rounds of the usual 100 ms.
	stepTime = 200 * time.Millisecond
	// drainTime is in how long a standing queue is to be gone, and drainMost the
	// part of the rate that may be given for it.
	drainTime = time.Second
	drainMost = 0.2

	// proofDip is the part of what arrives that is sent to measure a usual loss,
	// for two rounds: others may be sending too much as well.
	proofDip = 0.9

	// hostGap is how long after the host refused packets the rate does not grow.
	hostGap = 200 * time.Millisecond
	// silence is how long reports may be missing, and silenceHalf how often the
	// rate is halved from then on, down to startRate: TFRC's nofeedback timer
	// (RFC 5348 section 4.4) for rounds of 100 ms.
	silence     = 2 * time.Second
	silenceHalf = time.Second
	// idleShort is how long an idle sender trusts all of it: as long as reports may
	// be missing.
	idleShort = silence
	// idleHalf is how long an idle sender takes to trust half of what it knew: the
	// minutes of RFC 7661 are for paths that nobody else starts to use.
	idleHalf = 5 * time.Second
)

// yield is the part of the delivered rate that is sent after congestion, by how
// often in a row the same capacity was found.
var yield = [...]float64{0.90, 0.92, 0.94, 0.97}

// yieldFirst is the index into yield after a ramp; from there on the capacity
// counts as steady.
const yieldFirst = 2

// Controller decides how fast to send. It is not safe for concurrent use.
//
// # What it goes by
//
// Every receiver reports, now and then, what it got of a stretch of packets.
// Packets get lost for other reasons than congestion here, at rates that would
// stop TCP, and repair is cheap; so loss as such means nothing. What means
// something is a delivered rate that does not follow the sent one (as in BBR):
// more loss than this receiver's usual one, beyond what chance explains for so
// many packets in bursts as long as usual; arrival stretched against sending; or
// a queue that stays. The usual loss is learnt where the rate cannot be its
// cause: before the first congestion, and below the capacity found. What cannot
// be told apart by looking is found out by trying: loss that stays when the rate
// falls is not congestion, and a usual loss has to prove itself below the
// capacity every few seconds.
//
// One receiver's congestion counts when it shows twice in a row, or once where
// it is expected, or in most receivers at once.
//
// # The rate
//
// It begins at 20 Mbit/s and doubles for every round of reports that confirms
// it (slow start, but from delivered rates, so it never exceeds twice what
// arrived). The first ramp goes on while what arrives grows, which makes it
// take its part of a link that others fill. At congestion the rate falls to a
// bit under what was delivered, whatever it was before: conclusions from the
// same congestion, however many receivers draw them, are the same conclusion.
// From there it grows by curve·t³: hardly at first, so that it stays near the
// capacity most of the time, then ever faster (the convex half of RFC 9438,
// CUBIC). Unlike CUBIC's, the growth does not rise with the own rate: increase
// in proportion would keep the ratio of two flows for ever (Chiu and Jain,
// 1989), while equal increase, or that of the larger one being less, and
// proportional decrease makes them equal. A flow
// whose capacity is the same again and again is alone, and gives up less.
// A rate twice the last capacity begins another ramp.
//
// Only what was tried counts: a stretch sent slower than allowed raises nothing,
// and what the host refuses or a disk withholds ends the growth like congestion.
//
// Polite, the rate also keeps below that of a TCP flow with the same losses and
// round trips (as RFC 5348, TFRC, and RFC 4654, TFMCC), whatever the cause of
// losses, and the first sign of congestion ends the ramp. With the round trips
// of a LAN that costs nothing until somebody fills the queue.
//
// # The group
//
// The rate follows the slowest receiver that is no straggler (PGMCC's acker,
// TFMCC's current limiting receiver). A straggler's capacity is below a part of
// the median of what the receivers heard lately can take, in several reports
// over 300 ms; what others can take is only known when it was tried, so a ramp
// goes on over a congested minority until they are known to be stragglers or it
// stops rising. The median of two is the higher. A group that is congested as a
// whole has no stragglers, since its median falls with it.
//
// A report costs O(1), and at most every 20 ms a pass over all receivers.
type Controller struct {
	max, min, floor float64
	polite          bool

	rate  float64
	trace trace
	// ramp: the rate doubles until congestion shows. again: the ramp follows
	// congestion, and is to disturb nobody.
	ramp, again bool
	// best is the highest rate in the present ramp that was delivered.
	best float64
	// knee is the capacity at the last congestion, 0 if there was none in the
	// present ramp; alike counts the capacities found in a row that were anchor.
	knee, anchor float64
	alike        int
	// from is the rate after the last congestion, and grown the time since in
	// which what was sent arrived.
	from  float64
	grown time.Duration
	// owed is what from would have been but for measuring a usual loss again.
	owed float64

	cutAt   time.Time // the rate was last lowered
	grewAt  time.Time // grown was last brought up to date
	roseAt  time.Time // the ramp was last raised
	heardAt time.Time // the last report, or Idle
	// idleSince is when Idle was first called since the last report, zero if not.
	idleSince time.Time
	// The host refused packets at hostAt, and before, since hostSince.
	hostSince, hostAt time.Time

	group group
}

// New returns a Controller that has heard of nobody.
func New(cfg Config) *Controller {
	c := &Controller{max: float64(cfg.Max), min: float64(cfg.Min), floor: cfg.Floor, polite: cfg.Polite, ramp: true}
	if cfg.Max <= 0 {
		c.max = noCap
	}
	if cfg.Min <= 0 {
		c.min = noFloor
	}
	c.min = min(c.min, c.max)
	c.max = min(c.max, mostRate)
	if c.floor == 0 || math.IsNaN(c.floor) {
		c.floor = defaultFloor
	}
	c.floor = min(c.floor, 1)
	c.rate = min(max(startRate, c.min), c.max)
	c.group.init()
	return c
}

// Rate returns how fast to send at now, in bit/s of IP packets.
func (c *Controller) Rate(now time.Time) int64 {
	if !c.heardAt.IsZero() && now.Sub(c.heardAt) > silence && c.rate > startRate {
		c.heardAt = c.heardAt.Add(silenceHalf)
		c.restart(now, c.rate/2)
	}
	return int64(c.rate)
}

// Idle tells that nothing is being sent: what was learnt ages. It is to be
// called at least every second while that lasts.
func (c *Controller) Idle(now time.Time) {
	last := c.heardAt
	c.heardAt, c.grewAt = now, now
	if c.idleSince.IsZero() {
		c.idleSince = now
	}
	if now.Sub(c.idleSince) < idleShort || c.rate <= startRate {
		return
	}
	idle := min(max(now.Sub(last), 0), idleHalf)
	c.restart(now, max(c.rate*(1-idle.Seconds()/idleHalf.Seconds()/2), startRate))
}

// Ramping reports whether the rate doubles with every round of reports.
func (c *Controller) Ramping() bool { return c.ramp }

// HostLimited tells that the host could not send as fast as Rate says.
func (c *Controller) HostLimited(now time.Time) {
	if !c.refused(now) {
		c.hostSince = now
	}
	c.hostAt = now
}

// Straggler reports whether receiver id is too slow for the group.
func (c *Controller) Straggler(id uint64) bool {
	r := c.group.byID[id]
	return r != nil && r.straggler
}

// Forget drops what is known of receiver id: it left.
func (c *Controller) Forget(id uint64) { c.group.remove(id) }

// Sample takes a report.
func (c *Controller) Sample(now time.Time, s Sample) {
	c.heardAt, c.idleSince = now, time.Time{}
	c.trace.set(now, c.rate)
	r := c.group.get(now, s.Receiver)
	if r == nil || r.straggler {
		return
	}
	m, ok := r.collect(now, s)
	if !ok {
		return
	}
	m.allowed = c.trace.average(m.start, m.end)
	v := r.judge(now, &m, c.view(now))
	if r.proven && !c.ramp {
		c.from = c.owed
		c.set(now, max(c.rate, c.owed))
	}
	r.proven = false
	if c.group.due(now) {
		c.decide(now)
	}
	if !c.hostLimited(now, m) && v == fine && m.full() {
		c.grow(now, m)
	} else {
		c.grewAt = now
	}
}

// view is what a receiver's sample is judged by.
func (c *Controller) view(now time.Time) view {
	return view{
		ramp:    c.ramp,
		gentle:  c.polite || c.again,
		polite:  c.polite,
		learn:   c.knee == 0 && !c.again,
		host:    c.refused(now),
		alone:   c.alike >= yieldFirst,
		settled: now.Sub(c.cutAt) > drainTime+stepTime,
		rate:    c.rate,
		knee:    c.knee,
		best:    c.best,
		cutAt:   c.cutAt,
	}
}

// refused reports whether the host refused packets lately.
func (c *Controller) refused(now time.Time) bool { return now.Sub(c.hostAt) <= hostGap }

// decide draws the group's conclusion.
func (c *Controller) decide(now time.Time) {
	s := c.group.census(now, c.floor, c.rate)
	if s.refuted {
		c.restart(now, c.rate)
		c.again = false
	}
	switch {
	case s.bound == 0 || c.patient(now, s):
	case !s.certain && !c.ramp:
	case !s.certain:
		c.set(now, min(c.rate, probe*max(c.best, s.bound)))
		c.grewAt = now
	default:
		c.cut(now, s)
	}
	if c.polite && s.fair > 0 && s.fair < c.rate {
		c.ramp = false
		c.from, c.grown = max(s.fair, c.min), 0
		c.set(now, s.fair)
	}
}

// patient reports whether a ramp goes on although some are congested: while
// they are a minority, and it is not known yet whether they are stragglers.
func (c *Controller) patient(now time.Time, s state) bool {
	return c.ramp && !s.majority && c.floor > 0 && now.Sub(c.roseAt) < patience
}

// cut lowers the rate to a bit under what is delivered.
func (c *Controller) cut(now time.Time, s state) {
	defer c.group.learnt(now, s.bound, s.unproven > 0)
	switch {
	case c.ramp || c.anchor == 0:
		c.alike, c.anchor = yieldFirst, s.bound
	case math.Abs(s.bound-c.anchor) > c.anchor*(agreement+s.blur):
		c.alike, c.anchor = 0, s.bound
	default:
		c.alike = min(c.alike+1, len(yield)-1)
		c.anchor += (s.bound - c.anchor) / 4
		s.bound = c.anchor
	}
	c.ramp, c.knee = false, s.bound
	if c.polite {
		s.queue = 0 // which TCP fills anyway
	}
	drain := min(s.queue.Seconds()/drainTime.Seconds(), drainMost)
	c.owed = s.bound * (yield[c.alike] - drain)
	rate := c.owed
	if s.unproven > 0 {
		rate *= proofDip * (1 - s.unproven)
	}
	c.set(now, min(c.rate, rate))
	c.cutAt, c.grewAt = now, now
	c.from, c.grown = c.rate, 0
}

// hostLimited lowers the rate to what the host managed in the stretch, if that
// was not what it should, and reports whether the host is the limit.
func (c *Controller) hostLimited(now time.Time, m measure) bool {
	if !c.refused(now) || m.sent >= 0.95*m.allowed {
		return false
	}
	c.grewAt = now
	if !m.start.Before(c.hostSince) && m.start.After(c.cutAt) {
		c.ramp, c.knee, c.anchor = false, m.sent, 0
		c.set(now, min(c.rate, (m.allowed+m.sent)/2))
		c.cutAt = now
		c.from, c.grown = c.rate, 0
	}
	return true
}

// grow raises the rate after a stretch that was sent as fast as allowed and
// arrived.
func (c *Controller) grow(now time.Time, m measure) {
	step := min(max(now.Sub(c.grewAt), 0), stepTime)
	c.grewAt = now
	if c.refused(now) {
		return
	}
	if c.ramp {
		c.best = max(c.best, m.delivered())
		if double*m.delivered() > c.rate {
			c.roseAt = now
		}
		c.raise(now, double*m.delivered())
		if m.sent >= 0.9*c.max {
			c.ramp, c.again, c.from, c.grown = false, false, c.rate, 0
		}
		return
	}
	c.grown += step
	t := c.grown.Seconds()
	c.raise(now, min(c.from+curve*c.growth()*t*t*t, c.rate*(1+c.slope()*step.Seconds())))
	if c.knee > 0 && c.rate > escape*c.knee && m.delivered() > c.knee*(1+agreement) && !c.polite {
		c.restart(now, c.rate)
		c.again = true
	}
}

// growth is the part of curve that it grows by: less the more it has.
func (c *Controller) growth() float64 {
	share := broad / max(c.knee, broad)
	return max(share*share, leastGrowth)
}

// slope is the part of the rate that it may grow by in a second: more the
// farther it is above the last capacity.
func (c *Controller) slope() float64 {
	if c.knee == 0 {
		return steep
	}
	return steep + max(c.rate/c.knee-1, 0)
}

// raise sets the rate if that is higher and no disk says otherwise.
func (c *Controller) raise(now time.Time, rate float64) {
	if sink := c.group.sink; sink > 0 && !c.ramp {
		rate = min(rate, 0.97*sink)
	}
	if fair := c.group.fair; c.polite && fair > 0 {
		rate = min(rate, fair)
	}
	if rate > c.rate {
		c.set(now, rate)
	}
}

// restart begins another ramp at rate.
func (c *Controller) restart(now time.Time, rate float64) {
	c.ramp, c.best, c.knee = true, 0, 0
	c.set(now, rate)
}

func (c *Controller) set(now time.Time, rate float64) {
	c.rate = min(max(rate, c.min), c.max)
	c.trace.set(now, c.rate)
}
