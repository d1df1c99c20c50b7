package casttest

import "math"

// HeaderFactor is what headers add to the bytes of a full symbol.
const HeaderFactor = float64(fullPacket) / fullSymbol

// unlikely is where sums over a distribution's tail end.
const unlikely = 1e-9

// Needed returns how many symbols of a chunk with k source symbols a sender
// has to send, on average and over k, until n receivers that each lose a part
// of them have k: the expected maximum over the receivers. It is what no code
// and no protocol can do better than. Losses come burst in a row as in Link.
func Needed(k, n int, loss, burst float64) float64 {
	if loss <= 0 {
		return 1
	}
	burst = max(burst, 1/(1-loss))
	leave, enter := 1/burst, loss/(burst*(1-loss))
	// got[c] is the probability that c symbols have come and the next one
	// will, lost[c] that it will not.
	got, lost := make([]float64, k), make([]float64, k)
	got[0], lost[0] = 1-loss, loss
	sum, done := 0.0, 0.0
	for {
		rest := 1 - math.Pow(min(done, 1), float64(n))
		sum += rest
		if rest < unlikely {
			return sum / float64(k)
		}
		done += got[k-1]
		for c := k - 1; c >= 0; c-- {
			came := 0.0
			if c > 0 {
				came = got[c-1]
			}
			was := lost[c]
			got[c] = came*(1-enter) + was*leave
			lost[c] = came*enter + was*(1-leave)
		}
	}
}

// NeededOf is Needed for independent losses where there are only so many
// different symbols, sent in turn again and again.
func NeededOf(symbols, k, n int, loss float64) float64 {
	sum := 0.0
	for m := 0; ; m++ {
		// The first m mod symbols of them were sent once more than the others.
		times, more := m/symbols, m%symbols
		miss := math.Pow(loss, float64(times))
		often, seldom := binomial(more, 1-miss*loss), binomial(symbols-more, 1-miss)
		rest := 1 - math.Pow(min(atLeast(often, seldom, k), 1), float64(n))
		sum += rest
		if rest < unlikely {
			return sum / float64(k)
		}
	}
}

// binomial returns the probabilities of 0 to n hits.
func binomial(n int, p float64) []float64 {
	out := make([]float64, n+1)
	switch {
	case p <= 0:
		out[0] = 1
		return out
	case p >= 1:
		out[n] = 1
		return out
	}
	all, _ := math.Lgamma(float64(n + 1))
	for i := range out {
		hits, _ := math.Lgamma(float64(i + 1))
		misses, _ := math.Lgamma(float64(n - i + 1))
		out[i] = math.Exp(all - hits - misses + float64(i)*math.Log(p) + float64(n-i)*math.Log1p(-p))
	}
	return out
}

// atLeast returns the probability that two independent counts reach k.
func atLeast(a, b []float64, k int) float64 {
	tail := make([]float64, len(b)+1) // tail[i]: b counts at least i
	for i := len(b) - 1; i >= 0; i-- {
		tail[i] = tail[i+1] + b[i]
	}
	p := 0.0
	for i, x := range a {
		if rest := k - i; rest <= 0 {
			p += x
		} else if rest < len(tail) {
			p += x * tail[rest]
		}
	}
	return p
}
