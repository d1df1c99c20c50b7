package pace

import (
	"math"
	"time"
)

const (
	// fairTime is how long losses are remembered for the fair share: several
	// sawteeth of a TCP flow.
	fairTime = 2 * time.Second
	// fairRTT is the shortest round trip believed: what timers and batches blur.
	fairRTT = time.Millisecond
	// eventRTTs round trips have one loss event at most: the sawtooth of a window
	// of eight packets.
	eventRTTs = 4
	// fairFactor is that of the TCP equation: the mean rate of a sawtooth between
	// W/2 and W packets a round trip, one packet more each, is 1.5·T/RTT² packets a
	// second, T the time between two losses.
	fairFactor = 1.5
)

// fair is the rate of a TCP flow with the same losses and round trips.
type fair struct {
	events float64 // loss events a second
	rtt    float64 // seconds
	packet float64 // bits
	lossy  bool    // the last stretch was
}

// note adds a stretch.
func (f *fair) note(m *measure, rtt time.Duration) {
	t := max(rtt, fairRTT).Seconds()
	if f.rtt == 0 {
		f.rtt = t
	}
	send := m.send.Seconds()
	f.rtt += (t - f.rtt) / 8
	f.packet = m.bits / m.packets
	// Losses within a few round trips are one event: a queue that overflows drops
	// several packets of a burst, and TCP answers them once.
	events := min(m.lost, max(1, send/(eventRTTs*f.rtt)))
	if send < eventRTTs*f.rtt && f.lossy {
		events = 0
	}
	f.lossy = m.lost > 0
	weight := 1 - math.Exp(-send/fairTime.Seconds())
	f.events += weight * (events/send - f.events)
}

// rate is the fair share in bit/s, 0 if nothing limits it.
func (f *fair) rate() float64 {
	if f.events <= 0 || f.rtt == 0 {
		return 0
	}
	return fairFactor * f.packet / (f.events * f.rtt * f.rtt)
}
