package pace_test

import (
	"math"
	"testing"
	"time"

	"huck/imager/cast/pace"
)

const ms = time.Millisecond

// ordinary gives clients what real ones have: they read packets in batches, and
// their reports come a few milliseconds late.
func ordinary(clients ...*client) []*client {
	for _, c := range clients {
		c.grain, c.jitter = 2*ms, 5*ms
	}
	return clients
}

// behind is a client behind a port of its own with 20 ms of buffer.
func behind(rate float64) *client {
	return &client{port: &port{rate: rate, buffer: rate / 8 / 50}}
}

// within fails the test unless low <= v <= high, and logs the figure.
func within(t *testing.T, what string, v, low, high float64) {
	t.Helper()
	t.Logf("%s: %.3f (%.3g to %.3g)", what, v, low, high)
	if !(v >= low && v <= high) {
		t.Errorf("%s: %.4f, want %.4g to %.4g", what, v, low, high)
	}
}

// One receiver, or one bottleneck: how fast it is found, how well it is used and
// how many packets that costs.
func TestBottleneck(t *testing.T) {
	for _, tt := range []struct {
		name   string
		cfg    pace.Config
		port   *port   // shared, nil is none
		host   *port   // nil is none
		loss   loss    // at the receiver
		sink   float64 // bit/s
		every  time.Duration
		rate   float64 // what can be had, bit/s before losses
		low    float64 // part of it that has to arrive, of what losses leave
		waste  float64 // most packets sent for one that passed the bottleneck
		number int     // of receivers; 0 is 1
	}{
		{name: "port of 10 Mbit/s", port: &port{rate: 10e6, buffer: 64e3}, rate: 10e6, low: 0.95, waste: 1.05},
		{name: "port of 30 Mbit/s", port: &port{rate: 30e6, buffer: 64e3}, rate: 30e6, low: 0.95, waste: 1.03},
		{name: "port of 100 Mbit/s", port: &port{rate: 100e6, buffer: 128e3}, rate: 100e6, low: 0.95, waste: 1.02},
		{name: "port of 1 Gbit/s", port: &port{rate: 1e9, buffer: 512e3}, rate: 1e9, low: 0.94, waste: 1.02},
		{name: "four behind a port", port: &port{rate: 100e6, buffer: 128e3}, rate: 100e6, low: 0.95, waste: 1.03, number: 4},
		{name: "200 behind a port, reporting rarely", port: &port{rate: 50e6, buffer: 128e3}, rate: 50e6, low: 0.94, waste: 1.04, number: 200, every: 500 * ms},
		{name: "receiver's socket overflows", port: &port{rate: 300e6, buffer: 4e6}, rate: 300e6, low: 0.95, waste: 1.01},
		{name: "deep buffer", port: &port{rate: 300e6, buffer: 40e6}, rate: 300e6, low: 0.95, waste: 1.01},
		{name: "host link", host: &port{rate: 1e9, buffer: 1e6}, rate: 1e9, low: 0.95, waste: 1.02},
		{name: "disk", host: &port{rate: 1e9, buffer: 1e6}, sink: 200e6, rate: 200e6, low: 0.92, waste: 1.01},
		{name: "cap", cfg: pace.Config{Max: 100e6}, rate: 100e6, low: 0.97, waste: 1.01},
		{name: "cap, 1 % loss", cfg: pace.Config{Max: 500e6}, loss: loss{part: 0.01}, rate: 500e6, low: 0.97, waste: 1.01},
		{name: "cap, 10 % loss", cfg: pace.Config{Max: 500e6}, loss: loss{part: 0.1}, rate: 500e6, low: 0.97, waste: 1.01},
		{name: "cap, 1 % loss in bursts of 20", cfg: pace.Config{Max: 500e6}, loss: loss{part: 0.01, burst: 20}, rate: 500e6, low: 0.93, waste: 1.01},
		{name: "cap, 10 % loss in bursts of 20", cfg: pace.Config{Max: 500e6}, loss: loss{part: 0.1, burst: 20}, rate: 500e6, low: 0.97, waste: 1.01},
		{name: "cap, 100 receivers, 5 % loss in bursts of 8", cfg: pace.Config{Max: 100e6}, loss: loss{part: 0.05, burst: 8}, number: 100, rate: 100e6, low: 0.96, waste: 1.02},
		{name: "host link, 1 % loss", host: &port{rate: 1e9, buffer: 1e6}, loss: loss{part: 0.01}, rate: 1e9, low: 0.95, waste: 1.02},
		{name: "port, 1 % loss", port: &port{rate: 100e6, buffer: 128e3}, loss: loss{part: 0.01}, rate: 100e6, low: 0.95, waste: 1.02},
		{name: "port, 10 % loss", port: &port{rate: 100e6, buffer: 128e3}, loss: loss{part: 0.1}, rate: 100e6, low: 0.93, waste: 1.04},
		{name: "port, 1 % loss in bursts of 20", port: &port{rate: 300e6, buffer: 256e3}, loss: loss{part: 0.01, burst: 20}, rate: 300e6, low: 0.7, waste: 1.05},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(1)
			var clients []*client
			for range max(tt.number, 1) {
				clients = append(clients, &client{loss: tt.loss, sink: tt.sink, every: tt.every})
			}
			s := n.sender(tt.cfg, tt.port, ordinary(clients...)...)
			s.host, s.nic = tt.host, &port{rate: 10e9, buffer: 1e9}
			s.begin(0)
			n.run(15 * time.Second)
			c := clients[0]
			c.arrive(n.now)
			left := 1 - tt.loss.part
			within(t, "part of what can be had, from 2 s on", c.goodput(2, 15)/tt.rate/left, tt.low, 1.01)
			within(t, "packets for one", float64(len(s.sentAt))*left/float64(c.total), 0.98, tt.waste)
			if tt.cfg.Max > 0 {
				within(t, "highest rate", peak(s.rates), 0, float64(tt.cfg.Max))
			}
		})
	}
}

