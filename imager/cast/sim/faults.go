package main

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"huck/imager/cast"
	"huck/imager/cast/casttest"
)

// fault is a run in which something happens beside losses.
type fault struct {
	trial
	what string
	// says tells what matters of the result.
	says func(r *casttest.Result) string
}

func trialsOf(faults []*fault) []*trial {
	out := make([]*trial, len(faults))
	for i, f := range faults {
		out[i] = &f.trial
	}
	return out
}

func newFaults() []*fault {
	all := slices.Concat(roughFaults(), crowdFaults(), senderFaults(), rateFaults())
	for i, f := range all {
		f.Name = f.what
		f.Seed = uint64(1000 + i)
		f.Link.Delay = delay
	}
	return all
}

// smallImage is the matrix' scenario.
func smallImage(n int, loss float64) casttest.Scenario {
	return casttest.Scenario{
		Receivers: n, Chunks: chunks, K: symbols, Symbol: small,
		Config: cast.SenderConfig{Rate: rate},
		Link:   casttest.Link{Loss: loss, FeedbackLoss: loss},
	}
}

// fullImage has symbols of true size, so that pacing works with true rates.
func fullImage(n, chunks int, rate int64) casttest.Scenario {
	return casttest.Scenario{
		Receivers: n, Chunks: chunks, K: symbols, Symbol: 1408,
		Config: cast.SenderConfig{Rate: rate},
	}
}

// roughFaults is what networks do to packets.
func roughFaults() []*fault {
	rough := smallImage(100, 0.02)
	rough.Link.Reorder, rough.Link.Jitter = 0.10, 5*time.Millisecond
	rough.Link.Duplicate, rough.Link.Corrupt = 0.05, 0.02
	deaf := smallImage(100, 0.01)
	deaf.Link.FeedbackLoss = 0.5
	mute := smallImage(100, 0.10)
	mute.Link.FeedbackLoss = 0.8
	return []*fault{
		{trial: trial{Scenario: rough}, what: "100 receivers, 2 % lost, 10 % late by up to 5 ms, 5 % doubled, 2 % corrupt"},
		{trial: trial{Scenario: deaf}, what: "100 receivers, 1 % lost, half of the requests lost"},
		{trial: trial{Scenario: mute}, what: "100 receivers, 10 % lost, four of five requests lost"},
	}
}

// crowdFaults is what receivers do.
func crowdFaults() []*fault {
	skewed := smallImage(8, 0)
	skewed.Chunks = 4 * chunks
	skewed.Vary = func(i int, j *casttest.Joiner) { j.After = time.Duration(i) * time.Second / 2 }
	coming := smallImage(100, 0.01)
	coming.Vary = func(i int, j *casttest.Joiner) {
		j.After = time.Duration(i*i%101) * 20 * time.Millisecond
		if i%3 == 0 {
			j.Leaves = j.After + time.Duration(100+i*37%900)*time.Millisecond
		}
	}
	disks := smallImage(16, 0.001)
	disks.Chunks = 4 * chunks
	disks.Vary = func(_ int, j *casttest.Joiner) { j.SinkRate = rate / 8 / 2 }
	disk := smallImage(16, 0.001)
	disk.Chunks = 4 * chunks
	disk.Vary = func(i int, j *casttest.Joiner) {
		if i == 0 {
			j.SinkRate = rate / 8 / 10
		}
	}
	return []*fault{
		{trial: trial{Scenario: skewed}, what: "8 receivers that start half a second apart", says: saysSkew},
		{trial: trial{Scenario: coming}, what: "100 receivers that come within 2 s, 1 % lost; every third is switched off within a second"},
		{trial: trial{Scenario: disks}, what: "16 receivers whose disks take half of the rate"},
		{trial: trial{Scenario: disk}, what: "16 receivers, the disk of one takes a tenth of the rate", says: saysOthers},
	}
}

// saysSkew compares with the image and what the last joiner missed of it.
func saysSkew(r *casttest.Result) string {
	missed := 3.5 * rate / 8 / casttest.HeaderFactor
	return fmt.Sprintf("%.3f × (image + what the last one missed)", r.Bytes/(r.Encoded+missed))
}

// saysOthers tells the time of all but the first receiver.
func saysOthers(r *casttest.Result) string {
	return fmt.Sprintf("the others took %.2f s, %.3f × the ideal", slices.Max(r.Took[1:]).Seconds(), slices.Max(r.Took[1:]).Seconds()/r.Ideal.Seconds())
}

