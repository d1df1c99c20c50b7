package pace

import (
	"sort"
	"time"
)

const (
	// traceSize and traceGrain let the trace reach back 5 s at least, longer than
	// any stretch that a report covers, while it is as exact as a sender's timer.
	traceSize  = 1024
	traceGrain = 5 * time.Millisecond
)

// trace remembers what the rate was, so that a stretch that was sent slower
// than allowed is told from one that was sent at an older rate.
type trace struct {
	steps []step // a ring once it is full, the oldest at at
	at    int
}

// step says that the rate was rate from time on, before which sum bits might
// have been sent.
type step struct {
	time time.Time
	rate float64
	sum  float64
}

// set notes the rate from now on.
func (t *trace) set(now time.Time, rate float64) {
	last := t.last()
	if last != nil && (last.rate == rate || now.Before(last.time)) {
		return
	}
	if last != nil && now.Sub(last.time) < traceGrain {
		last.rate = rate
		return
	}
	s := step{now, rate, t.sum(now)}
	if len(t.steps) < traceSize {
		t.steps = append(t.steps, s)
		return
	}
	t.steps[t.at] = s
	t.at = (t.at + 1) % traceSize
}

func (t *trace) last() *step {
	if len(t.steps) == 0 {
		return nil
	}
	return &t.steps[(t.at+len(t.steps)-1)%len(t.steps)]
}

// sum is how many bits might have been sent until now; the oldest rate known
// stands for what was before.
func (t *trace) sum(now time.Time) float64 {
	n := len(t.steps)
	if n == 0 {
		return 0
	}
	i := sort.Search(n, func(i int) bool { return t.steps[(t.at+i)%n].time.After(now) })
	s := t.steps[(t.at+max(i-1, 0))%n]
	return s.sum + s.rate*now.Sub(s.time).Seconds()
}

// average is the mean rate from one time to another.
func (t *trace) average(from, to time.Time) float64 {
	if d := to.Sub(from).Seconds(); d > 0 {
		return (t.sum(to) - t.sum(from)) / d
	}
	return 0
}