func peak(rates []float64) float64 {
	var m float64
	for _, r := range rates {
		m = max(m, r)
	}
	return m
}

// One slow receiver of a group is left behind below the floor, and followed above.
func TestStragglers(t *testing.T) {
	for _, tt := range []struct {
		name      string
		floor     float64
		clients   []*client
		straggler bool          // the first one
		by        time.Duration // it is found
		low, high float64       // Mbit/s the others get from 2 s to 10 s
	}{
		{"one of 4 at 15 %", 0, []*client{behind(150e6), {}, {}, {}}, true, 1300 * ms, 950, 1000},
		{"one of 4 at 30 %", 0, []*client{behind(300e6), {}, {}, {}}, false, 0, 270, 310},
		{"one of 4 at 50 %", 0, []*client{behind(500e6), {}, {}, {}}, false, 0, 460, 510},
		{"one of 2 at 10 %", 0, []*client{behind(100e6), {}}, true, 1300 * ms, 950, 1000},
		{"one of 4 at 15 %, floor 0.1", 0.1, []*client{behind(150e6), {}, {}, {}}, false, 0, 135, 180},
		{"nobody ever", -1, []*client{behind(100e6), {}, {}, {}}, false, 0, 90, 105},
		{"slow disk of 4", 0, []*client{{sink: 100e6}, {}, {}, {}}, true, 4 * time.Second, 900, 1000},
		{"half as fast a disk of 3", 0, []*client{{sink: 500e6}, {}, {}}, false, 0, 460, 510},
		{"alone", 0, []*client{{port: &port{rate: 5e6, buffer: 64e3}}}, false, 0, 4.5, 5.05},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(2)
			s := n.sender(pace.Config{Floor: tt.floor}, nil, ordinary(tt.clients...)...)
			s.host = &port{rate: 1e9, buffer: 1e6}
			s.begin(0)
			n.run(10 * time.Second)
			for i, c := range tt.clients {
				c.arrive(n.now)
				if want := i == 0 && tt.straggler; c.gone != want {
					t.Errorf("receiver %d a straggler: %v, want %v", i, c.gone, want)
				}
			}
			if tt.straggler {
				within(t, "seconds to find it", tt.clients[0].goneAt.Seconds(), 0, tt.by.Seconds())
			}
			within(t, "Mbit/s of the others", tt.clients[len(tt.clients)-1].goodput(2, 10)/1e6, tt.low, tt.high)
		})
	}
}

