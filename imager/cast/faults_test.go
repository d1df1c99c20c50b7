package cast_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"huck/imager/cast"
	"huck/imager/cast/casttest"
)

const region = 256 << 10

func TestLateJoiner(t *testing.T) {
	for _, loss := range []float64{0, 0.02} {
		t.Run(fmt.Sprint(loss), func(t *testing.T) {
			w := newWorld(t, 1, 160, region, region, cast.SenderConfig{Rate: 80e6})
			link := casttest.Link{Loss: loss, FeedbackLoss: loss, Delay: lan}
			first := w.join(nil, link)
			w.Run(time.Minute, func() bool { return first.Sink.Left() <= 80 })
			second := w.join(nil, link)
			// The late one slows nobody: the first is done in its time.
			w.Run(time.Minute, func() bool { return !first.Finished.IsZero() })
			if left := second.Sink.Left(); left > 82 {
				t.Errorf("the second missed %d chunks, 80 flew by before it", left)
			}
			w.finish(time.Minute)
			t.Logf("ratio %.3f", w.ratio())
			if w.ratio() > 1.5*(1.05+2*loss) {
				t.Errorf("sent %.3f times the image", w.ratio())
			}
		})
	}
}

// TestManyJoiners: joiners at any time share what is sent.
func TestManyJoiners(t *testing.T) {
	w := newWorld(t, 2, 100, region, region, cast.SenderConfig{Rate: 80e6})
	for i := range 8 {
		w.After(time.Duration(i)*250*time.Millisecond, func() { w.join(nil, casttest.Link{Loss: 0.01, Delay: lan}) })
	}
	w.Run(time.Second*2, func() bool { return len(w.Receivers) == 8 })
	w.finish(time.Minute)
	missed := 1.75 * 10e6 / 1.05 / float64(w.image.Bytes())
	t.Logf("ratio %.3f, the last missed %.3f", w.ratio(), missed)
	if bar := 1.10 * (1 + missed); w.ratio() > bar {
		t.Errorf("sent %.3f times the image, want at most %.3f", w.ratio(), bar)
	}
}

// TestGather: machines that come one after the other begin together, and one
// that is alone waits for Gather; so do many, four times as long at most.
func TestGather(t *testing.T) {
	const gather = 250 * time.Millisecond
	for name, c := range map[string]struct {
		joins int
		gap   time.Duration
		waits [2]time.Duration // until the first data, at least and at most
		ratio float64
	}{
		"alone":       {1, 0, [2]time.Duration{gather, gather * 3 / 2}, 1.055},
		"three":       {3, 200 * time.Millisecond, [2]time.Duration{gather + 400*time.Millisecond, gather*3/2 + 400*time.Millisecond}, 1.055},
		"without end": {8, 200 * time.Millisecond, [2]time.Duration{4 * gather, 9 * gather / 2}, 1.35},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3, 60, region, region, cast.SenderConfig{Rate: 80e6, Gather: gather})
			start := w.Now
			for i := range c.joins {
				w.After(time.Duration(i)*c.gap, func() { w.join(nil, casttest.Link{Delay: lan}) })
			}
			w.Run(time.Minute, func() bool { return w.bytes > 60<<10 })
			if took := w.Now.Sub(start); took < c.waits[0] || took > c.waits[1] {
				t.Errorf("data after %v, want from %v to %v", took, c.waits[0], c.waits[1])
			}
			w.Run(time.Minute, func() bool { return len(w.Receivers) == c.joins })
			w.finish(time.Minute)
			if w.ratio() > c.ratio {
				t.Errorf("sent %.3f times the image", w.ratio())
			}
		})
	}
}

