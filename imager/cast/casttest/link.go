package casttest

import (
	"math"
	"math/rand/v2"
	"time"
)

// Port is where packets wait for their turn on a wire.
type Port struct {
	// Rate in bits a second of IP packets; 0 is no limit.
	Rate int64
	// Queue is how many bytes wait at most; what comes then is dropped. 0 is
	// 256 KiB, a port's share of a simple switch.
	Queue int
}

// Link is what happens to packets on the way to or from one receiver.
// Probabilities are per packet.
type Link struct {
	// Port at the switch: only packets to the receiver wait there.
	Port
	// Loss drops packets to the receiver, FeedbackLoss those from it.
	Loss, FeedbackLoss float64
	// Burst is how many packets in a row are lost on average (a Gilbert model:
	// in the one state all are lost, in the other none). Losses that are
	// independent, the least, come with 0. No burst outlasts 20 ms of silence.
	Burst float64
	// Duplicate delivers a packet twice, Corrupt flips one of its bits.
	Duplicate, Corrupt float64
	// Delay of every packet; a part of them, Reorder, gets up to Jitter more.
	Delay, Jitter time.Duration
	Reorder       float64
}

// queue is what waits at a Port: it is empty again at free.
type queue struct{ free time.Time }

// pass returns when a packet of size bytes that came at a time has left; false
// if there was no room.
func (q *queue) pass(p Port, at time.Time, size int) (time.Time, bool) {
	if p.Rate == 0 {
		return at, true
	}
	if q.free.Before(at) {
		q.free = at
	}
	if q.free.Sub(at) > p.room() {
		return at, false
	}
	q.free = q.free.Add(p.takes(size))
	return q.free, true
}

// takes is how long size bytes are on the wire.
func (p Port) takes(size int) time.Duration {
	return time.Duration(float64(size) * 8 / float64(p.Rate) * float64(time.Second))
}

// room is the time that the longest queue takes.
func (p Port) room() time.Duration {
	if p.Queue > 0 {
		return p.takes(p.Queue)
	}
	return p.takes(256 << 10)
}

// wireSize is the size of an IPv4 packet with this UDP payload.
func wireSize(packet []byte) int { return len(packet) + 28 }

// losses decides which packets are lost. Instead of a number for each packet
// it draws how many pass and how many are lost in a row, both geometrically
// distributed, which is the same.
type losses struct {
	rate, burst float64 // what the rest was drawn for
	losing      bool
	left        int // packets until losing changes
	last        time.Time
}

// burstSilence is the silence after which it is forgotten whether packets were
// getting lost: bursts of losses are short also where packets are rare.
const burstSilence = 20 * time.Millisecond

// hit reports whether the next packet is lost.
func (l *losses) hit(now time.Time, rnd *rand.Rand, rate, burst float64) bool {
	if rate <= 0 || rate >= 1 {
		return rate >= 1
	}
	if rate != l.rate || burst != l.burst || burst > 0 && now.Sub(l.last) > burstSilence {
		*l = losses{rate: rate, burst: burst, losing: rnd.Float64() < rate}
		l.left = l.draw(rnd)
	}
	l.last = now
	for l.left == 0 {
		l.losing = !l.losing
		l.left = l.draw(rnd)
	}
	l.left--
	return l.losing
}

func (l *losses) draw(rnd *rand.Rand) int {
	mean := max(l.burst, 1/(1-l.rate)) // of packets lost in a row
	if !l.losing {
		mean *= (1 - l.rate) / l.rate
	}
	// At least one, each followed by another with probability 1 - 1/mean.
	return 1 + int(math.Log(1-rnd.Float64())/math.Log(1-1/mean))
}