// A receiver that stalls for a moment is no straggler, and one that becomes slow
// for good in the middle of it is.
func TestLateStraggler(t *testing.T) {
	n := newNetwork(3)
	clients := ordinary(&client{port: &port{rate: 1e9, buffer: 512e3}}, &client{}, &client{}, &client{})
	s := n.sender(pace.Config{Max: 400e6}, nil, clients...)
	s.begin(0)
	n.after(3*time.Second, func() { clients[0].port.rate = 60e6 })
	n.after(3*time.Second+150*ms, func() { clients[0].port.rate = 1e9 })
	n.run(6 * time.Second)
	if clients[0].gone {
		t.Errorf("a straggler at %v for a hiccup of 150 ms", clients[0].goneAt)
	}
	clients[0].port.rate = 50e6
	n.run(10 * time.Second)
	within(t, "found after", (clients[0].goneAt - 6*time.Second).Seconds(), 0.3, 1)
	clients[1].arrive(n.now)
	within(t, "Mbit/s of the others", clients[1].goodput(3, 10)/1e6, 370, 401)
}

// The rate follows a capacity that changes.
func TestChange(t *testing.T) {
	n := newNetwork(4)
	p := &port{rate: 100e6, buffer: 512e3}
	c := ordinary(&client{})[0]
	s := n.sender(pace.Config{}, p, c)
	s.nic = &port{rate: 1e9, buffer: 1e9}
	s.begin(0)
	n.after(5*time.Second, func() { p.rate = 30e6 })
	n.after(10*time.Second, func() { p.rate = 300e6 })
	n.run(17 * time.Second)
	c.arrive(n.now)
	within(t, "Mbit/s after 1 s at 30", s.meanRate(6*time.Second, 9*time.Second)/1e6, 26, 32)
	within(t, "Mbit/s after 5 s at 300", c.goodput(15, 17)/1e6, 270, 300)
}

// Loss that begins in the middle of it and does not depend on the rate is found
// out within a few seconds.
func TestSuddenLoss(t *testing.T) {
	n := newNetwork(5)
	c := ordinary(&client{})[0]
	s := n.sender(pace.Config{Max: 200e6}, nil, c)
	s.begin(0)
	n.after(5*time.Second, func() { c.loss.part = 0.1 })
	n.run(20 * time.Second)
	c.arrive(n.now)
	within(t, "Mbit/s of 180 from the 5th second after", c.goodput(10, 20)/1e6, 170, 181)
}

// A sender with less to send than it may learns nothing from that.
func TestApplicationLimited(t *testing.T) {
	n := newNetwork(6)
	s := n.sender(pace.Config{}, nil, ordinary(&client{})...)
	s.demand = 50e6
	s.begin(0)
	n.run(5 * time.Second)
	within(t, "rate in Mbit/s at a demand of 50", s.meanRate(4*time.Second, 5*time.Second)/1e6, 50, 110)
	s.demand = 0
	n.run(7 * time.Second)
	within(t, "rate in Mbit/s with demand", s.meanRate(6500*ms, 7*time.Second)/1e6, 400, 1e5)
}

// After a pause the network may be another one.
func TestIdle(t *testing.T) {
	n := newNetwork(7)
	s := n.sender(pace.Config{Max: 400e6}, nil, ordinary(&client{})...)
	s.begin(0)
	n.run(3 * time.Second)
	s.idle = true
	n.run(4 * time.Second)
	within(t, "rate in Mbit/s after 1 s", float64(s.pace.Rate(s.now()))/1e6, 400, 400)
	n.run(60 * time.Second)
	within(t, "rate in Mbit/s after 1 min", float64(s.pace.Rate(s.now()))/1e6, 20, 20)
	s.idle = false
	n.run(62 * time.Second)
	within(t, "rate in Mbit/s 2 s later", float64(s.pace.Rate(s.now()))/1e6, 390, 400)
}

// Without reports nobody knows where the packets go.
func TestSilence(t *testing.T) {
	n := newNetwork(8)
	c := ordinary(&client{})[0]
	s := n.sender(pace.Config{Max: 400e6}, nil, c)
	s.begin(0)
	n.run(3 * time.Second)
	c.gone = true
	n.run(5 * time.Second)
	within(t, "rate in Mbit/s after 2 s", float64(s.pace.Rate(s.now()))/1e6, 200, 400)
	n.run(12 * time.Second)
	within(t, "rate in Mbit/s after 9 s", float64(s.pace.Rate(s.now()))/1e6, 10, 20)
}

