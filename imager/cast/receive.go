package cast

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"

	"huck/imager/api"
	"huck/imager/cast/protocol"
	"huck/imager/image"
)

// receiveBatch is how many packets one system call receives at most. A full
// batch means that more are waiting.
const receiveBatch = 64

// catchUp is how long a receiver that is behind with reading puts its requests
// off: what it misses may be among what it has not read yet, and the sender
// would send that again.
const catchUp = 200 * time.Millisecond

// Receive joins a channel and feeds cfg.Sink until that is complete, and
// returns nil then. It returns an error that wraps ErrNoMulticast,
// ErrBadChannel or ErrUnavailable where other transports have to take over,
// ctx's error if that ended, or the Sink's own.
func Receive(ctx context.Context, cfg ReceiverConfig) (ReceiveStats, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	var seed [32]byte
	if _, err := crand.Read(seed[:]); err != nil {
		return ReceiveStats{}, fmt.Errorf("cast: draw a receiver number: %v", err)
	}
	m, err := NewReceiver(cfg.Channel, cfg.Sink, rand.New(rand.NewChaCha8(seed)))
	if err != nil {
		return ReceiveStats{}, err
	}
	r := &reception{cfg: cfg, machine: m, results: make(chan result, maxHeld), refreshed: make(chan refreshed, 1)}
	if err := r.open(ctx, cfg.Channel); err != nil {
		return ReceiveStats{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r.work = make(chan *Assembled, maxHeld)
	for range min(runtime.GOMAXPROCS(0), 4) {
		r.wait.Go(func() { r.deliver(ctx) })
	}
	err = r.run(ctx)
	cancel()
	r.wait.Wait()
	for now := time.Now(); len(r.results) > 0; { // for the counters
		o := <-r.results
		r.machine.Delivered(now, o.a, o.err)
	}
	if closing := r.close(); err == nil {
		err = closing
	}
	return r.machine.Stats(), err
}

// reception is a running Receive.
type reception struct {
	cfg       ReceiverConfig
	machine   *Receiver
	ifi       *net.Interface
	group     *conn
	sender    *net.UDPConn
	joined    api.Channel
	work      chan *Assembled // has room for all that the machine holds
	results   chan result
	refreshed chan refreshed
	wait      sync.WaitGroup
	packet    []byte // scratch
}

type result struct {
	a   *Assembled
	err error
}

type refreshed struct {
	channel api.Channel
	err     error
}

// open opens the sockets for ch.
func (r *reception) open(ctx context.Context, ch api.Channel) error {
	if !ch.Sender.IsValid() || ch.Sender.Addr().IsUnspecified() || !ch.Group.Addr().IsMulticast() {
		return fmt.Errorf("cast: channel with sender %v and group %v", ch.Sender, ch.Group)
	}
	r.ifi = r.cfg.Interface
	var err error
	if r.ifi == nil {
		if r.ifi, err = routeTo(ctx, ch.Sender); err != nil {
			return err
		}
	}
	if r.group, err = joinGroup(ch.Group, r.ifi, r.cfg.Log); err != nil {
		return err
	}
	if r.sender, err = dialSender(ctx, ch.Sender, r.ifi); err != nil {
		r.group.Close()
		return err
	}
	r.joined = ch
	r.cfg.Log.Info("joined channel", "group", ch.Group, "sender", ch.Sender, "interface", r.ifi.Name)
	return nil
}

func (r *reception) close() error {
	if r.group == nil {
		return nil
	}
	return errors.Join(r.group.Close(), r.sender.Close())
}

// run drives the machine. It looks after everything else at least once a
// tick, so nothing has to wake it.
func (r *reception) run(ctx context.Context) error {
	ms := newMessages(receiveBatch, protocol.MaxPacket)
	behind := false
	for {
		now := time.Now()
		deadline := r.machine.Timer(now)
		ask := !behind || now.Sub(deadline) > catchUp
		if done, err := r.turn(ctx, now, ask); done {
			return err
		}
		if ask {
			deadline = r.machine.Timer(now)
		} else {
			deadline = now.Add(tick)
		}
		if err := r.group.SetReadDeadline(deadline); err != nil {
			return fmt.Errorf("cast: receive: %v", err)
		}
		n, err := r.group.readBatch(ms)
		behind = n == receiveBatch
		if err != nil {
			if !expired(err) && !transient(err) {
				return fmt.Errorf("cast: receive from group %v: %v", r.joined.Group, err)
			}
			continue
		}
		now = time.Now()
		for i := range n {
			r.machine.Packet(now, ms[i].Buffers[0][:ms[i].N])
		}
	}
}

// turn does everything but read from the group; requests only if ask is set.
func (r *reception) turn(ctx context.Context, now time.Time, ask bool) (done bool, err error) {
	for a, ok := r.machine.Done(); ok; a, ok = r.machine.Done() {
		r.work <- a
	}
	select {
	case <-ctx.Done():
		return true, ctx.Err()
	case <-r.cfg.Sink.Complete():
		return true, nil
	default:
	}
	if err := r.outcomes(now); err != nil {
		return true, err
	}
	if err := r.refresh(ctx, now); err != nil {
		return true, err
	}
	for ask {
		p, ok := r.machine.Next(now, r.packet[:0])
		if !ok {
			break
		}
		r.packet = p
		if _, err := r.sender.Write(p); err != nil && !transient(err) {
			return true, fmt.Errorf("cast: ask sender %v: %v", r.joined.Sender, err)
		}
	}
	return r.machine.Err() != nil, r.machine.Err()
}

// outcomes tells the machine what became of delivered chunks, and the caller
// of those that failed.
func (r *reception) outcomes(now time.Time) error {
	for len(r.results) > 0 {
		o := <-r.results
		r.machine.Delivered(now, o.a, o.err)
		if _, bad := errors.AsType[*image.ChunkError](o.err); o.err != nil && !bad {
			return fmt.Errorf("cast: deliver chunk %d: %w", o.a.Chunk, o.err)
		}
	}
	for n, err, ok := r.machine.Failed(); ok; n, err, ok = r.machine.Failed() {
		if r.cfg.Failed != nil {
			r.cfg.Failed(n, err)
		} else if errors.Is(err, ErrUnavailable) {
			return fmt.Errorf("cast: chunk %d: %w", n, err)
		}
	}
	return nil
}

// refresh asks for the channel anew when the machine wants to, beside
// receiving, and takes the answer.
func (r *reception) refresh(ctx context.Context, now time.Time) error {
	if r.cfg.Refresh != nil && r.machine.WantRefresh(now) {
		r.cfg.Log.Info("asking for the channel again", "group", r.joined.Group)
		r.wait.Go(func() {
			ch, err := r.cfg.Refresh(ctx)
			r.refreshed <- refreshed{ch, err} // has room: one at a time
		})
	}
	var got refreshed
	select {
	case got = <-r.refreshed:
	default:
		return nil
	}
	if got.err != nil {
		r.cfg.Log.Warn("ask for the channel again", "err", got.err)
		r.machine.RefreshFailed(now)
		return nil
	}
	return r.rejoin(ctx, now, got.channel)
}

// rejoin goes over to ch. What is wrong with it may be right the next time.
func (r *reception) rejoin(ctx context.Context, now time.Time, ch api.Channel) error {
	if ch.Group != r.joined.Group || ch.Sender != r.joined.Sender {
		group, sender := r.group, r.sender
		if err := r.open(ctx, ch); err != nil {
			r.cfg.Log.Warn("join the channel again", "err", err)
			r.group, r.sender = group, sender
			r.machine.RefreshFailed(now)
			return nil
		}
		if err := errors.Join(group.Close(), sender.Close()); err != nil {
			return fmt.Errorf("cast: leave group: %v", err)
		}
	}
	if !slices.Equal(ch.Secret, r.joined.Secret) {
		r.cfg.Log.Info("channel has a new session", "group", ch.Group, "sender", ch.Sender)
	}
	r.joined = ch
	if err := r.machine.Rejoin(now, ch); err != nil {
		r.cfg.Log.Warn("join the channel again", "err", err)
		r.machine.RefreshFailed(now)
	}
	return nil
}

// deliver recovers and delivers chunks.
func (r *reception) deliver(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-r.work:
			b, err := a.Bytes()
			if err == nil {
				err = r.cfg.Sink.Deliver(ctx, a.Chunk, b, Via)
			}
			r.results <- result{a, err} // has room for all that the machine holds
		}
	}
}
