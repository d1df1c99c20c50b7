package main

import (
	"bytes"
	"cmp"
	"fmt"

	"huck/imager/cast/casttest"
)

// report writes SIMULATION.md.
func report(m *matrix, faults []*fault) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, intro, m.receivers[len(m.receivers)-1])
	fmt.Fprintf(&b, how, chunks, small, rate/1_000_000, delay.Microseconds(), min(8, m.receivers[len(m.receivers)-1]), (casttest.HeaderFactor-1)*100)
	for _, k := range m.kinds {
		fmt.Fprintf(&b, "\n### Losses: %s\n\n%s.\n\n", k.name, upper(k.what))
		table(&b, m.of(k.name))
	}
	b.WriteString(faultsIntro)
	for _, f := range faults {
		faultRow(&b, f)
	}
	fmt.Fprintf(&b, remarks, again(m))
	return b.Bytes()
}

// again tells of receivers that heard nothing at first.
func again(m *matrix) string {
	receivers, runs := m.again()
	if receivers == 0 {
		return "No receiver heard nothing of its first requests."
	}
	return fmt.Sprintf("%d receivers, in %d runs, had all their first requests or the answers lost and took the group for one without multicast; they joined again after 30 s, as the programs do.", receivers, runs)
}

func upper(s string) string { return string(s[0]-'a'+'A') + s[1:] }

const intro = `# The cast protocol in simulation

Written by ` + "`make sim-cast`" + ` (package ` + "`imager/cast/sim`" + `); do not edit.

Up to %d receivers, every one of them the state machine that ships (` + "`cast.Receiver`" + `), get an image from the
sender that ships (` + "`cast.Sender`" + `) over a network that is simulated packet by packet in virtual time. Every run
ended with every receiver complete and exact; the command fails otherwise. All chance comes from fixed seeds, so a run
on the same code gives the same figures.

![Bytes sent and time against the number of receivers](simulation.svg)

Solid lines are measured, dashed ones what theory says cannot be beaten; losses are independent.
`

const how = `
## What is simulated

- The image of the matrix below has %d chunks of 187 source symbols each, those of a region of 256 KiB that does not shrink.
  To bear thousands of receivers a symbol has %d bytes instead of 1408. Rates and link speeds are scaled down in the ratio of the whole packets, so
  that as many packets a second flow as with full symbols, and timing is that of full symbols. Bytes in the tables count data packets as full ones: payload × 1408/16, and 68
  bytes of headers; announcements count what they have. In the time they take they weigh up to 17 times too much, about 2 %% here: an error to our disadvantage.
- The sender's cap is %d Mbit/s, every packet takes %d µs either way. Packets that arrive within 200 µs of one another are handed
  over together, as a network card does it.
- Key derivation, authentication, replay windows, packet codecs, requests, reports, pacing, parity: the shipped code, nothing left out. %d receivers of
  each run recover every chunk by the Reed-Solomon code and compare all bytes. On the others a chunk counts as soon as the state machine has any k different symbols of it: any k
  make the chunk, which other tests prove.
- All receivers start at once and want the whole image. Reading a chunk takes the sender 1 ms.
- *Not* simulated: sockets, the time that programs compute (a machine that cannot keep up shows in ` + "`make bench-cast`" + `), other traffic, queues on the
  way from the receivers to the sender.

## What the columns say

- **bytes**: all IP bytes that the sender sent over the bytes of the encoded image, until it was silent again; headers alone make it %.1f %% more than 1.
- **bound**: the least that is possible if any k symbols make a chunk, whatever the protocol: the expected maximum over the receivers of the symbols that have to be sent until
  each has k of them, times the headers. It is computed numerically from the distribution of the losses. It is exact for an unbroken stretch of symbols
  of each chunk; where losses are bursty, repairs that come later can do a little better. The second figure at 30 %% is for 256 different
  symbols sent in turn, as our code has: what a receiver has got already does not help it a second time.
- **time**: until the last receiver was complete, over the time in which the encoded image and its headers pass once at the sender's cap.
- **feedback**: packets a second that reached the sender, on average; **in 1 s** are those in the second that had most, **in 0.1 s** those in the tenth that had most.
- **rounds**: how many stretches of symbols were sent of each chunk, on average.

Each row is the mean of several runs, 20 of one receiver, 10 of ten, one of more; of the times it is the median.

## The matrix
`

const tableHead = `| loss | receivers | bytes | bound | time | feedback/s | in 1 s | in 0.1 s | rounds |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|
`

func table(b *bytes.Buffer, cells []*cell) {
	b.WriteString(tableHead)
	for _, c := range cells {
		bound := fmt.Sprintf("%.3f", c.bound*casttest.HeaderFactor)
		if c.bound256 > c.bound*1.005 {
			bound += fmt.Sprintf(" – %.3f", c.bound256*casttest.HeaderFactor)
		}
		fmt.Fprintf(b, "| %s | %d | %.3f | %s | %.2f | %.0f | %.0f | %.0f | %.1f |\n",
			percent(c.loss), c.receivers, c.ratio(), bound, c.slowdown(),
			c.mean(func(r *casttest.Result) float64 { return r.Feedback }),
			c.mean(func(r *casttest.Result) float64 { return r.Most }),
			c.mean(func(r *casttest.Result) float64 { return r.Peak / 10 }),
			c.mean(func(r *casttest.Result) float64 { return r.Rounds }))
	}
}

const faultsIntro = `
## Other things that happen

The image of the first runs is the matrix', of four times as many chunks where receivers start apart or have slow disks. Where rates are
named the symbols are of true size and the sender has no cap. *Left* receivers were told to leave because they were too
slow for the group, and finish over HTTP, which is not simulated; *off* ones were switched off on purpose.

| run | bytes | time, s | feedback/s | left | off | |
|---|---:|---:|---:|---:|---:|---|
`

func faultRow(b *bytes.Buffer, f *fault) {
	r := &f.result
	says := ""
	if f.says != nil {
		says = f.says(r)
	}
	fmt.Fprintf(b, "| %s | %.3f | %.2f | %.0f | %s | %s | %s |\n",
		f.what, r.Ratio(), r.Time.Seconds(), r.Feedback, orNone(r.Left), orNone(r.Off), says)
}

func orNone(n int) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprint(n)
}

const remarks = `
## Remarks

- An image of 15 MiB is short. The time of the last round, some tenths of a second, is in the time once
  however long the image is: with 4 GiB the same tail is three hundred times less of the whole.
- The rate of small symbols is below the one that pacing begins with, so in the matrix the sender has its rate from the start. How long it takes to find one shows in the runs that
  name rates.
- Feedback peaks when all receivers start at the same moment, before they have heard how many they are.
- %s
- The bound on the bytes is an expected value; a single run can lie a little below or above.
- At 30 %% the bytes are far above what any k symbols could do since 256 symbols are too few: after all have been sent once, most receivers lack some, each others. Networks
  that lose as much need mending more than they need a better code.
`

// byReceivers sorts cells by how many receivers they have.
func byReceivers(a, b *cell) int { return cmp.Compare(a.receivers, b.receivers) }