// senderFaults is what senders do.
func senderFaults() []*fault {
	const gather = 250 * time.Millisecond // what the programs use
	killed := smallImage(50, 0.01)
	killed.Config.Gather = gather
	killed.Script = func(t *casttest.Trial) {
		t.After(600*time.Millisecond, t.Kill)
		t.After(3*time.Second, t.Restart)
	}
	restarted := smallImage(50, 0.01)
	restarted.Config.Gather = gather
	restarted.Script = func(t *casttest.Trial) { t.After(600*time.Millisecond, t.Restart) }
	two := smallImage(50, 0.01)
	two.Config.Gather = gather
	two.Script = func(t *casttest.Trial) { t.Beside(two.Config) }
	two.Vary = func(i int, j *casttest.Joiner) { j.Other = i%2 == 1 }
	return []*fault{
		{trial: trial{Scenario: killed}, what: "50 receivers, 1 % lost; the sender dies after 0.6 s and another starts 2.4 s later"},
		{trial: trial{Scenario: restarted}, what: "50 receivers, 1 % lost; the sender is restarted at once after 0.6 s"},
		{trial: trial{Scenario: two}, what: "50 receivers, 1 % lost; two senders of the image on one group, each with half of the receivers", says: saysEach},
	}
}

// saysEach tells what each of two senders sent.
func saysEach(r *casttest.Result) string {
	return fmt.Sprintf("each sent %.3f times the image", r.Ratio()/2)
}

// rateFaults is about how fast the sender sends. The image is 256 MiB, or
// 1 GiB, the symbols are of true size.
func rateFaults() []*fault {
	const gig = 1_000_000_000
	clean := fullImage(4, 4096, 100*gig)
	clean.Host = casttest.Port{Rate: gig, Queue: 1 << 20}
	lossy := clean
	lossy.Link.Loss, lossy.Link.FeedbackLoss = 0.01, 0.01
	fast := fullImage(4, 4096, 100*gig)
	fast.Host = casttest.Port{Rate: 10 * gig, Queue: 1 << 20}
	port := fullImage(4, 1024, 100*gig)
	port.Host = casttest.Port{Rate: gig, Queue: 1 << 20}
	port.Vary = func(i int, j *casttest.Joiner) {
		j.Link.Port = casttest.Port{Rate: gig}
		if i == 0 {
			j.Link.Port.Rate = gig * 15 / 100
		}
	}
	trunk := fullImage(4, 1024, 100*gig)
	trunk.Host = casttest.Port{Rate: gig, Queue: 1 << 20}
	trunk.Trunk.Port = casttest.Port{Rate: gig / 10}
	fair := fullImage(4, 1024, 100*gig)
	fair.Host = casttest.Port{Rate: gig, Queue: 1 << 20}
	fair.Trunk.Port = casttest.Port{Rate: gig / 2}
	fair.Vary = func(i int, j *casttest.Joiner) { j.Other = i%2 == 1 }
	fair.Script = func(t *casttest.Trial) {
		cfg := fair.Config
		cfg.Channel.Group = netip.MustParseAddrPort("239.1.1.2:9000")
		t.Beside(cfg)
	}
	return []*fault{
		{trial: trial{Scenario: clean}, what: "1 GiB to 4 receivers over 1 Gbit/s, no cap", says: saysGoodput(gig)},
		{trial: trial{Scenario: lossy}, what: "the same with 1 % lost", says: saysGoodput(gig)},
		{trial: trial{Scenario: fast}, what: "1 GiB to 4 receivers over 10 Gbit/s", says: saysGoodput(10 * gig)},
		{trial: trial{Scenario: port}, what: "256 MiB over 1 Gbit/s to 4 receivers, the port of one has 150 Mbit/s", says: saysPort},
		{trial: trial{Scenario: trunk}, what: "256 MiB to 4 receivers behind a port of 100 Mbit/s, the sender's link has 1 Gbit/s", says: saysGoodput(gig / 10)},
		{trial: trial{Scenario: fair}, what: "two channels of 256 MiB with 2 receivers each behind a port of 500 Mbit/s", says: saysFair},
	}
}

// saysGoodput tells the image's share of a link.
func saysGoodput(link float64) func(r *casttest.Result) string {
	return func(r *casttest.Result) string {
		return fmt.Sprintf("%.1f %% of the link, headers counted", 100*r.Encoded*casttest.HeaderFactor*8/r.Time.Seconds()/link)
	}
}

// saysPort tells how the receivers with fast ports fared.
func saysPort(r *casttest.Result) string {
	alone := r.Encoded * casttest.HeaderFactor * 8 / 1e9
	return fmt.Sprintf("the others took %.2f s, the link alone %.2f s", slices.Max(r.Took[1:]).Seconds(), alone)
}

// saysFair compares the two channels.
func saysFair(r *casttest.Result) string {
	a, b := r.Took[0].Seconds(), r.Took[1].Seconds()
	return fmt.Sprintf("the first took %.2f s, the second %.2f s", a, b)
}
