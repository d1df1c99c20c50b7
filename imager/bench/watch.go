package main

import (
	"context"
	"time"
)

// watchRate measures how fast the server sends in the middle of the transfer,
// from a quarter of the file to three quarters, and when it began: the ends
// have more of programs' starts in them than of the network.
func (x *transfer) watchRate(ctx context.Context) error {
	pass := func(part float64) (at time.Time, sent int64, err error) {
		err = poll(ctx, 20*time.Millisecond, func() (bool, error) {
			total, err := x.net.SentTotal()
			sent, at = total-x.before.Total, time.Now()
			return float64(sent) >= part*float64(x.Size)*float64(max(1, x.Channels)), err
		})
		return at, sent, err
	}
	begun, _, err := pass(0.01)
	if err != nil {
		return err
	}
	from, first, err := pass(0.25)
	if err != nil {
		return err
	}
	to, last, err := pass(0.75)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.out.Begun = begun.Sub(x.start).Seconds()
	x.out.Rate = float64(last-first) * 8 / to.Sub(from).Seconds()
	return nil
}

// watchJoin notes what the last receiver missed: all that was sent to groups
// before it was a member of one.
func (x *transfer) watchJoin(ctx context.Context) error {
	if err := poll(ctx, 10*time.Millisecond, func() (bool, error) { return x.net.Joined(x.N) }); err != nil {
		return err
	}
	c, err := x.net.Sent(ctx)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.out.Missed = c.Since(x.before).Multicast
	return nil
}

// killLast kills the last receiver when a third of the file was sent.
func (x *transfer) killLast(ctx context.Context) error {
	err := poll(ctx, 20*time.Millisecond, func() (bool, error) {
		total, err := x.net.SentTotal()
		return total-x.before.Total > x.Size/3, err
	})
	if err != nil {
		return err
	}
	r := x.receivers[x.N-1]
	r.killed = true
	r.proc.Kill()
	return nil
}

// watchShares notes what each channel had sent when the first receiver ended:
// until then both wanted the link.
func (x *transfer) watchShares(ctx context.Context) error {
	err := poll(ctx, 10*time.Millisecond, func() (bool, error) {
		for _, r := range x.receivers {
			select {
			case <-r.proc.Done():
				return true, nil
			default:
			}
		}
		return false, nil
	})
	if err != nil {
		return err
	}
	c, err := x.net.Sent(ctx)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, n := range c.Since(x.before).Groups {
		if n > x.Size/100 { // not the groups of the network's own business
			x.out.Shares = append(x.out.Shares, n)
		}
	}
	return nil
}
