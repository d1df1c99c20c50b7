package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestSummarise(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   summary
	}{
		{nil, summary{}},
		{[]float64{3}, summary{3, 3, 3}},
		{[]float64{4, 1}, summary{2.5, 1, 4}},
		{[]float64{9, 1, 2}, summary{2, 1, 9}},
	} {
		if got := summarise(tt.values); got != tt.want {
			t.Errorf("%v: %+v, want %+v", tt.values, got, tt.want)
		}
	}
	values := []float64{3, 1, 2}
	summarise(values)
	if values[0] != 3 {
		t.Error("the values were sorted in place")
	}
}

// made makes a result of one run.
func made(tr trial, o outcome) *result {
	if tr.Size == 0 {
		tr.Size = 1e6
	}
	if o.Expected == 0 {
		o.Complete, o.Expected = tr.N, tr.N
	}
	return &result{trial: tr, Runs: []outcome{o}}
}

func TestBars(t *testing.T) {
	huck := func(role string, n int) trial { return trial{Scenario: "s", Tool: "huck", Role: role, N: n} }
	one := made(huck("", 1), outcome{Seconds: 10})
	hashing := made(huck("", 1), outcome{ReceiverCPU: 0.75e-3})
	hashing.Verify = 0.25
	for _, tt := range []struct {
		name  string
		bar   bar
		r     *result
		other []*result
		want  float64 // -1: nothing to say
	}{
		{"time", timeAgainstOne(1), made(huck("", 80), outcome{Seconds: 11}), []*result{one}, 1.1},
		{"time of one", timeAgainstOne(1), one, nil, -1},
		{"time with nothing to compare", timeAgainstOne(1), made(huck("", 80), outcome{Seconds: 11}), nil, -1},
		{"against", timeAgainst("base", 1), made(huck("", 4), outcome{Seconds: 12}), []*result{made(huck("base", 4), outcome{Seconds: 10})}, 1.2},
		{"against one fewer", timeAgainst("base", 1), made(huck("", 4), outcome{Seconds: 12}), []*result{made(huck("base", 3), outcome{Seconds: 8})}, 1.5},
		{"later", laterThan("base", time.Second), made(huck("", 4), outcome{Seconds: 12}), []*result{made(huck("base", 4), outcome{Seconds: 10})}, 2},
		{"bytes", bytesPerPayload(1), made(huck("", 4), outcome{Sent: 1_050_000}), nil, 1.05},
		{"bytes of two channels", bytesPerPayload(1), made(trial{Channels: 2}, outcome{Sent: 3_000_000}), nil, 1.5},
		{"multicast", multicastPerPayload(1), made(huck("", 4), outcome{Sent: 9, SentMulticast: 1_200_000}), nil, 1.2},
		{"missed", bytesWithMissed(1), made(huck("", 4), outcome{Sent: 3_000_000, Missed: 1_048_296}), nil, 1.5},
		{"within", within(time.Second), made(huck("", 4), outcome{Seconds: 3}), nil, 3},
		{"link", linkUse, made(trial{Rate: 100}, outcome{Rate: 96}), nil, 0.96},
		{"memory", memoryAboveIdle, &result{Idle: 1 << 20, Runs: []outcome{{ReceiverMemory: 3 << 20}}}, nil, 2},
		{"CPU", senderCPU, made(huck("", 1), outcome{ServerCPU: 2}), []*result{made(trial{Scenario: "s", Tool: "udpcast", N: 1}, outcome{ServerCPU: 8})}, 0.25},
		{"CPU but for the hash", receiverCPU, hashing, []*result{made(trial{Scenario: "s", Tool: "udpcast", N: 1}, outcome{ReceiverCPU: 1e-3})}, 0.5},
		{"CPU alone", receiverCPU, made(huck("", 1), outcome{ReceiverCPU: 2}), nil, -1},
		{"flow", flowShare(1), made(huck("", 1), outcome{FlowAlone: 90, FlowBeside: 45}), nil, 0.5},
		{"shares", fairShares(1), made(huck("", 1), outcome{Shares: []int64{40, 50}}), nil, 0.8},
		{"one share", fairShares(1), made(huck("", 1), outcome{Shares: []int64{40}}), nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := tt.bar.figure(tt.r, append(tt.other, tt.r))
			if ok != (tt.want >= 0) || ok && (got < tt.want-0.0001 || got > tt.want+0.0001) {
				t.Errorf("%.4f, %t, want %.4f", got, ok, tt.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	s := scenario{name: "s", bars: []bar{bytesPerPayload(1.1)}}
	all := results{
		made(trial{Scenario: "s", Tool: "huck", Role: "base", N: 4}, outcome{Sent: 9_000_000}), // bars are not about it
		made(trial{Scenario: "s", Tool: "huck", N: 4}, outcome{Sent: 1_050_000}),
		made(trial{Scenario: "s", Tool: "huck", N: 8}, outcome{Sent: 1_200_000, Complete: 7, Expected: 8}),
		made(trial{Scenario: "s", Tool: "huck", N: 9}, outcome{Sent: 1_200_000}),
		made(trial{Scenario: "s", Tool: "udpcast", N: 4}, outcome{Sent: 5_000_000}),
		made(trial{Scenario: "other", Tool: "huck", N: 4}, outcome{Sent: 5_000_000}),
	}
	var got []string
	for _, v := range judge(s, all) {
		got = append(got, v.String())
	}
	want := []string{
		"held    s n=4: receivers complete, part (base) 1.000, bar: at least 1.000",
		"held    s n=4: receivers complete, part 1.000, bar: at least 1.000",
		"held    s n=4: bytes sent / payload 1.050, bar: at most 1.100",
		"MISSED  s n=8: receivers complete, part 0.875, bar: at least 1.000",
		"held    s n=9: receivers complete, part 1.000, bar: at least 1.000",
		"MISSED  s n=9: bytes sent / payload 1.200, bar: at most 1.100",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestPeersBetter(t *testing.T) {
	tr := func(tool string) trial { return trial{Scenario: "s", N: 4, Tool: tool} }
	all := results{
		made(tr("huck"), outcome{Seconds: 10, Sent: 1_060_000}),
		made(tr("udpcast"), outcome{Seconds: 9, Sent: 1_055_000}),                        // bytes: within noise
		made(tr("uftp"), outcome{Seconds: 1, Sent: 1_000_000, Complete: 3, Expected: 4}), // did not do it
	}
	got := peersBetter(all)
	if len(got) != 1 || !strings.Contains(got[0], "seconds of udpcast 9.00, of huck 10.00") {
		t.Errorf("got %q", got)
	}
}

func TestTable(t *testing.T) {
	all := results{
		made(trial{Scenario: "s", Tool: "huck", N: 1, Rate: 50 * mbit}, outcome{Seconds: 10, Sent: 1_050_000, SentMulticast: 1_049_000, SentTCP: 1000}),
		&result{trial: trial{Scenario: "s", Role: "base", Tool: "huck", N: 4, Size: 1 << 20, Rate: 50 * mbit, ServerRate: gbit, Loss: 0.01},
			Runs: []outcome{{Seconds: 11, Complete: 4, Expected: 4}, {Seconds: 13, Complete: 3, Expected: 4}}},
	}
	var b bytes.Buffer
	if err := writeTable(&b, all); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"10.00", "1.050  1.049  0.001", "7/8", "12.00", "(11.00 – 13.00)", "1000/50M", "1 %", "s: base"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table does not have %q:\n%s", want, b.String())
		}
	}
}

func TestCount(t *testing.T) {
	x := &transfer{trial: trial{N: 3, Rate: mbit, LoseFirst: 1}, start: time.Unix(100, 0)}
	for i, at := range []int64{105, 107, 111} {
		x.count(i+1, &receiver{at: time.Unix(at, 0)})
	}
	if o := x.out; o.Complete != 3 || o.Seconds != 7 || o.AllSeconds != 11 || o.Err != "" {
		t.Errorf("got %+v, want 7 s, and 11 s with the odd one", o)
	}
	x.count(1, nil) // never started
	if o := x.out; o.Complete != 3 || o.Seconds != x.limit().Seconds() {
		t.Errorf("got %+v, want the whole time for what never started", o)
	}
}
