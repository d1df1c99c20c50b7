package cast

import (
	"testing"
	"time"

	"huck/imager/cast/protocol"
)

// TestParityLearns: what is sent ahead becomes enough for three chunks of four,
// and goes back to nothing when nothing is lost any more.
func TestParityLearns(t *testing.T) {
	p := newParity()
	now := time.Unix(0, 0)
	send := func(need int) {
		now = now.Add(10 * time.Millisecond)
		n := p.symbols(187)
		p.sent(now, 5, 187, n)
		if need > n {
			p.asked(5, need-n)
		}
		p.settle(now.Add(-50 * time.Millisecond)) // five chunks later
	}
	for i := range 500 {
		send([]int{1, 3, 5, 9}[i%4])
	}
	if n := p.symbols(187); n < 4 || n > 8 {
		t.Errorf("with 1, 3, 5 and 9 symbols needed in turn it sends %d ahead, want about 5", n)
	}
	if n := p.symbols(12); n != 0 {
		t.Errorf("chunks of another size get %d", n)
	}
	for range 100 {
		send(0)
	}
	if n := p.symbols(187); n != 0 {
		t.Errorf("after 100 chunks without loss it sends %d ahead", n)
	}
	for range 3 {
		send(60)
	}
	if n := p.symbols(187); n > 2 {
		t.Errorf("three chunks that one receiver joined in the middle of raise it to %d", n)
	}
}

// TestParityBounded: chunks that are sent faster than they are judged do not
// pile up, and there are never more symbols than numbers for them.
func TestParityBounded(t *testing.T) {
	p := newParity()
	for i := range 3 * maxTrials {
		p.sent(time.Unix(0, 0), uint32(i), 250, 0)
		p.asked(uint32(i), 255)
	}
	if len(p.order) > maxTrials || len(p.trials) > maxTrials {
		t.Errorf("%d trials, %d by number", len(p.order), len(p.trials))
	}
	if n := p.symbols(250); n != protocol.MaxSymbols-250 {
		t.Errorf("%d symbols beside 250", n)
	}
}

// TestHistory: a packet's time is the mark's it was sent under, also after the
// ring has gone round.
func TestHistory(t *testing.T) {
	var h history
	start := time.Unix(0, 0)
	for i := range uint64(2 * historySize) {
		at := start.Add(time.Duration(i) * 2 * time.Millisecond)
		h.note(at, 10*i, 1000*i)
		h.note(at.Add(time.Microsecond), 10*i+1, 1000*i+100)
	}
	last := uint64(2*historySize - 1)
	for _, i := range []uint64{last, last - 1, last - historySize + 1} {
		for _, c := range []uint64{10*i + 1, 10*i + 10} {
			m, ok := h.find(c)
			if !ok || m.counter != 10*i || m.bytes != 1000*i || m.time.Sub(start) != time.Duration(i)*2*time.Millisecond {
				t.Errorf("packet %d: %+v, %v", c, m, ok)
			}
		}
	}
	if m, ok := h.find(10); ok {
		t.Errorf("a packet of long ago: %+v", m)
	}
	if _, ok := new(history).find(1); ok {
		t.Error("an empty history knows a packet")
	}
}

// TestRecord: a request made before a long run ended counts on what of it was
// under way, also when a short run followed.
func TestRecord(t *testing.T) {
	rs := newRuns()
	send := func(first uint64, n int) {
		r := run{chunk: 1, k: 100, left: n}
		for i := range uint64(n) {
			r.sentSymbol(first + i)
		}
		rs.add(r)
	}
	if rs.get(1).after(3) != 0 || rs.get(1).latest().symbols != 0 {
		t.Error("something is remembered of nothing")
	}
	send(1, 100)
	send(150, 2)
	for seen, want := range map[uint64]int{0: 0, 60: 42, 100: 2, 149: 2, 150: 1, 151: 0} {
		if got := rs.get(1).after(seen); got != want {
			t.Errorf("after %d: %d symbols, want %d", seen, got, want)
		}
	}
	for i := range uint64(10) {
		send(1000+10*i, 1)
	}
	if got := rs.get(1).after(500); got != 4 {
		t.Errorf("of ten runs %d are remembered, want 4", got)
	}
}
