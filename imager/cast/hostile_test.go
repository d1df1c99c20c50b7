package cast_test

import (
	"bytes"
	"testing"
	"time"

	"huck/imager/cast"
	"huck/imager/cast/casttest"
)

// mutants are what an outsider can make of a packet: cut, longer, flipped bits,
// another session's, another type's.
func mutants(p []byte) [][]byte {
	out := [][]byte{nil, {}, p[:1], p[:16], p[:len(p)/2], p[:len(p)-1], append(bytes.Clone(p), 0), make([]byte, len(p)), make([]byte, 9300)}
	for _, at := range []int{0, 1, 2, 5, 6, 11, 12, 15, 16, 20, len(p) - 12, len(p) - 1} {
		q := bytes.Clone(p)
		q[at] ^= 0x10
		out = append(out, q)
	}
	return out
}

// TestHostilePackets: forged, truncated, foreign and replayed packets change
// nothing but a counter, at either end.
func TestHostilePackets(t *testing.T) {
	w := newWorld(t, 40, 60, 1000, region, cast.SenderConfig{Rate: 80e6})
	r := w.join(nil, casttest.Link{Loss: 0.02, Delay: lan})
	var data, requests [][]byte
	count := w.Snoop
	w.Snoop = func(p []byte) { count(p); data = append(data, bytes.Clone(p)) }
	w.Heard = func(p []byte) { requests = append(requests, bytes.Clone(p)) }
	w.Run(time.Minute, func() bool { return r.Sink.Left() <= 30 })

	before, sent := w.Sender.Stats(), w.bytes
	n := uint64(0)
	for _, p := range requests {
		for _, m := range append(mutants(p), p) {
			w.Sender.Packet(w.Now, m)
			n++
		}
	}
	for _, p := range data[:20] { // the sender's own words come back to it
		w.Sender.Packet(w.Now, p)
		n++
	}
	after := w.Sender.Stats()
	before.Rejected += n
	if after != before || w.bytes != sent {
		t.Errorf("after %d hostile packets the sender has\n%+v, want\n%+v", n, after, before)
	}

	was := r.Stats()
	n = 0
	for _, p := range data[len(data)-20:] {
		for _, m := range mutants(p) {
			r.Packet(w.Now, m)
			n++
		}
	}
	for _, p := range requests {
		r.Packet(w.Now, p)
		n++
	}
	was.Rejected += n
	was.Foreign = r.Stats().Foreign // some of them
	if now := r.Stats(); now != was {
		t.Errorf("after %d hostile packets the receiver has\n%+v, want\n%+v", n, now, was)
	}
	for _, p := range data[:len(data)-20] { // all seen, or older than the window, or lost when new
		r.Packet(w.Now, p)
	}
	if now := r.Stats(); now.Replayed < was.Replayed+uint64(len(data)*9/10) || now.Rejected != was.Rejected {
		t.Errorf("%d packets replayed: %+v", len(data), now)
	}
	if r.WantRefresh(w.Now) {
		t.Error("foreign packets make a receiver that hears its sender ask for the channel")
	}
	w.finish(time.Minute)
	if w.ratio() > 1.12 {
		t.Errorf("sent %.3f times the image", w.ratio())
	}
}

// TestRequestsOfOtherEpoch: what was recorded before a restart is of no use
// after it, even with the same secret.
func TestRequestsOfOtherEpoch(t *testing.T) {
	w := newWorld(t, 41, 60, 1000, region, cast.SenderConfig{Rate: 80e6})
	w.join(nil, casttest.Link{Delay: lan})
	var requests [][]byte
	w.Heard = func(p []byte) { requests = append(requests, bytes.Clone(p)) }
	w.finish(time.Minute)
	ch := w.Sender.Channel
	ch.Epoch++
	s, err := cast.NewSender(cast.SenderConfig{Channel: ch, Chunks: 60})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range requests {
		s.Packet(w.Now, p)
	}
	if st := s.Stats(); st.Requests != 0 || s.Active() || int(st.Rejected) != len(requests) {
		t.Errorf("%+v", st)
	}
}