// Two channels on one bottleneck, the second seconds later. Which packets a full
// queue drops is chance, so it is the mean of several runs that is fair.
func TestFairness(t *testing.T) {
	const runs = 8
	for _, tt := range []struct {
		name string
		port port
	}{
		{"30 Mbit/s", port{rate: 30e6, buffer: 64e3}},
		{"100 Mbit/s", port{rate: 100e6, buffer: 128e3}},
		{"100 Mbit/s, 80 ms of buffer", port{rate: 100e6, buffer: 1e6}},
		{"300 Mbit/s", port{rate: 300e6, buffer: 256e3}},
		{"800 Mbit/s", port{rate: 800e6, buffer: 512e3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var first, second, apart float64
			for seed := range uint64(runs) {
				x, y := share(seed+1, tt.port)
				first, second = first+x, second+y
				apart += math.Abs(math.Log(x / y))
				t.Logf("run %d: %.1f and %.1f Mbit/s", seed, x/1e6, y/1e6)
			}
			within(t, "second / first", second/first, 0.8, 1.25)
			within(t, "slower / faster in a run, mean", math.Exp(-apart/runs), 0.75, 1)
			within(t, "part of the bottleneck used", (first+second)/runs/tt.port.rate, 0.92, 1)
		})
	}
}

// share returns what two channels, begun 5 s apart, get in 20 s of sharing p.
func share(seed uint64, p port) (x, y float64) {
	n := newNetwork(seed)
	c := ordinary(&client{}, &client{})
	for i, c := range c {
		s := n.sender(pace.Config{}, &p, c)
		s.nic = &port{rate: 10 * p.rate, buffer: 1e9}
		s.begin(time.Duration(i) * 5 * time.Second)
	}
	n.run(30 * time.Second)
	c[0].arrive(n.now)
	c[1].arrive(n.now)
	return c[0].goodput(10, 30), c[1].goodput(10, 30)
}

// A long TCP flow keeps its share beside a polite channel, which is not starved.
func TestPolite(t *testing.T) {
	for _, tt := range []struct {
		name     string
		port     port
		rtt      time.Duration
		reno     bool
		tcp, our float64 // least parts of the bottleneck
	}{
		{"CUBIC, 100 Mbit/s", port{rate: 100e6, buffer: 128e3}, ms, false, 0.4, 0.18},
		{"NewReno, 100 Mbit/s", port{rate: 100e6, buffer: 128e3}, ms, true, 0.4, 0.18},
		{"CUBIC, 300 Mbit/s", port{rate: 300e6, buffer: 256e3}, ms, false, 0.4, 0.2},
		{"NewReno, 300 Mbit/s", port{rate: 300e6, buffer: 256e3}, ms, true, 0.4, 0.2},
		{"CUBIC, 30 Mbit/s", port{rate: 30e6, buffer: 64e3}, ms, false, 0.4, 0.2},
		{"CUBIC, 80 ms of buffer", port{rate: 100e6, buffer: 1e6}, ms, false, 0.4, 0.12},
		{"CUBIC from 20 ms away", port{rate: 100e6, buffer: 128e3}, 20 * ms, false, 0.27, 0.2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(9)
			c := ordinary(&client{})[0]
			s := n.sender(pace.Config{Polite: true}, &tt.port, c)
			f := n.tcp(&tt.port, tt.rtt, tt.reno)
			f.begin(0)
			s.begin(5 * time.Second)
			n.run(45 * time.Second)
			c.arrive(n.now)
			within(t, "part of the flow alone", f.goodput(2, 5)/tt.port.rate, 0.85, 1.01)
			within(t, "part of the flow", f.goodput(10, 45)/tt.port.rate, tt.tcp, 1)
			within(t, "part of the channel", c.goodput(10, 45)/tt.port.rate, tt.our, 1)
		})
	}
}

// Alone, politeness costs what it takes its own probing for.
func TestPoliteAlone(t *testing.T) {
	n := newNetwork(10)
	c := ordinary(&client{})[0]
	s := n.sender(pace.Config{Polite: true}, &port{rate: 100e6, buffer: 128e3}, c)
	s.begin(0)
	n.run(15 * time.Second)
	c.arrive(n.now)
	within(t, "part of the port used", c.goodput(3, 15)/100e6, 0.75, 1)
}

// A large group costs little: a report is worth a few microseconds.
func BenchmarkSample(b *testing.B) {
	const receivers = 5000
	c := pace.New(pace.Config{})
	now := epoch
	s := pace.Sample{Sent: 1000, Received: 990, Bytes: 1000 * packetSize, SendTime: 100 * ms, RecvTime: 100 * ms, RTT: ms}
	for b.Loop() {
		now = now.Add(time.Second / 1000)
		s.Receiver = (s.Receiver + 1) % receivers
		c.Sample(now, s)
		c.Rate(now)
	}
}