// TestMapFirst: parts of the chunk map go at once, before chunks that wait for
// company, and later before those that are queued.
func TestMapFirst(t *testing.T) {
	const gather = 500 * time.Millisecond
	w := newWorld(t, 9, 63, region, region, cast.SenderConfig{Rate: 80e6})
	w.image.MapParts = 3
	w.start(cast.SenderConfig{Rate: 80e6, Gather: gather})
	isPart, isChunk := func(n uint32) bool { return n >= 60 }, func(n uint32) bool { return n < 60 }
	begin, first := w.Now, w.join(isPart, casttest.Link{Delay: lan})
	w.Run(time.Minute, func() bool { return first.Sink.Left() == 0 })
	if took := w.Now.Sub(begin); took > gather {
		t.Errorf("the map came after %v", took)
	}
	planned := w.join(isChunk, casttest.Link{Delay: lan})
	w.Run(time.Minute, func() bool { return planned.Sink.Left() < 60 })
	if took := w.Now.Sub(begin); took < gather || took > gather*2 { // it counts as a newcomer
		t.Errorf("the first chunk came after %v", took)
	}
	w.Run(time.Minute, func() bool { return w.bytes > 20*region })
	late, sent, start := w.join(isPart, casttest.Link{Delay: lan}), w.bytes, w.Now
	w.Run(time.Minute, func() bool { return late.Sink.Left() == 0 })
	took, ours := w.Now.Sub(start), float64(w.bytes-sent)
	if busy := 80e6 / 8 * took.Seconds(); took > 300*time.Millisecond || ours < busy*0.8 {
		t.Errorf("the map came after %v, in which %.0f bytes went out of %.0f", took, ours, busy)
	}
	w.finish(time.Minute)
	if r := w.ratio(); r > 1.055*66/63 { // the map went twice
		t.Errorf("sent %.3f times the image", r)
	}
}

// TestPartialWants: only what somebody needs is sent.
func TestPartialWants(t *testing.T) {
	w := newWorld(t, 4, 300, 1000, region, cast.SenderConfig{Rate: 80e6})
	wants := []func(uint32) bool{
		func(n uint32) bool { return n%7 == 0 },
		func(n uint32) bool { return n%5 == 0 },
	}
	union := 0
	for n, b := range w.image.Encoded {
		if n%7 == 0 || n%5 == 0 {
			union += len(b)
		}
	}
	for _, want := range wants {
		w.join(want, casttest.Link{Delay: lan})
	}
	w.finish(time.Minute)
	if got := float64(w.bytes) / float64(union); got > 1.08 {
		t.Errorf("sent %.3f times what was needed", got)
	}
}

// TestRestart: the sender dies; another takes over, with other keys and no
// memory, and continues rather than repeats. They find it within 2 s of each
// other, so it gathers them.
func TestRestart(t *testing.T) {
	w := newWorld(t, 5, 120, region, region, cast.SenderConfig{Rate: 80e6})
	for range 3 {
		w.join(nil, casttest.Link{Loss: 0.02, FeedbackLoss: 0.02, Delay: lan})
	}
	w.Run(time.Minute, func() bool { return w.Receivers[0].Sink.Left() <= 60 })
	w.Kill()
	w.Run(3*time.Second, func() bool { return false })
	w.start(cast.SenderConfig{Rate: 80e6, Gather: 2 * time.Second})
	w.finish(time.Minute)
	t.Logf("ratio %.3f", w.ratio())
	if w.ratio() > 1.12 {
		t.Errorf("sent %.3f times the image", w.ratio())
	}
	for i, r := range w.Receivers {
		if n := r.Stats().Refreshes; n == 0 || n > 4 {
			t.Errorf("receiver %d refreshed %d times in 3 s", i, n)
		}
	}
}

// TestRestartNoticed: a sender that was restarted at once is noticed by what
// it sends, not by silence.
func TestRestartNoticed(t *testing.T) {
	w := newWorld(t, 6, 60, region, region, cast.SenderConfig{Rate: 80e6})
	w.join(nil, casttest.Link{Delay: lan})
	w.Run(time.Minute, func() bool { return w.Receivers[0].Sink.Left() <= 50 })
	w.start(cast.SenderConfig{Rate: 80e6})
	w.join(nil, casttest.Link{Delay: lan}) // knows the new session
	w.Run(900*time.Millisecond, func() bool { return false })
	if w.Receivers[0].Stats().Refreshes == 0 {
		t.Error("no refresh though another session is on the group")
	}
	w.finish(time.Minute)
}

