package pace

import (
	"slices"
	"time"
)

const (
	// groupMost bounds the receivers remembered, to 5 MB; more are not listened to.
	groupMost = 8192
	// gone is how long a receiver that is not heard is remembered.
	gone = 60 * time.Second
	// justNow and lately are how long a report tells of the present: what 400
	// reports a second need for a draw, and two rounds of a small group. Those who
	// happen to be heard in it are a fair draw of a large one.
	justNow = 60 * time.Millisecond
	lately  = 250 * time.Millisecond
	// few receivers that say the same at once need not say it twice.
	few = 4
	// hiccup is the part of the rate below which one receiver's capacity has to be
	// confirmed before all follow it; in the steady state it is near 1.
	hiccup = 0.8
	// draw receivers are enough for a median.
	draw = 16
	// censusGap is the least time between two looks at a group of more than draw.
	censusGap = 20 * time.Millisecond
)

// group is all receivers.
type group struct {
	byID  map[uint64]*receiver
	all   []*receiver
	at    time.Time // of the last census
	swept time.Time
	sink  float64 // the slowest disk that lags, 0 is none
	fair  float64 // the lowest fair share, 0 is none
	// spread is how bursty the losses of all are.
	spread spread

	heard []*receiver // scratch
	cans  []float64   // scratch
}

// state is what the group as a whole says.
type state struct {
	bound    float64       // the rate that the slowest that is waited for can take, 0 if none is congested
	blur     float64       // by how much bound may be wrong, as a part
	queue    time.Duration // before its bottleneck
	unproven float64       // the part of packets that it loses as usual, but perhaps by congestion
	certain  bool          // bound is
	majority bool          // most are congested
	refuted  bool          // loss that the rate was lowered for has another cause
	fair     float64       // of the rate, 0 if nothing limits it
}

func (g *group) init() { g.byID = make(map[uint64]*receiver) }

// get returns receiver id, new if it was not known, nil if there are too many.
func (g *group) get(now time.Time, id uint64) *receiver {
	if r := g.byID[id]; r != nil {
		return r
	}
	if len(g.all) >= groupMost && now.Sub(g.swept) > time.Second {
		g.swept = now
		for _, r := range slices.Clone(g.all) {
			if now.Sub(r.heard) > gone {
				g.remove(r.id)
			}
		}
	}
	if len(g.all) >= groupMost {
		return nil
	}
	r := &receiver{id: id, index: len(g.all), heard: now, baseline: baseline{pool: &g.spread}}
	g.byID[id] = r
	g.all = append(g.all, r)
	return r
}

func (g *group) remove(id uint64) {
	r := g.byID[id]
	if r == nil {
		return
	}
	last := g.all[len(g.all)-1]
	g.all[r.index], last.index = last, r.index
	g.all = g.all[:len(g.all)-1]
	delete(g.byID, id)
}

// due reports whether it is time for a census.
func (g *group) due(now time.Time) bool {
	return len(g.all) <= draw || now.Sub(g.at) >= censusGap
}

// census looks at the receivers, and finds stragglers.
func (g *group) census(now time.Time, floor, rate float64) state {
	g.at = now
	g.listen(now)
	least, majority := g.median(rate, floor)
	s := state{majority: majority}
	g.sink, g.fair = 0, 0
	var first float64 // the most that one says who says it for the first time
	for _, r := range g.heard {
		s.refuted = s.refuted || r.refuted
		r.refuted = false
		if r.congested() && r.capacity < least {
			r.straggler = r.confirmed(now, confirmSinkTime)
			continue
		}
		g.fair = lower(g.fair, r.fair.rate())
		g.sink = lower(g.sink, r.sink)
		if r.run > 0 {
			first = max(first, r.capacity)
		}
		// One among many is not followed far down for a hiccup.
		if r.limited && (majority || r.capacity > hiccup*rate || r.confirmed(now, confirmTime)) {
			s.follow(now, r)
		}
	}
	s.fair = g.fair
	if s.bound == 0 && majority {
		s.bound, s.certain = first, len(g.heard) >= few
	}
	return s
}

// median returns the part of the heard ones' median capacity that makes a
// straggler, and whether most of them are congested.
func (g *group) median(rate, floor float64) (least float64, majority bool) {
	g.cans = g.cans[:0]
	congested := 0
	for _, r := range g.heard {
		g.cans = append(g.cans, r.can(rate))
		if r.congested() {
			congested++
		}
	}
	if len(g.cans) == 0 {
		return 0, false
	}
	slices.Sort(g.cans)
	return floor * g.cans[len(g.cans)/2], congested > len(g.cans)/2
}

// follow makes r the one that decides if it can take less than any before.
func (s *state) follow(now time.Time, r *receiver) {
	if s.bound == 0 || r.capacity < s.bound {
		s.bound, s.blur, s.queue, s.certain = r.capacity, r.blur, r.queue, true
		s.unproven = r.unproven(now)
	}
}

// listen fills heard with those that were heard lately, or all if few were.
func (g *group) listen(now time.Time) {
	for _, span := range []time.Duration{justNow, lately, gone} {
		g.heard = g.heard[:0]
		for _, r := range g.all {
			if !r.straggler && now.Sub(r.heard) <= span {
				g.heard = append(g.heard, r)
			}
		}
		if len(g.heard) >= min(len(g.all), draw) {
			return
		}
	}
}

// learnt notes which receivers the rate was just lowered for, and lets all show
// how they are now.
func (g *group) learnt(now time.Time, bound float64, proof bool) {
	for _, r := range g.heard {
		if r.capacity == 0 || r.capacity < bound {
			continue
		}
		if r.limited && r.capacity < 1.1*bound {
			r.knee, r.kneeAt = r.capacity, now
			if proof {
				r.provedAt, r.proving = now, true
			}
		}
		r.run, r.capacity, r.last, r.limited = 0, 0, 0, false
	}
}

// lower returns the lower of two values where 0 is none.
func lower(a, b float64) float64 {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}
