package main

import "slices"

// summary is what a figure was over several runs.
type summary struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// summarise returns zeros for no values. Of an even number the median is the
// mean of the middle two.
func summarise(values []float64) summary {
	if len(values) == 0 {
		return summary{}
	}
	v := slices.Sorted(slices.Values(values))
	mid := len(v) / 2
	s := summary{Median: v[mid], Min: v[0], Max: v[len(v)-1]}
	if len(v)%2 == 0 {
		s.Median = (v[mid-1] + v[mid]) / 2
	}
	return s
}

// result is a trial and what its runs came to.
type result struct {
	trial
	Runs []outcome `json:"runs"`
	// Idle is what the imager has resident when it does nothing, in bytes.
	Idle int64 `json:"idle,omitempty"`
	// Verify is what decoding and verifying chunks takes of the receiver's CPU
	// seconds per 10⁹ bytes.
	Verify float64 `json:"verify,omitempty"`
}

// over summarises a figure over the runs.
func (r *result) over(f func(outcome) float64) summary {
	values := make([]float64, len(r.Runs))
	for i, o := range r.Runs {
		values[i] = f(o)
	}
	return summarise(values)
}

// complete reports how many receivers had it all, and how many should, in all runs.
func (r *result) complete() (complete, expected int) {
	for _, o := range r.Runs {
		complete += o.Complete
		expected += o.Expected
	}
	return complete, expected
}

// payload is what the server must send at least, in bytes.
func (r *result) payload() float64 { return float64(r.Size) * float64(max(1, r.Channels)) }

func (r *result) seconds() summary { return r.over(func(o outcome) float64 { return o.Seconds }) }

// sent is IP bytes per byte of payload.
func (r *result) sent() summary {
	return r.over(func(o outcome) float64 { return float64(o.Sent) / r.payload() })
}

// delivered is the gigabytes (10⁹ bytes) of payload that one receiver takes.
func (r *result) delivered() float64 { return float64(r.Size) / 1e9 }

func (r *result) serverCPU() summary {
	return r.over(func(o outcome) float64 { return o.ServerCPU / (r.payload() / 1e9) })
}

func (r *result) receiverCPU() summary {
	return r.over(func(o outcome) float64 { return o.ReceiverCPU / r.delivered() })
}

// results are all there are so far.
type results []*result

// like finds the result of the same scenario with these differences.
func (rs results) like(r *result, tool, role string, n int) *result {
	for _, o := range rs {
		if o.Scenario == r.Scenario && o.Tool == tool && o.Role == role && (o.N == n || n == 0) {
			return o
		}
	}
	return nil
}