// TestSlowSink: a receiver alone whose disk is slow is sent what it can take,
// and nothing twice.
func TestSlowSink(t *testing.T) {
	w := newWorld(t, 7, 200, region, region, cast.SenderConfig{Rate: 400e6})
	r := w.join(nil, casttest.Link{Delay: lan})
	r.SinkRate = 10e6
	took := w.finish(time.Minute)
	t.Logf("ratio %.3f in %v: %+v", w.ratio(), took, r.Stats())
	if w.ratio() > 1.06 || r.Stats().Dropped > 0 {
		t.Errorf("sent %.3f times the image, %d symbols dropped", w.ratio(), r.Stats().Dropped)
	}
	if ideal := float64(w.image.Bytes()) / 10e6; took.Seconds() > 1.1*ideal {
		t.Errorf("took %v, the disk alone %.1f s", took, ideal)
	}
}

// TestSlowSinkBeside: a receiver with a far slower disk is told to leave, and
// does not slow the other.
func TestSlowSinkBeside(t *testing.T) {
	took := func(others int) time.Duration {
		w := newWorld(t, 8, 800, region, region, cast.SenderConfig{Rate: 400e6})
		for range others {
			w.join(nil, casttest.Link{Delay: lan}).SinkRate = 5e6
		}
		fast := w.join(nil, casttest.Link{Delay: lan})
		start := w.Now
		if !w.Run(time.Minute, func() bool { return !fast.Finished.IsZero() }) {
			t.Fatalf("not complete with %d beside: %+v", others, fast.Stats())
		}
		for _, slow := range w.Receivers[:others] {
			if !errors.Is(slow.Err(), cast.ErrStraggler) {
				t.Errorf("the slow one's error is %v", slow.Err())
			}
		}
		t.Logf("%d beside: ratio %.3f in %v", others, w.ratio(), w.Now.Sub(start))
		return fast.Finished.Sub(start)
	}
	if alone, beside := took(0), took(1); beside > alone*11/10 {
		t.Errorf("it takes %v, alone %v", beside, alone)
	}
}

// TestRoughNetwork: everything that networks do to packets.
func TestRoughNetwork(t *testing.T) {
	for seed := range uint64(5) {
		w := newWorld(t, 10+seed, 80, 500, region, cast.SenderConfig{Rate: 50e6})
		for range 4 {
			w.join(nil, casttest.Link{
				Loss: 0.05, FeedbackLoss: 0.3, Duplicate: 0.05, Corrupt: 0.02,
				Delay: time.Millisecond, Jitter: 3 * time.Millisecond, Reorder: 0.1,
			})
		}
		w.finish(5 * time.Minute)
		st := w.Receivers[0].Stats()
		if st.Rejected == 0 || st.Replayed == 0 {
			t.Errorf("nothing rejected or replayed: %+v", st)
		}
		t.Logf("ratio %.3f: %+v", w.ratio(), st)
		if w.ratio() > 1.3 {
			t.Errorf("sent %.3f times the image", w.ratio())
		}
	}
}

// TestDeparture: a sender whose receivers vanish falls silent after what was
// asked ahead.
func TestDeparture(t *testing.T) {
	w := newWorld(t, 20, 300, region, region, cast.SenderConfig{Rate: 80e6})
	r := w.join(nil, casttest.Link{Delay: lan})
	w.Run(time.Second, func() bool { return false })
	r.Gone = true
	before := w.bytes
	w.Run(time.Minute, func() bool { return false })
	if after := w.bytes - before; after > 20<<20 {
		t.Errorf("sent %d bytes to nobody", after)
	}
	before = w.bytes
	w.Run(time.Minute, func() bool { return false })
	if w.bytes != before {
		t.Error("an idle sender is not silent")
	}
}

// TestUnavailable: what the sender cannot read is told, the rest arrives.
func TestUnavailable(t *testing.T) {
	w := newWorld(t, 21, 50, region, region, cast.SenderConfig{Rate: 80e6})
	w.image.Broken[7], w.image.Broken[8] = true, true
	r := w.join(nil, casttest.Link{Loss: 0.02, Delay: lan})
	if !w.Run(time.Minute, func() bool { return r.Sink.Left() == 2 && len(r.Lost) == 2 }) {
		t.Fatalf("%d left, %v lost", r.Sink.Left(), r.Lost)
	}
	before := w.bytes
	w.Run(20*time.Second, func() bool { return false })
	if w.bytes-before > 5000 {
		t.Errorf("%d bytes sent about chunks that are not there", w.bytes-before)
	}
	w.image.Broken = nil // repaired
	w.finish(time.Minute)
}

