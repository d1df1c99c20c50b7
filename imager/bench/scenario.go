package main

import (
	"fmt"
	"strings"
	"time"
)

// scenario is a question about a network, and what must come out.
type scenario struct {
	name, about string
	// Defaults: numbers of receivers, MiB of the file, bits a second, runs.
	n    []int
	mib  int64
	rate int64
	runs int
	// only names the one tool that the question makes sense for, if it does.
	only string
	// trials returns what to run for one number of receivers, compared with
	// first; plain has tool, number, size and rate.
	trials func(plain trial) []trial
	bars   []bar
}

// just runs the plain trial alone, changed.
func just(change func(*trial)) func(trial) []trial {
	return func(t trial) []trial {
		change(&t)
		return []trial{t}
	}
}

// against runs a second trial first, to compare with; its role is named.
func against(role string, base, change func(*trial)) func(trial) []trial {
	return func(t trial) []trial {
		b := t
		b.Role = role
		base(&b)
		change(&t)
		return []trial{b, t}
	}
}

func unchanged(*trial) {}

const (
	mbit = 1_000_000
	gbit = 1000 * mbit
)

var scenarios = []scenario{
	{
		name: "scale", about: "1 to 80 receivers on a clean network, at a rate that one machine can bear for all of them",
		n: []int{1, 4, 16, 32, 80}, mib: 128, rate: 30 * mbit, runs: 1, trials: just(unchanged),
		bars: []bar{timeAgainstOne(1.03), bytesPerPayload(1.055), memoryAboveIdle},
	},
	{
		name: "full", about: "one receiver at 1 Gbit/s",
		n: []int{1}, mib: 512, rate: gbit, runs: 1, trials: just(unchanged),
		bars: []bar{linkUse, bytesPerPayload(1.055), senderCPU, receiverCPU, memoryAboveIdle},
	},
	{
		name: "loss1", about: "1 % of the packets to each receiver lost",
		n: []int{1, 4, 16}, mib: 128, rate: 50 * mbit, runs: 1,
		trials: against("no loss", unchanged, func(t *trial) { t.Loss = 0.01 }),
		bars:   []bar{bytesPerPayload(1.10), timeAgainst("no loss", 1.03)},
	},
	{
		name: "loss10", about: "10 % of the packets to each receiver lost",
		n: []int{1, 4}, mib: 128, rate: 50 * mbit, runs: 1, trials: just(func(t *trial) { t.Loss = 0.10 }),
		bars: []bar{bytesPerPayload(1.23)},
	},
	{
		name: "group32", about: "32 receivers with 1 % loss each, over and over: all have it in time every time",
		n: []int{32}, mib: 128, rate: 50 * mbit, runs: 5, trials: just(func(t *trial) { t.Loss = 0.01 }),
		bars: []bar{within(30 * time.Second)},
	},
	{
		name: "slowport", about: "the last receiver's port has 15 % of the rate",
		n: []int{4}, mib: 128, rate: 100 * mbit, runs: 1,
		trials: against("without it", func(t *trial) { t.N-- }, func(t *trial) { t.SlowPort = 0.15 }),
		bars:   []bar{timeAgainst("without it", 1.05), multicastPerPayload(1.2)},
	},
	{
		name: "slowswitch", about: "every port of the switch has a tenth of the server's link",
		n: []int{4}, mib: 256, rate: 50 * mbit, runs: 1, trials: just(func(t *trial) { t.ServerRate = 10 * t.Rate }),
		bars: []bar{bytesPerPayload(1.10)},
	},
	{
		name: "skewed", about: "receivers start 1 s apart",
		n: []int{4}, mib: 128, rate: 50 * mbit, runs: 1, trials: just(func(t *trial) { t.Skew = time.Second }),
		bars: []bar{bytesWithMissed(1.06)},
	},
	{
		name: "killed", about: "the last receiver is killed after a third of the file",
		n: []int{4}, mib: 128, rate: 50 * mbit, runs: 1, trials: against("nobody killed", unchanged, func(t *trial) { t.Kill = true }),
		bars: []bar{laterThan("nobody killed", 3*time.Second)},
	},
	{
		name: "lostfirst", about: "the last receiver loses the first 8 UDP packets",
		n: []int{4}, mib: 64, rate: 50 * mbit, runs: 1, trials: against("nothing lost", unchanged, func(t *trial) { t.LoseFirst = 8 }),
		bars: []bar{laterThan("nothing lost", 3*time.Second)},
	},
	{
		name: "polite", about: "a TCP flow of somebody else's to the first receiver, and imager send --polite",
		n: []int{2}, mib: 128, rate: 100 * mbit, runs: 1, only: "huck", trials: just(func(t *trial) { t.Polite = true }),
		bars: []bar{flowShare(0.4)},
	},
	{
		name: "channels", about: "two channels on one link, half of the receivers each",
		n: []int{4}, mib: 128, rate: 100 * mbit, runs: 1, only: "huck", trials: just(func(t *trial) { t.Channels = 2 }),
		bars: []bar{fairShares(0.8), bytesPerPayload(1.055)},
	},
}

// scenariosNamed finds scenarios by name; no names are all.
func scenariosNamed(names []string) ([]scenario, error) {
	if len(names) == 0 {
		return scenarios, nil
	}
	var found []scenario
	for _, name := range names {
		i := indexScenario(name)
		if i < 0 {
			return nil, fmt.Errorf("no scenario %q, there are %s; %w", name, strings.Join(scenarioNames(), ", "), errUsage)
		}
		found = append(found, scenarios[i])
	}
	return found, nil
}

func indexScenario(name string) int {
	for i, s := range scenarios {
		if s.name == name {
			return i
		}
	}
	return -1
}

func scenarioNames() []string {
	names := make([]string, len(scenarios))
	for i, s := range scenarios {
		names[i] = s.name
	}
	return names
}
