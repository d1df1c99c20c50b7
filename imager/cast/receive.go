package cast

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"huck/imager/api"
	"huck/imager/cast/protocol"
	"huck/imager/image"
)

const (
	// catchUp is how long a receiver that is behind with reading puts its
	// requests off: what it misses may be among what it has not read yet, and
	// the sender would send that again.
	catchUp = 200 * time.Millisecond
	// A receiver that has read all there is lets packets gather before it reads
	// again: waking up costs more than many of them. It rests for as long as
	// gathered bytes take to come, from lull on up to longLull, but no longer than
	// an eighth of receiveBuffer does, since packets of 1.5 kB take room for
	// more. With a smaller buffer it rests shorter, and where that would be below
	// minLull the kernel wakes it for packets.
	gathered = 64 << 10
	lull     = 8 * time.Millisecond
	longLull = 20 * time.Millisecond
	minLull  = time.Millisecond
	// handful is how many chunks a receiver that is behind with reading puts
	// together before it hands them over. Waking somebody for each costs as much
	// as to verify a part of it.
	handful = 16
	// otherSender is how long packets of another session have to come beside
	// those of this one until another sender is suspected; a restarted one does
	// not send beside itself. otherGap is the least time between two log lines.
	otherSender = time.Second
	otherGap    = 10 * time.Second
)

// Join joins a channel. What comes of it waits in the socket's buffer, as far as
// there is room, until it is fed to somebody.
func Join(ctx context.Context, cfg ReceiverConfig) (*Reception, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	var seed [32]byte
	if _, err := crand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("cast: draw a receiver number: %v", err)
	}
	m, err := NewReceiver(cfg.Channel, unfed{}, rand.New(rand.NewChaCha8(seed)))
	if err != nil {
		return nil, err
	}
	r := &Reception{
		cfg: cfg, machine: m,
		work: make(chan *Assembled, maxHeld), results: make(chan result, maxHeld), refreshed: make(chan refreshed, 1),
	}
	if err := r.open(ctx, cfg.Channel); err != nil {
		return nil, err
	}
	return r, nil
}

// Feed feeds the sink until that is complete, and returns nil then; the channel
// is still joined and another sink can be fed. After an error it is of no use but
// to be closed: one that wraps ErrNoMulticast, ErrBadChannel or ErrUnavailable
// where other transports have to take over, ctx's error if that ended, or the
// sink's own.
func (r *Reception) Feed(ctx context.Context, f Feed) error {
	r.feed = f
	r.machine.Want(time.Now(), f.Sink)
	ctx, cancel := context.WithCancel(ctx)
	for range min(runtime.GOMAXPROCS(0), 4) {
		r.wait.Go(func() { r.deliver(ctx) })
	}
	err := r.run(ctx)
	cancel()
	r.wait.Wait()
	now := time.Now()
	for len(r.results) > 0 {
		o := <-r.results
		r.machine.Delivered(now, o.a, o.err)
	}
	for len(r.work) > 0 { // this sink has no use for it any more, and the next one none
		r.machine.Delivered(now, <-r.work, context.Canceled)
	}
	for a, ok := r.machine.Done(); ok; a, ok = r.machine.Done() {
		r.machine.Delivered(now, a, context.Canceled)
	}
	return err
}

// Close leaves the channel and returns what was counted.
func (r *Reception) Close() (ReceiveStats, error) {
	st := r.machine.Stats()
	st.BufferDrops = r.drops.total
	return st, r.close()
}

// unfed wants nothing.
type unfed struct{}

func (unfed) Useful(uint32) bool                { return false }
func (unfed) Missing(uint32, []uint32) []uint32 { return nil }

// groupConn is the socket that the group's packets come from.
type groupConn interface {
	readBatch(ms []inbound) (int, error)
	stamp() time.Time
	tellSources()
	await(d time.Duration)
	Close() error
	join(group netip.AddrPort, ifi *net.Interface) error
	leave(group netip.AddrPort, ifi *net.Interface) error
}

