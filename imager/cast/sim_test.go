package cast_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"huck/imager/cast"
	"huck/imager/cast/casttest"
)

// world is a network with one sender of one image.
type world struct {
	*casttest.Network
	t     *testing.T
	image *casttest.Image
	bytes uint64 // IP bytes the senders sent
}

func newWorld(t *testing.T, seed uint64, chunks, min, max int, cfg cast.SenderConfig) *world {
	w := &world{Network: casttest.NewNetwork(seed), t: t}
	w.image = casttest.NewImage(w.Rand(), chunks, min, max)
	w.Snoop = func(p []byte) { w.bytes += uint64(len(p)) + 28 }
	w.start(cfg)
	return w
}

func (w *world) start(cfg cast.SenderConfig) {
	if _, err := w.Start(w.image, cfg); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) join(want func(uint32) bool, link casttest.Link) *casttest.Receiver {
	r, err := w.Join(w.Sender.Channel, casttest.NewSink(w.image, want), link)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// finish runs until all are complete and returns the time it took.
func (w *world) finish(limit time.Duration) time.Duration {
	w.t.Helper()
	start := w.Now
	ok := w.Run(limit, w.Complete)
	for i, r := range w.Receivers {
		if r.Err() != nil || r.Sink.Wrong > 0 || r.Sink.Twice > 0 {
			w.t.Errorf("receiver %d: error %v, %d wrong, %d twice", i, r.Err(), r.Sink.Wrong, r.Sink.Twice)
		}
		if !ok {
			w.t.Errorf("receiver %d: %d chunks left: %+v", i, r.Sink.Left(), r.Stats())
		}
	}
	if !ok {
		w.t.Fatalf("not complete after %v: %+v", limit, w.Sender.Stats())
	}
	return w.Now.Sub(start)
}

// ratio is what was sent over the encoded image.
func (w *world) ratio() float64 { return float64(w.bytes) / float64(w.image.Bytes()) }

const lan = 200 * time.Microsecond

func TestBytes(t *testing.T) {
	const region = 256 << 10
	for _, c := range []struct {
		name      string
		receivers int
		chunks    int
		min, max  int
		rate      int64
		loss      float64
		skew      time.Duration
		bar       float64
	}{
		{"one", 1, 60, region, region, 80e6, 0, 0, 1.055},
		{"two", 2, 60, region, region, 80e6, 0, 0, 1.055},
		{"two 2 %", 2, 100, region, region, 80e6, 0.02, 0, 1.10},
		{"two 2 % mixed", 2, 200, 2000, region, 80e6, 0.02, 0, 1.12},
		{"two 2 % small", 2, 1000, 500, 9000, 80e6, 0.02, 0, 1.30},
		{"four 10 %", 4, 60, region, region, 80e6, 0.10, 0, 1.23},
		{"sixteen 1 %", 16, 60, region, region, 80e6, 0.01, 0, 1.10},
		{"fifty 1 %", 50, 60, region, region, 80e6, 0.01, 0, 1.12},
		{"slow link", 2, 20, region, region, 2e6, 0.02, 0, 1.12},
		{"fast link", 2, 250, region, region, 1e9, 0.01, 0, 1.10},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 7, c.chunks, c.min, c.max, cast.SenderConfig{Rate: c.rate})
			for range c.receivers {
				w.join(nil, casttest.Link{Loss: c.loss, FeedbackLoss: c.loss, Delay: lan})
			}
			took := w.finish(10 * time.Minute)
			ideal := time.Duration(float64(w.bytes*8) / float64(c.rate) * float64(time.Second))
			st := w.Sender.Stats()
			t.Logf("ratio %.3f, %v (%.2f of the rate), %+v", w.ratio(), took, ideal.Seconds()/took.Seconds(), st)
			t.Logf("%+v", w.Receivers[0].Stats())
			if w.ratio() > c.bar {
				t.Errorf("sent %.3f times the image, want at most %.3f", w.ratio(), c.bar)
			}
		})
	}
}

// crowd is a scenario with the k of a region that does not shrink, which loses
// packets independently.
func crowd(receivers, chunks int, loss float64) casttest.Scenario {
	return casttest.Scenario{
		Name: fmt.Sprintf("%d receivers, %g lost", receivers, loss), Seed: 60,
		Receivers: receivers, Chunks: chunks, Symbol: 16,
		Config: cast.SenderConfig{Rate: 100e6},
		Link:   casttest.Link{Loss: loss, FeedbackLoss: loss, Delay: lan},
	}
}

// TestCrowd: bytes and feedback stay flat with thousands of receivers.
func TestCrowd(t *testing.T) {
	for _, c := range []struct {
		casttest.Scenario
		bytes, feedback float64 // most; feedback in any one second
	}{
		{crowd(1000, 60, 0), 1.055, 2000},
		{crowd(1000, 60, 0.01), 1.12, 2000},
		{crowd(5000, 16, 0.05), 1.22, 2000},
		{crowd(2000, 16, 0.10), 1.30, 1500},
	} {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			r, err := c.Run()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%.3f times the bytes, %.2f of the ideal time, %.0f feedback packets a second, %.0f at most", r.Ratio(), r.Slowdown(), r.Feedback, r.Most)
			if r.Ratio() > c.bytes {
				t.Errorf("sent %.3f times the image, want at most %.3f", r.Ratio(), c.bytes)
			}
			if r.Most > c.feedback {
				t.Errorf("%.0f feedback packets in a second, want at most %.0f", r.Most, c.feedback)
			}
		})
	}
}

// TestSkew: of machines that start a second apart, each joiner costs the group
// what it missed and not more.
func TestSkew(t *testing.T) {
	for _, loss := range []float64{0, 0.01} {
		s := crowd(4, 360, loss) // 8 s
		s.Vary = func(i int, j *casttest.Joiner) { j.After = time.Duration(i) * time.Second }
		r, err := s.Run()
		if err != nil {
			t.Fatal(err)
		}
		missed := 3 * 100e6 / 8.0 // what was sent before the last one came
		bar := 1.06 * (r.Encoded*casttest.HeaderFactor*casttest.Needed(187, 4, loss, 0) + missed)
		t.Logf("%g lost: %.3f times the image and what the last one missed", loss, 1.06*r.Bytes/bar)
		if r.Bytes > bar {
			t.Errorf("%g lost: %.0f bytes, want at most %.0f", loss, r.Bytes, bar)
		}
	}
}

// TestSlowPort: a receiver whose port has 15 % of the sender's link is left
// behind before it slows the others, where the host queues and does not refuse.
func TestSlowPort(t *testing.T) {
	const link = 1_000_000_000
	s := crowd(4, 512, 0)
	s.Seed, s.Symbol, s.Decoded, s.Config.Rate = 1013, 1408, 1, 100*link
	s.Host = casttest.Port{Rate: link, Queue: 1 << 20}
	s.Vary = func(i int, j *casttest.Joiner) {
		j.Link.Rate = link
		if i == 0 {
			j.Link.Rate = link * 15 / 100
		}
	}
	r, err := s.Run()
	if err != nil {
		t.Fatal(err)
	}
	others, alone := slices.Max(r.Took[1:]).Seconds(), r.Encoded*casttest.HeaderFactor*8/link
	t.Logf("the others took %.2f s, the link alone %.2f s; %.3f times the bytes", others, alone, r.Ratio())
	if r.Left != 1 || others > 1.7*alone {
		t.Errorf("%d left, the others took %.2f times what the link needs", r.Left, others/alone)
	}
}
