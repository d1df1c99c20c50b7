package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

const legend = `seconds: until the last receiver was complete (an odd one apart), median (least – most) of the runs. T/T1: against 1 receiver.
sent, mcast, tcp: IP bytes on the server's link / payload, wire-size packets, no Ethernet headers. http: of the payload, mean of the receivers.
Mbit/s: IP bytes the server sent in the middle half. back/s: UDP packets to the server. CPU: user and system seconds per 10⁹ bytes, server and mean of the receivers.
MiB: most that was resident, server and largest receiver. done: receivers complete in all runs.
`

// writeTable prints results for people.
func writeTable(w io.Writer, all results) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "scenario\ttool\tn\tMiB\tlink\tloss\tdone\tseconds\t\tT/T1\tsent\tmcast\ttcp\thttp\tMbit/s\tback/s\tCPU s\tCPU r\tMiB s\tMiB r\t")
	for _, r := range all {
		name := r.Scenario
		if r.Role != "" {
			name += ": " + r.Role
		}
		complete, expected := r.complete()
		s := r.seconds()
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%g %%\t%d/%d\t%.2f\t%s\t%s\t%.3f\t%.3f\t%.3f\t%.3f\t%.0f\t%.0f\t%.2f\t%.2f\t%.0f\t%.0f\t\n",
			name, r.Tool, r.N, r.Size>>20, link(r.trial), r.Loss*100, complete, expected, s.Median, spread(s), againstOne(r, all),
			r.sent().Median,
			r.over(func(o outcome) float64 { return float64(o.SentMulticast) / r.payload() }).Median,
			r.over(func(o outcome) float64 { return float64(o.SentTCP) / r.payload() }).Median,
			r.over(func(o outcome) float64 { return float64(o.FromHTTP) / float64(r.Size) }).Median,
			r.over(func(o outcome) float64 { return o.Rate / mbit }).Median,
			r.over(func(o outcome) float64 { return float64(o.Feedback) / max(o.AllSeconds, 0.001) }).Median,
			r.serverCPU().Median, r.receiverCPU().Median,
			r.over(func(o outcome) float64 { return float64(o.ServerMemory) / (1 << 20) }).Max,
			r.over(func(o outcome) float64 { return float64(o.ReceiverMemory) / (1 << 20) }).Max)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, legend)
	return err
}

// link is a trial's rate for people, the server's first if it is another.
func link(t trial) string {
	if t.ServerRate > 0 {
		return fmt.Sprintf("%d/%dM", t.ServerRate/mbit, t.Rate/mbit)
	}
	return fmt.Sprintf("%dM", t.Rate/mbit)
}

func spread(s summary) string {
	if s.Min == s.Max {
		return ""
	}
	return fmt.Sprintf("(%.2f – %.2f)", s.Min, s.Max)
}

func againstOne(r *result, all results) string {
	one := all.like(r, r.Tool, r.Role, 1)
	if one == nil || one == r {
		return ""
	}
	return fmt.Sprintf("%.3f", r.seconds().Median/one.seconds().Median)
}

// betterBy is how much better a peer must be to be named: less is noise.
const betterBy = 0.02

// peersBetter lists where another tool's figure was better than huck's.
func peersBetter(all results) []string {
	figures := []struct {
		name string
		of   func(*result) float64
	}{
		{"seconds", func(r *result) float64 { return r.seconds().Median }},
		{"bytes sent / payload", func(r *result) float64 { return r.sent().Median }},
		{"CPU of the server per GB", func(r *result) float64 { return r.serverCPU().Median }},
		{"CPU of a receiver per GB", func(r *result) float64 { return r.receiverCPU().Median }},
		{"MiB of the server", func(r *result) float64 {
			return r.over(func(o outcome) float64 { return float64(o.ServerMemory) / (1 << 20) }).Max
		}},
		{"MiB of a receiver", func(r *result) float64 {
			return r.over(func(o outcome) float64 { return float64(o.ReceiverMemory) / (1 << 20) }).Max
		}},
	}
	var better []string
	for _, peer := range all {
		ours := all.like(peer, "huck", peer.Role, peer.N)
		if complete, expected := peer.complete(); peer.Tool == "huck" || ours == nil || complete < expected {
			continue
		}
		for _, f := range figures {
			if theirs, our := f.of(peer), f.of(ours); theirs < our*(1-betterBy) {
				better = append(better, fmt.Sprintf("%s n=%d: %s of %s %.2f, of huck %.2f", name(peer.trial), peer.N, f.name, peer.Tool, theirs, our))
			}
		}
	}
	return better
}

// name is a trial's scenario and role.
func name(t trial) string {
	if t.Role == "" {
		return t.Scenario
	}
	return t.Scenario + " (" + t.Role + ")"
}