// Reception is a channel that was joined. Its methods are called one after the
// other.
type Reception struct {
	cfg       ReceiverConfig
	feed      Feed
	machine   *Receiver
	ifi       *net.Interface
	group     groupConn
	sender    net.Conn // where requests go
	joined    api.Channel
	work      chan *Assembled // has room for all that the machine holds
	results   chan result
	refreshed chan refreshed
	wait      sync.WaitGroup
	packet    []byte // scratch

	behind  bool      // more is waiting to be read
	room    float64   // the socket's buffer over receiveBuffer
	arrived time.Time // the last packet
	emptied time.Time // when all there was had been read
	drops   drops
	others  time.Time // since when another session's packets come; zero is not
	named   time.Time // when the last log line about them was written
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
func (r *Reception) open(ctx context.Context, ch api.Channel) error {
	if !ch.Sender.IsValid() || ch.Sender.Addr().IsUnspecified() || !ch.Group.Addr().IsMulticast() {
		return fmt.Errorf("cast: channel with sender %v and group %v", ch.Sender, ch.Group)
	}
	ifi, err := r.chooseInterface(ctx, ch)
	if err != nil {
		return err
	}
	group, err := joinGroup(ch.Group, ifi, r.cfg.Log)
	if err != nil {
		return err
	}
	sender, err := dialSender(ctx, ch.Sender, ifi)
	if err != nil {
		group.Close()
		return err
	}
	r.group, r.sender, r.joined, r.ifi = group, sender, ch, ifi
	r.room = float64(group.buffer) / receiveBuffer
	r.drops.last, r.others = 0, time.Time{}
	r.cfg.Log.Info("joined channel", "group", ch.Group, "sender", ch.Sender, "interface", ifi.Name)
	return nil
}

// chooseInterface returns the interface to join ch on. One that was given is
// looked up again, since its number and MTU may have changed.
func (r *Reception) chooseInterface(ctx context.Context, ch api.Channel) (ifi *net.Interface, err error) {
	if r.cfg.Interface == nil {
		ifi, err = routeTo(ctx, ch.Sender)
	} else if ifi, err = net.InterfaceByName(r.cfg.Interface.Name); err != nil {
		err = fmt.Errorf("cast: interface %s: %v", r.cfg.Interface.Name, err)
	}
	if err != nil {
		return nil, err
	}
	if need := ch.SymbolSize + protocol.DataSize + headerBytes(ch.Group); ifi.MTU < need {
		return nil, fmt.Errorf("cast: packets of group %v need an MTU of %d, interface %s has %d; raise it, or have the sender use smaller symbols: %w",
			ch.Group, need, ifi.Name, ifi.MTU, ErrNoMulticast)
	}
	return ifi, nil
}

func (r *Reception) close() error {
	return errors.Join(r.group.Close(), r.sender.Close())
}

// run drives the machine. It looks after everything else at least once a
// tick, so nothing has to wake it.
func (r *Reception) run(ctx context.Context) error {
	ms := newInbound(receiveBatch)
	for {
		now := time.Now()
		ask := !r.behind || now.Sub(r.machine.Timer(now)) > catchUp
		if done, err := r.turn(ctx, now, ask); done {
			return err
		}
		if !r.behind {
			r.rest(r.machine.Timer(now).Sub(now))
		}
		n, err := r.group.readBatch(ms)
		if err != nil && !transient(err) {
			return fmt.Errorf("cast: receive from group %v: %v", r.joined.Group, err)
		}
		now = time.Now()
		r.take(now, ms[:n])
		if r.behind = n == len(ms); !r.behind {
			r.emptied = now
		}
	}
}

// rest lets packets gather, until something else is to be done after d.
func (r *Reception) rest(d time.Duration) {
	if r.room < minLull.Seconds()/lull.Seconds() {
		r.group.await(max(minLull, min(d, tick)))
		return
	}
	gather := lull
	if rate := time.Duration(r.machine.rate); rate > 0 {
		gather = min(max(lull, gathered*8*time.Second/rate), longLull, receiveBuffer/8*8*time.Second/rate)
	}
	time.Sleep(max(minLull, time.Duration(r.room*float64(gather))))
}

// take hands the packets in messages to the machine. When the last one came the
// kernel tells; the others are taken to have come evenly since the last look.
func (r *Reception) take(now time.Time, ms []inbound) {
	if len(ms) == 0 {
		return
	}
	if r.arrived.Before(r.emptied) {
		r.arrived = r.emptied
	}
	last := arrival(now, r.group.stamp(), r.arrived)
	for i := range ms {
		message, told := ms[i].message()
		if told.counted {
			r.drops.note(now, told.drops, r.cfg.Log)
		}
		r.arrived = r.arrived.Add(last.Sub(r.arrived) / time.Duration(len(ms)-i))
		foreign := r.machine.stats.Foreign
		for p := range told.packets(message) {
			r.machine.Packet(r.arrived, p)
		}
		if r.machine.stats.Foreign != foreign {
			r.group.tellSources()
			r.other(now, ms[i].source())
		}
	}
}

// other notes a packet of another session. While this one goes on, that is
// another sender which has the same group, by mistake.
func (r *Reception) other(now time.Time, from netip.AddrPort) {
	if r.others.IsZero() {
		r.others = now
	}
	if r.machine.heard.Sub(r.others) > otherSender && now.Sub(r.named) > otherGap {
		r.named = now
		r.cfg.Log.Warn("another sender uses the channel's group, give one of them another", "peer", from, "group", r.joined.Group, "sender", r.joined.Sender)
	}
}

// turn does everything but read from the group; requests only if ask is set.
func (r *Reception) turn(ctx context.Context, now time.Time, ask bool) (done bool, err error) {
	if !r.behind || len(r.machine.done) >= handful {
		for a, ok := r.machine.Done(); ok; a, ok = r.machine.Done() {
			r.work <- a
		}
	}
	select {
	case <-ctx.Done():
		return true, ctx.Err()
	case <-r.feed.Sink.Complete():
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
func (r *Reception) outcomes(now time.Time) error {
	for len(r.results) > 0 {
		o := <-r.results
		r.machine.Delivered(now, o.a, o.err)
		if _, bad := errors.AsType[*image.ChunkError](o.err); o.err != nil && !bad {
			return fmt.Errorf("cast: deliver chunk %d: %w", o.a.Chunk, o.err)
		}
	}
	for n, err, ok := r.machine.Failed(); ok; n, err, ok = r.machine.Failed() {
		if r.feed.Failed != nil {
			r.feed.Failed(n, err)
		} else if errors.Is(err, ErrUnavailable) {
			return fmt.Errorf("cast: chunk %d: %w", n, err)
		}
	}
	return nil
}

// refresh asks for the channel anew when the machine wants to, beside
// receiving, and takes the answer.
func (r *Reception) refresh(ctx context.Context, now time.Time) error {
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

// rejoin goes over to ch. What is wrong with it may be right the next time,
// but for an MTU. The sockets are made anew even if ch is the same: the
// interface may be another one now, and a switch may have forgotten who wants
// the group, which leaving and joining tells it again.
func (r *Reception) rejoin(ctx context.Context, now time.Time, ch api.Channel) error {
	group, sender, joined := r.group, r.sender, r.joined
	_ = r.group.leave(r.joined.Group, r.ifi) // gone with the interface, or for the better
	err := r.open(ctx, ch)
	if errors.Is(err, ErrNoMulticast) {
		return err
	}
	if err != nil {
		r.cfg.Log.Warn("join the channel again", "err", err)
		_ = r.group.join(r.joined.Group, r.ifi) // as before, if that is possible
		r.machine.RefreshFailed(now)
		return nil
	}
	if err := errors.Join(group.Close(), sender.Close()); err != nil {
		return fmt.Errorf("cast: leave group: %v", err)
	}
	if !slices.Equal(ch.Secret, joined.Secret) {
		r.cfg.Log.Info("channel has a new session", "group", ch.Group, "sender", ch.Sender)
	}
	if err := r.machine.Rejoin(now, ch); err != nil {
		r.cfg.Log.Warn("join the channel again", "err", err)
		r.machine.RefreshFailed(now)
	}
	return nil
}

// deliver recovers and delivers chunks.
func (r *Reception) deliver(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-r.work:
			b, err := a.Bytes()
			if err == nil {
				err = r.feed.Sink.Deliver(ctx, a.Chunk, b, Via)
			}
			r.results <- result{a, err} // has room for all that the machine holds
		}
	}
}
