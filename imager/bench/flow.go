package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"huck/imager/bench/rig"
)

// flow is a TCP stream that takes what it gets.
type flow struct {
	received  atomic.Int64
	from, to  net.Conn
	done      chan struct{} // closed when both ends have ended
	writeDone chan struct{}
}

// aloneFor is how long a flow has its link to itself before the transfer.
const aloneFor = 4 * time.Second

// startFlow lets a neighbour, the host after the last receiver, send to the
// first receiver as fast as TCP will, and measures how fast that is without
// the transfer.
func (x *transfer) startFlow(ctx context.Context) error {
	f, err := newFlow(x.net, x.N+1, 1)
	if err != nil {
		return err
	}
	x.flow = f
	if err := wait(ctx, time.Second); err != nil { // slow start is over
		return err
	}
	began, before := time.Now(), f.received.Load()
	if err := wait(ctx, aloneFor); err != nil {
		return err
	}
	x.out.FlowAlone = f.rate(began, before)
	return nil
}

// watchFlow measures the flow from when a tenth of the file was sent until all
// have it.
func (x *transfer) watchFlow(ctx context.Context) error {
	err := poll(ctx, 20*time.Millisecond, func() (bool, error) {
		total, err := x.net.SentTotal()
		return total-x.before.Total > x.Size/10, err
	})
	if err != nil {
		return err
	}
	began, before := time.Now(), x.flow.received.Load()
	<-ctx.Done()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.out.FlowBeside = x.flow.rate(began, before)
	return nil
}

func (x *transfer) endFlow() {
	if x.flow != nil {
		x.flow.stop()
	}
}

// rate is bits a second since then.
func (f *flow) rate(since time.Time, before int64) float64 {
	return float64(f.received.Load()-before) * 8 / time.Since(since).Seconds()
}

func newFlow(n *rig.Network, from, to int) (*flow, error) {
	var ln net.Listener
	err := n.Do(to, func() (err error) {
		ln, err = net.Listen("tcp4", rig.Addr(to).String()+":0")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("TCP flow: %v", err)
	}
	defer ln.Close()
	f := &flow{done: make(chan struct{}), writeDone: make(chan struct{})}
	if err = n.Do(from, func() (err error) { f.from, err = net.DialTimeout("tcp4", ln.Addr().String(), readyTime); return err }); err != nil {
		return nil, fmt.Errorf("TCP flow: %v", err)
	}
	if f.to, err = ln.Accept(); err != nil {
		return nil, errors.Join(fmt.Errorf("TCP flow: %v", err), f.from.Close())
	}
	// Both end when stop closes their sockets.
	go func() {
		defer close(f.writeDone)
		for b := make([]byte, 64<<10); ; {
			if _, err := f.from.Write(b); err != nil {
				return
			}
		}
	}()
	go func() {
		defer close(f.done)
		for b := make([]byte, 64<<10); ; {
			k, err := f.to.Read(b)
			if err != nil {
				return
			}
			f.received.Add(int64(k))
		}
	}()
	return f, nil
}

// stop ends the flow; errors of closing mean nothing to a stream of zeros.
func (f *flow) stop() {
	_ = f.from.Close()
	_ = f.to.Close()
	<-f.done
	<-f.writeDone
}
