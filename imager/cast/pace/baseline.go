package pace

import "math"

const (
	// spreadFirst, spreadMost bound the spread: bursts of 1.5 and of 32 packets.
	spreadFirst = 2
	spreadMost  = 64
	// usualMost is the most loss that is taken for chance.
	usualMost = 0.3
	// baselineSpan is how many stretches the baseline is the mean of.
	baselineSpan = 20
	// lossLeast is the least loss in excess of the usual that may be congestion.
	lossLeast = 0.01
	// sigmas and fewPackets are the noise allowed for: of a normal distribution,
	// and of small counts.
	sigmas     = 3
	fewPackets = 3
	// unsure is the number of packets below which the usual loss is unknown: two
	// stretches at startRate.
	unsure = 256
	// spreadPace is how many stretches a receiver's spread is the mean of, poolPace
	// the group's, and spreadJump how much above it one may count: twice as much
	// after each is fast enough.
	spreadPace = 8
	poolPace   = 64
	spreadJump = 9
)

// spread is by how much the variance of losses exceeds a binomial one: they
// come in bursts.
type spread float64

// learn adds what a stretch showed to the mean of so many.
func (s *spread) learn(shown, pace float64) {
	have := float64(*s)
	*s += spread((min(shown, spreadJump*max(have, 1), spreadMost) - have) / pace)
}

// baseline is the loss that has nothing to do with the rate: the usual one.
type baseline struct {
	lost, packets float64 // counted lately
	// spread is its own, of which a few stretches tell little, and pool that of
	// all receivers: one of many would seem congested by chance all the time.
	spread spread
	pool   *spread
}

// part is the part of packets lost; of none, 1 % at most.
func (b *baseline) part() float64 {
	return min((b.lost+0.5)/(b.packets+50), usualMost)
}

// ratio is the part of n packets that arrived of what usually does.
func (b *baseline) ratio(n, lost float64) float64 {
	return min(1, (1-lost/n)/(1-b.part()))
}

// exceeded reports whether more were lost of n packets than usual and chance
// explain.
func (b *baseline) exceeded(n, lost float64) bool {
	return b.ratio(n, lost) < 1-lossLeast && lost > n*b.part()+b.noise(n)
}

// noise is how many packets more than usual may be lost of n by chance.
func (b *baseline) noise(n float64) float64 {
	p := b.part()
	v := float64(max(b.spread, *b.pool, spreadFirst)) * p * (1 - p) * n * (1 + n/max(b.packets, minPackets))
	return sigmas*math.Sqrt(v) + fewPackets
}

// vary learns the spread from a stretch of n packets.
func (b *baseline) vary(n, lost float64) {
	if b.packets < unsure {
		return
	}
	p := b.part()
	shown := (lost - n*p) * (lost - n*p) / (n*p*(1-p) + 1)
	b.spread.learn(shown, spreadPace)
	b.pool.learn(shown, poolPace)
}

// reset forgets all but a stretch.
func (b *baseline) reset(n, lost float64) { b.lost, b.packets = min(lost, usualMost*n), n }

// fewer reports whether less was lost than usual and chance explain.
func (b *baseline) fewer(n, lost float64) bool { return lost < n*b.part()-b.noise(n) }

// learn adds a stretch of n packets. What is far above the usual counts as far
// as chance may explain it.
func (b *baseline) learn(n, lost float64) {
	usual, noise := b.part()*n, b.noise(n)
	keep := min(1, baselineSpan*n/max(b.packets, 1))
	if b.packets < unsure {
		usual, noise = 0, usualMost*n
	} else if b.fewer(n, lost) {
		keep = min(keep, 0.5)
	}
	lost = min(lost, usual+noise)
	b.packets = b.packets*keep + n
	b.lost = b.lost*keep + lost
}