// TestBadChannel: a sender whose chunks are not the image's is left.
func TestBadChannel(t *testing.T) {
	w := newWorld(t, 22, 50, 1000, region, cast.SenderConfig{Rate: 80e6})
	r := w.join(nil, casttest.Link{Delay: lan})
	for i := range w.image.Encoded {
		b := append([]byte(nil), w.image.Encoded[i]...)
		if i%10 == 3 {
			b[len(b)/2] ^= 1
		}
		w.image.Encoded[i] = b
	}
	good := casttest.NewImage(casttest.NewNetwork(22).Rand(), 50, 1000, region)
	r.Sink.Expect(good)
	if !w.Run(time.Minute, func() bool { return r.Err() != nil }) || !errors.Is(r.Err(), cast.ErrBadChannel) {
		t.Fatalf("error %v after %d wrong chunks", r.Err(), r.Sink.Wrong)
	}
	if len(r.Lost) != 3 || r.Stats().Bad != 3 {
		t.Errorf("lost %v, %d bad", r.Lost, r.Stats().Bad)
	}
}

func TestNoMulticast(t *testing.T) {
	w := newWorld(t, 23, 5, 1000, region, cast.SenderConfig{})
	r := w.join(nil, casttest.Link{Loss: 1})
	start := w.Now
	if !w.Run(time.Minute, func() bool { return r.Err() != nil }) || !errors.Is(r.Err(), cast.ErrNoMulticast) {
		t.Fatalf("error %v", r.Err())
	}
	if took := w.Now.Sub(start); took < 1500*time.Millisecond || took > 2*time.Second || r.Stats().Requests != 3 {
		t.Errorf("after %v and %d requests", took, r.Stats().Requests)
	}
}

// TestSilence: a network that stops carrying multicast (a switch that snoops
// and has no querier) is given up while the API still answers; a server that
// is down altogether is waited for.
func TestSilence(t *testing.T) {
	w := newWorld(t, 24, 100, region, region, cast.SenderConfig{Rate: 80e6})
	r := w.join(nil, casttest.Link{Delay: lan})
	w.Run(time.Second, func() bool { return false })
	s := w.Sender
	w.Sender = nil // deaf, and the API does not answer
	r.Link.Loss = 1
	w.Run(time.Minute, func() bool { return false })
	if r.Err() != nil {
		t.Fatalf("gave up on a server that is down: %v", r.Err())
	}
	w.Sender = s
	if !w.Run(20*time.Second, func() bool { return r.Err() != nil }) || !errors.Is(r.Err(), cast.ErrNoMulticast) {
		t.Fatalf("error %v", r.Err())
	}
}

// TestSlowSource: a store that takes its time is not mistaken for a network
// without multicast, and every request is answered within 100 ms.
func TestSlowSource(t *testing.T) {
	w := newWorld(t, 25, 5, region, region, cast.SenderConfig{})
	w.Sender.ReadTime = 5 * time.Second
	r := w.join(nil, casttest.Link{Delay: lan})
	took := w.finish(time.Minute)
	if r.Stats().Refreshes > 0 || took > 6*time.Second {
		t.Errorf("%v, %+v", took, r.Stats())
	}
}

// TestDeterministic: the same seed gives the same run.
func TestDeterministic(t *testing.T) {
	run := func() (uint64, time.Time) {
		w := newWorld(t, 30, 60, 500, region, cast.SenderConfig{Rate: 80e6})
		for range 3 {
			w.join(nil, casttest.Link{Loss: 0.05, FeedbackLoss: 0.05, Reorder: 0.1, Jitter: time.Millisecond, Delay: lan})
		}
		w.finish(time.Minute)
		return w.bytes, w.Now
	}
	b1, t1 := run()
	if b2, t2 := run(); b1 != b2 || !t1.Equal(t2) {
		t.Errorf("%d bytes until %v, then %d until %v", b1, t1, b2, t2)
	}
}
