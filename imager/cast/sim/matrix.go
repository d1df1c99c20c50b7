package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"huck/imager/cast"
	"huck/imager/cast/casttest"
)

const (
	// chunks of the matrix' image: 15 MiB.
	chunks = 60
	// symbols is k of a region that does not shrink.
	symbols = 187
	// small is the simulated size of a symbol in bytes.
	small = 16
	// rate of the channel in bits a second.
	rate = 100_000_000
	// delay from the sender to each receiver, and back.
	delay = 200 * time.Microsecond
	// burst is how many packets in a row get lost where losses are bursty.
	burst = 8
)

// trial is a scenario and what came of it.
type trial struct {
	casttest.Scenario
	result casttest.Result
}

func (t *trial) run() error {
	var err error
	t.result, err = t.Scenario.Run()
	return err
}

// cell is a place in the matrix: the same transfer with several seeds.
type cell struct {
	trials    []*trial
	kind      string
	receivers int
	loss      float64
	// bound is what no code and protocol could send less than, over the
	// encoded bytes, and bound256 that of one with 256 symbol numbers, as the
	// protocol has.
	bound, bound256 float64
}

type matrix struct {
	receivers []int
	losses    []float64
	kinds     []kind
	cells     []*cell
}

// kind is a way to lose packets.
type kind struct {
	name, what string
	link       func(s *casttest.Scenario, loss float64)
	// needed is the bound on the symbols, over k.
	needed func(n int, loss float64) float64
	// group is how many receivers differ in what they lose; 0 is that 256
	// symbol numbers are no limit that could be computed.
	group func(n int) int
	// lossless says that it is of interest also if nothing is lost.
	lossless bool
}

func kinds() []kind {
	return []kind{
		{"independent", "each receiver loses each packet with this probability, whatever the others do; so does the sender each request",
			func(s *casttest.Scenario, loss float64) { s.Link.Loss, s.Link.FeedbackLoss = loss, loss },
			func(n int, loss float64) float64 { return casttest.Needed(symbols, n, loss, 0) },
			func(n int) int { return n }, true},
		{"bursty", fmt.Sprintf("each receiver for itself, %d packets in a row on average (Gilbert model); requests independently", burst),
			func(s *casttest.Scenario, loss float64) {
				s.Link.Loss, s.Link.FeedbackLoss, s.Link.Burst = loss, loss, burst
			},
			func(n int, loss float64) float64 { return casttest.Needed(symbols, n, loss, burst) },
			func(int) int { return 0 }, false},
		{"shared", "before the switch: all receivers lose the same packets; requests independently",
			func(s *casttest.Scenario, loss float64) { s.Trunk.Loss, s.Link.FeedbackLoss = loss, loss },
			func(_ int, loss float64) float64 { return casttest.Needed(symbols, 1, loss, 0) },
			func(int) int { return 1 }, false},
		{"mixed", "half before the switch and half at each receiver, there with 2 % of the packets delayed by up to 2 ms and so reordered, 1 % doubled and 0.1 % corrupted; requests at the full rate",
			func(s *casttest.Scenario, loss float64) {
				s.Trunk.Loss = loss / 2
				s.Link.Loss, s.Link.FeedbackLoss = loss/2, loss
				s.Link.Reorder, s.Link.Jitter = 0.02, 2*time.Millisecond
				s.Link.Duplicate, s.Link.Corrupt = 0.01, 0.001
			},
			func(n int, loss float64) float64 {
				return casttest.Needed(symbols, n, loss/2+0.001, 0) / (1 - loss/2)
			},
			func(int) int { return 0 }, true},
	}
}

// newMatrix plans all runs with up to most receivers.
func newMatrix(most int) *matrix {
	m := &matrix{
		receivers: slices.DeleteFunc([]int{1, 10, 100, 1000, 5000}, func(n int) bool { return n > most }),
		losses:    []float64{0, 0.001, 0.01, 0.05, 0.10, 0.30},
		kinds:     kinds(),
	}
	for _, k := range m.kinds {
		for _, loss := range m.losses {
			if loss == 0 && !k.lossless {
				continue
			}
			for _, n := range m.receivers {
				m.cells = append(m.cells, newCell(k, loss, n, len(m.cells)+1))
			}
		}
	}
	return m
}

// repeats is how many seeds a cell has: few receivers are cheap, and one of
// them alone is much of a matter of luck.
func repeats(receivers int) int { return min(max(100/receivers, 1), 20) }

func newCell(k kind, loss float64, n int, number int) *cell {
	c := &cell{kind: k.name, receivers: n, loss: loss}
	s := casttest.Scenario{
		Name:      fmt.Sprintf("%d receivers, %s %s", n, percent(loss), k.name),
		Receivers: n,
		Chunks:    chunks,
		K:         symbols,
		Symbol:    small,
		Config:    cast.SenderConfig{Rate: rate},
		Link:      casttest.Link{Delay: delay},
	}
	k.link(&s, loss)
	for i := range repeats(n) {
		s.Seed = uint64(100*number + i)
		c.trials = append(c.trials, &trial{Scenario: s})
	}
	c.bound = k.needed(n, loss)
	c.bound256 = c.bound
	if g := k.group(n); g > 0 {
		c.bound256 = casttest.NeededOf(256, symbols, g, loss)
	}
	return c
}

// trials returns the runs, those that take longest first.
func (m *matrix) trials() []*trial {
	cells := slices.Clone(m.cells)
	slices.SortStableFunc(cells, func(a, b *cell) int {
		return cmp.Or(cmp.Compare(b.receivers, a.receivers), cmp.Compare(b.loss, a.loss))
	})
	var out []*trial
	for _, c := range cells {
		out = append(out, c.trials...)
	}
	return out
}

// mean is the mean of a value over the cell's runs.
func (c *cell) mean(value func(r *casttest.Result) float64) float64 {
	sum := 0.0
	for _, t := range c.trials {
		sum += value(&t.result)
	}
	return sum / float64(len(c.trials))
}

// ratio is the bytes sent over the encoded ones.
func (c *cell) ratio() float64 { return c.mean((*casttest.Result).Ratio) }

// slowdown is the time over the ideal: the median of the runs, since a lost
// first request delays one of them by much.
func (c *cell) slowdown() float64 {
	all := make([]float64, len(c.trials))
	for i, t := range c.trials {
		all[i] = t.result.Slowdown()
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

// again is how many receivers of all runs, and in how many of these, heard
// nothing at first and joined once more.
func (m *matrix) again() (receivers, runs int) {
	for _, c := range m.cells {
		for _, t := range c.trials {
			receivers += t.result.Again
			runs += min(t.result.Again, 1)
		}
	}
	return receivers, runs
}

// of returns the cells of one kind, in order of loss and receivers.
func (m *matrix) of(kind string) []*cell {
	return slices.DeleteFunc(slices.Clone(m.cells), func(c *cell) bool { return c.kind != kind })
}

func percent(p float64) string { return fmt.Sprintf("%g %%", p*100) }
