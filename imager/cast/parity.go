package cast

import (
	"math/bits"
	"time"

	"huck/imager/cast/protocol"
)

const (
	// enoughOften is how often the parity sent with a chunk is to be enough for
	// the whole group. Where more is needed, a repair follows, which costs time
	// but not more bytes; what nobody needed costs bytes.
	enoughOften = 0.75
	// parityStep is by how many symbols the estimate falls after a chunk that
	// needed no repair. It rises by more, in the ratio that makes it the
	// quantile enoughOften of what chunks needed.
	parityStep = 0.1
	parityRise = parityStep * enoughOften / (1 - enoughOften)
	// parityEager is how many times as far the estimate moves after the first
	// chunks; it falls to 1 with their number.
	parityEager = 10
	// maxTrials bounds the chunks that are judged at a time.
	maxTrials = 4096
)

// parity learns how many parity symbols to send with a whole chunk, for each
// class of sizes, from how many are asked for afterwards: the group's size, its
// losses and their burstiness are all in that.
type parity struct {
	extra  [10]float64 // by bits.Len(k)
	judged [10]int
	trials map[uint32]*trial
	order  []*trial // oldest first
}

// trial is a chunk that was sent whole and may be asked about.
type trial struct {
	chunk uint32
	class int
	sent  int // parity symbols sent with it
	asked int // the most that were asked for on top
	at    time.Time
}

func newParity() parity { return parity{trials: make(map[uint32]*trial)} }

// symbols returns how many parity symbols to send with a chunk of k source
// symbols.
func (p *parity) symbols(k int) int {
	return min(int(p.extra[bits.Len(uint(k))]+0.5), protocol.MaxSymbols-k)
}

// sent begins a trial: a chunk of k source symbols went out with n parity
// symbols.
func (p *parity) sent(now time.Time, chunk uint32, k, n int) {
	if old := p.trials[chunk]; old != nil {
		old.chunk = protocol.MaxChunks // judged all the same, but found no more
	}
	t := &trial{chunk: chunk, class: bits.Len(uint(k)), sent: n, at: now}
	p.trials[chunk] = t
	p.order = append(p.order, t)
	if len(p.order) > maxTrials {
		p.judge()
	}
}

// asked notes that n symbols of a chunk were asked for on top of what was sent.
func (p *parity) asked(chunk uint32, n int) {
	if t := p.trials[chunk]; t != nil {
		t.asked = max(t.asked, n)
	}
}

// settle judges the trials that nobody will ask about any more: those that
// ended before.
func (p *parity) settle(before time.Time) {
	for len(p.order) > 0 && p.order[0].at.Before(before) {
		p.judge()
	}
}

// judge moves the estimate by the oldest trial.
func (p *parity) judge() {
	t := p.order[0]
	p.order = p.order[1:]
	if p.trials[t.chunk] == t {
		delete(p.trials, t.chunk)
	}
	eager := max(1, parityEager/float64(1+p.judged[t.class]))
	p.judged[t.class]++
	e := &p.extra[t.class]
	if more := float64(t.sent+t.asked) - *e; t.asked > 0 && more > 0 {
		*e += min(more, parityRise*eager)
	} else if t.asked == 0 {
		*e = max(0, *e-parityStep*eager)
	}
}
