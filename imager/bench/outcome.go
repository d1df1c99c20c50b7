package main

import (
	"fmt"
	"time"

	"huck/imager/bench/rig"
)

// outcome is what one transfer came to.
type outcome struct {
	// Seconds is from the first receiver's start until the last one was
	// complete, but for one that the trial treats worse than the others; AllSeconds counts that,
	// too. What was not complete counts as the whole time that it was given.
	Seconds    float64 `json:"seconds"`
	AllSeconds float64 `json:"all_seconds"`
	// Begun is when a hundredth of the file was sent, and Rate how many bits a second of
	// IP packets the server sent in the middle half of the file; 0 if it did not come so far.
	Begun float64 `json:"begun"`
	Rate  float64 `json:"rate"`
	// Complete of Expected receivers have it all; a killed one is not expected.
	Complete int `json:"complete"`
	Expected int `json:"expected"`

	// IP bytes on the server's link.
	Sent          int64 `json:"sent"` // all of them
	SentMulticast int64 `json:"sent_multicast"`
	SentTCP       int64 `json:"sent_tcp"`
	SentUDP       int64 `json:"sent_udp"`
	// Feedback is how many UDP packets came to the server.
	Feedback int64 `json:"feedback"`
	// Missed is what was sent to the group before the last receiver joined it.
	Missed int64   `json:"missed,omitempty"`
	Shares []int64 `json:"shares,omitempty"`

	// Bytes of chunks by where receivers had them from, the mean of all (huck).
	FromMulticast int64 `json:"from_multicast,omitempty"`
	FromHTTP      int64 `json:"from_http,omitempty"`
	Repair        int64 `json:"repair,omitempty"`

	// CPU seconds and peak memory of the servers and of a receiver: the mean and
	// the largest of those that were not killed.
	ServerCPU      float64 `json:"server_cpu"`
	ReceiverCPU    float64 `json:"receiver_cpu"`
	ServerMemory   int64   `json:"server_memory"`
	ReceiverMemory int64   `json:"receiver_memory"`

	// Bits a second of a TCP flow without and beside the transfer.
	FlowAlone  float64 `json:"flow_alone,omitempty"`
	FlowBeside float64 `json:"flow_beside,omitempty"`

	// Err says what a tool failed at.
	Err string `json:"err,omitempty"`
}

// sum makes the outcome of what ended.
func (x *transfer) sum(after rig.Counters) {
	x.mu.Lock()
	defer x.mu.Unlock()
	sent := after.Since(x.before)
	o := &x.out
	o.Sent, o.SentMulticast, o.SentTCP, o.SentUDP = sent.Total, sent.Multicast, sent.TCP, sent.UDP
	o.Feedback = sent.Feedback
	var cpu time.Duration
	for i, r := range x.receivers {
		if r != nil && r.killed {
			continue
		}
		o.Expected++
		x.count(i+1, r)
		if r == nil {
			continue
		}
		u := r.proc.Usage()
		cpu += u.CPU
		o.ReceiverMemory = max(o.ReceiverMemory, u.Memory)
	}
	if o.Expected > 0 {
		o.ReceiverCPU = cpu.Seconds() / float64(o.Expected)
		o.FromMulticast /= int64(o.Expected)
		o.FromHTTP /= int64(o.Expected)
		o.Repair /= int64(o.Expected)
	}
	for _, p := range x.servers {
		u := p.Usage()
		o.ServerCPU += u.CPU.Seconds()
		o.ServerMemory = max(o.ServerMemory, u.Memory)
	}
}

// count adds a receiver that was not killed; nil is one that never started.
func (x *transfer) count(host int, r *receiver) {
	o := &x.out
	took := x.limit().Seconds()
	switch {
	case r == nil:
	case !r.at.IsZero():
		o.Complete++
		took = r.at.Sub(x.start).Seconds()
	case o.Err == "":
		_, err := r.proc.Ended()
		o.Err = fmt.Sprintf("receiver %d: %v: %s", host, err, tail(x.log(host)))
	}
	o.AllSeconds = max(o.AllSeconds, took)
	if !x.odd() || host < x.N {
		o.Seconds = max(o.Seconds, took)
	}
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	o.FromMulticast += r.result.Received["multicast"]
	o.FromHTTP += r.result.Received["http"]
	o.Repair += r.result.RepairBytes
}
