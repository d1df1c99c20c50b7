package main

import (
	"fmt"
	"time"
)

// bar is a figure and what it may be.
type bar struct {
	what  string
	limit float64
	// least says that the figure must be at least, not at most, the limit.
	least bool
	// figure returns the figure of a result, false if it has none, as where there is
	// nothing to compare with.
	figure func(r *result, all results) (float64, bool)
}

// verdict is a bar held against a result.
type verdict struct {
	Scenario string  `json:"scenario"`
	Tool     string  `json:"tool"`
	N        int     `json:"n"`
	What     string  `json:"what"`
	Figure   float64 `json:"figure"`
	Limit    float64 `json:"limit"`
	Least    bool    `json:"least,omitempty"`
	Held     bool    `json:"held"`
}

// String is a line for people.
func (v verdict) String() string {
	word, sign := "held  ", "at most"
	if !v.Held {
		word = "MISSED"
	}
	if v.Least {
		sign = "at least"
	}
	where := v.Scenario
	if v.N > 0 {
		where += fmt.Sprintf(" n=%d", v.N)
	}
	return fmt.Sprintf("%s  %s: %s %.3f, bar: %s %.3f", word, where, v.What, v.Figure, sign, v.Limit)
}

// judge holds a scenario's bars against huck's results. That every receiver is
// complete in every run is a bar of every scenario; where one is not, the
// others' figures say nothing.
func judge(s scenario, all results) []verdict {
	var verdicts []verdict
	for _, r := range all {
		if r.Scenario != s.name || r.Tool != "huck" {
			continue
		}
		bars := []bar{everyone}
		if complete, expected := r.complete(); r.Role == "" && complete == expected {
			bars = append(bars, s.bars...)
		}
		for _, b := range bars {
			f, ok := b.figure(r, all)
			if !ok {
				continue
			}
			what := b.what
			if r.Role != "" {
				what += " (" + r.Role + ")"
			}
			verdicts = append(verdicts, verdict{s.name, r.Tool, r.N, what, f, b.limit, b.least, b.least && f >= b.limit || !b.least && f <= b.limit})
		}
	}
	return verdicts
}

var everyone = bar{what: "receivers complete, part", limit: 1, least: true, figure: func(r *result, _ results) (float64, bool) {
	complete, expected := r.complete()
	return float64(complete) / float64(max(1, expected)), true
}}

func timeAgainstOne(limit float64) bar {
	return bar{what: "time / time of 1", limit: limit, figure: func(r *result, all results) (float64, bool) {
		one := all.like(r, r.Tool, "", 1)
		if one == nil || r.N == 1 {
			return 0, false
		}
		return r.seconds().Median / one.seconds().Median, true
	}}
}

func timeAgainst(role string, limit float64) bar {
	return bar{what: "time / time of \"" + role + "\"", limit: limit, figure: func(r *result, all results) (float64, bool) {
		base := compared(r, all, role)
		if base == nil {
			return 0, false
		}
		return r.seconds().Median / base.seconds().Median, true
	}}
}

func laterThan(role string, limit time.Duration) bar {
	return bar{what: "seconds later than \"" + role + "\"", limit: limit.Seconds(), figure: func(r *result, all results) (float64, bool) {
		base := compared(r, all, role)
		if base == nil {
			return 0, false
		}
		return r.seconds().Max - base.seconds().Median, true
	}}
}

// compared finds what ran with that role just before r.
func compared(r *result, all results, role string) *result {
	if base := all.like(r, r.Tool, role, r.N); base != nil {
		return base
	}
	return all.like(r, r.Tool, role, r.N-1) // without the odd one
}

func bytesPerPayload(limit float64) bar {
	return bar{what: "bytes sent / payload", limit: limit, figure: func(r *result, _ results) (float64, bool) {
		return r.sent().Median, true
	}}
}

func multicastPerPayload(limit float64) bar {
	return bar{what: "multicast bytes / payload", limit: limit, figure: func(r *result, _ results) (float64, bool) {
		return r.over(func(o outcome) float64 { return float64(o.SentMulticast) / r.payload() }).Median, true
	}}
}

// symbolHeaders is how many IP bytes carry one byte of payload at least: 68
// bytes of headers for 1408.
const symbolHeaders = 1 + 68.0/1408

func bytesWithMissed(limit float64) bar {
	return bar{what: "bytes sent / (payload + what the last joiner missed)", limit: limit, figure: func(r *result, _ results) (float64, bool) {
		return r.over(func(o outcome) float64 {
			return float64(o.Sent) / (r.payload() + float64(o.Missed)/symbolHeaders)
		}).Median, true
	}}
}

func within(limit time.Duration) bar {
	return bar{what: "seconds of the slowest run", limit: limit.Seconds(), figure: func(r *result, _ results) (float64, bool) {
		return r.seconds().Max, true
	}}
}

var linkUse = bar{what: "rate in the middle / link rate", limit: 0.95, least: true, figure: func(r *result, _ results) (float64, bool) {
	return r.over(func(o outcome) float64 { return o.Rate / float64(r.Rate) }).Median, true
}}

var memoryAboveIdle = bar{what: "MiB of a receiver above an idle process", limit: 96, figure: func(r *result, _ results) (float64, bool) {
	return r.over(func(o outcome) float64 { return float64(o.ReceiverMemory-r.Idle) / (1 << 20) }).Max, true
}}

var (
	senderCPU   = cpuAgainstUdpcast("sender's CPU per GB", func(r *result) float64 { return r.serverCPU().Median })
	receiverCPU = cpuAgainstUdpcast("receiver's CPU per GB, decode and hash apart,", func(r *result) float64 { return r.receiverCPU().Median - r.Verify })
)

func cpuAgainstUdpcast(what string, cpu func(*result) float64) bar {
	return bar{what: what + " / udpcast's", limit: 0.5, figure: func(r *result, all results) (float64, bool) {
		peer := all.like(r, "udpcast", r.Role, r.N)
		if peer == nil || cpu(peer) == 0 {
			return 0, false
		}
		return cpu(r) / cpu(peer), true
	}}
}

func flowShare(limit float64) bar {
	return bar{what: "TCP beside the channel / TCP alone", limit: limit, least: true, figure: func(r *result, _ results) (float64, bool) {
		return r.over(func(o outcome) float64 { return o.FlowBeside / max(1, o.FlowAlone) }).Median, true
	}}
}

func fairShares(limit float64) bar {
	return bar{what: "smaller share of two channels / larger", limit: limit, least: true, figure: func(r *result, _ results) (float64, bool) {
		return r.over(func(o outcome) float64 {
			if len(o.Shares) != 2 {
				return 0
			}
			a, b := float64(o.Shares[0]), float64(o.Shares[1])
			return min(a, b) / max(a, b)
		}).Median, true
	}}
}
