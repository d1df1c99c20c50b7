package cast

import (
	"math/bits"
	"time"

	"huck/imager/cast/pace"
	"huck/imager/cast/protocol"
)

const (
	// reportGap is the least time between two reports of a receiver: enough
	// packets to tell loss from chance, and four of them find a tenfold slower
	// link in half a second.
	reportGap = 100 * time.Millisecond
	// rampGap is that while the rate doubles with every round of reports, which
	// from 20 Mbit/s to a fast link's is most of the time that a sender loses.
	rampGap = 60 * time.Millisecond
	// reportLoad is how many reports a second a group may make in all.
	reportLoad = 400
	// reportMax is the longest time between two reports, which a group of 2000
	// receivers reaches.
	reportMax = 5 * time.Second
	// censusGap is how often the receivers are counted.
	censusGap = 250 * time.Millisecond
	// absence is how long a receiver may be silent before it counts as gone;
	// so may be four reports.
	absence = 2 * time.Second
	// expectTime is how long receivers that were told of the channel are
	// expected, counted from the last one: what they take to join.
	expectTime = 5 * time.Second
	// tellGap is the least time between two words to one straggler.
	tellGap = 100 * time.Millisecond
	// rateStep is the part by which the rate has to fall for an announcement of
	// its own: receivers that are about to report the same see it and do not.
	rateStep = 0.05
)

// Expect tells that one more receiver has been told of the channel: until it
// is heard, a group's size would be unknown when it matters most. Where one comes,
// the next may be near: data that is held back waits for that one, too.
func (s *Sender) Expect(now time.Time) {
	s.expected++
	s.expectedAt = now
	s.members = max(s.members, s.expected)
	if !s.hold.IsZero() {
		s.hold = now.Add(min(s.cfg.Gather, s.holdEnd.Sub(now)))
	}
}

// meet counts a receiver that was not there. A group that turns out to be twice
// as large has to know it soon.
func (s *Sender) meet(now time.Time, p *peer) {
	if p.present {
		return
	}
	p.present = true
	s.present++
	s.members = max(s.members, s.present)
	if log2(s.members) > s.announcedMembers {
		s.announceBy(now, s.announced.Add(s.gap()))
	}
}

// reportEvery is how often each receiver is to report.
func (s *Sender) reportEvery() time.Duration {
	gap := reportGap
	if s.pace.Ramping() {
		gap = rampGap
	}
	return min(max(gap, time.Duration(s.members)*time.Second/reportLoad), reportMax)
}

// report hands what a receiver saw to the pace; false is a report that cannot
// be.
func (s *Sender) report(now time.Time, body []byte) bool {
	r, err := protocol.ParseReport(body)
	if err != nil || r.Last > s.counter {
		return false
	}
	s.stats.Reports++
	first, ok := s.history.find(r.First)
	last, ok2 := s.history.find(r.Last)
	if !ok || !ok2 || first.counter == last.counter {
		return true // of what was sent too long ago, or all at once
	}
	packet := float64(last.bytes-first.bytes) / float64(last.counter-first.counter)
	s.pace.Sample(now, pace.Sample{
		Receiver: r.Receiver,
		Sent:     int(r.Last - r.First),
		Received: int(r.Received),
		Bytes:    int(packet * float64(r.Last-r.First)),
		SendTime: last.time.Sub(first.time),
		RecvTime: r.Elapsed,
		RTT:      now.Sub(last.time) - r.Age,
		SinkRate: int64(r.Sink) * 1000,
	})
	return true
}

// adapt takes the rate for now from the pace, and counts who is there.
func (s *Sender) adapt(now time.Time) {
	if now.Sub(s.counted) >= censusGap {
		s.counted = now
		s.count(now)
	}
	old := s.rate
	s.rate = s.pace.Rate(now)
	if float64(s.rate) < float64(old)*(1-rateStep) && s.Active() {
		s.announceBy(now, s.announced.Add(s.gap()))
	}
}

// count counts the receivers, and forgets those that have gone.
func (s *Sender) count(now time.Time) {
	var gone []uint64
	s.present, gone = s.peers.census(now.Add(-max(absence, 4*s.reportEvery())))
	if now.Sub(s.expectedAt) > expectTime {
		s.expected = 0
	}
	s.members = max(s.present, s.expected)
	for _, id := range gone {
		s.pace.Forget(id)
	}
	if !s.Active() {
		s.pace.Idle(now)
	}
	s.parity.settle(now.Add(-heartbeat - 4*spread(log2(s.members))))
}

// log2 returns the binary logarithm, rounded up; 0 for less than 2.
func log2(n int) uint8 { return uint8(bits.Len(uint(max(n, 1) - 1))) }

// tellLeave queues the word to a straggler that it is one.
func (s *Sender) tellLeave(now time.Time, p *peer) {
	if now.Sub(p.told) < tellGap || len(s.leave) == protocol.MaxEntries {
		return
	}
	if p.told.IsZero() {
		s.stats.Stragglers++
	}
	p.told = now
	s.leave = append(s.leave, p.id)
}

// stragglers appends the message that tells receivers to leave.
func (s *Sender) stragglers(buf []byte) []byte {
	m := protocol.Straggler{Receivers: s.leave}
	at := len(buf)
	buf = s.seal(must(m.AppendBinary(s.header(protocol.TypeStraggler, buf))), at)
	s.leave = s.leave[:0]
	return buf
}
