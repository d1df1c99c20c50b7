package casttest

import (
	"bytes"
	"context"
	"net/netip"
	"time"

	"huck/imager/cast"
)

// Receiver runs a cast.Receiver.
type Receiver struct {
	*cast.Receiver
	Sink *Sink
	Link Link
	// SinkRate is how many bytes a second the sink takes; 0 is any.
	SinkRate float64
	// Lost lists the chunks that have to come by another way.
	Lost []uint32
	// Finished is when the sink was complete, or zero.
	Finished time.Time
	// Gone receivers hear and say nothing any more.
	Gone bool

	failed bool

	net                                                *Network
	group                                              netip.AddrPort
	timer                                              time.Time
	sinkAt                                             time.Time // when the sink is free again
	losses, duplicates, corruptions, detours, feedback losses
}

// listening reports that the receiver takes part.
func (r *Receiver) listening() bool { return !r.Gone && r.Finished.IsZero() }

// take takes packets that arrive together, or does not.
func (r *Receiver) take(packets [][]byte) {
	for _, p := range packets {
		r.one(p)
		if r.duplicates.hit(r.net.Now, r.net.rnd, r.Link.Duplicate, 0) {
			r.one(p)
		}
	}
	r.poll()
}

// one takes a packet.
func (r *Receiver) one(p []byte) {
	rnd := r.net.rnd
	if r.losses.hit(r.net.Now, rnd, r.Link.Loss, r.Link.Burst) {
		return
	}
	if r.corruptions.hit(r.net.Now, rnd, r.Link.Corrupt, 0) {
		p = bytes.Clone(p)
		p[rnd.IntN(len(p))] ^= 1 << rnd.IntN(8)
	}
	if r.detours.hit(r.net.Now, rnd, r.Link.Reorder, 0) {
		r.net.After(time.Duration(rnd.Int64N(int64(r.Link.Jitter)+1)), func() {
			if r.listening() {
				r.net.Inject(r, p)
			}
		})
		return
	}
	r.Packet(r.net.Now, p)
}

// poll does what an owner of a cast.Receiver does.
func (r *Receiver) poll() {
	if !r.listening() {
		return
	}
	for a, ok := r.Done(); ok; a, ok = r.Done() {
		r.deliver(a)
	}
	for c, _, ok := r.Receiver.Failed(); ok; c, _, ok = r.Receiver.Failed() {
		r.Lost = append(r.Lost, c)
	}
	if r.Err() != nil {
		r.fail()
		return
	}
	if r.WantRefresh(r.net.Now) {
		r.net.After(5*time.Millisecond, r.refresh)
	}
	for packet, ok := r.Next(r.net.Now, nil); ok; packet, ok = r.Next(r.net.Now, nil) {
		r.say(packet)
	}
	t := r.Timer(r.net.Now)
	if t.IsZero() || t.Equal(r.timer) {
		return
	}
	r.timer = t
	r.net.At(later(t, r.net.Now), func() {
		if t.Equal(r.timer) {
			r.timer = time.Time{}
			r.poll()
		}
	})
}

// fail tells of the receiver's error.
func (r *Receiver) fail() {
	if !r.failed && r.net.Failed != nil {
		r.net.Failed(r)
	}
	r.failed = true
}

// say sends a packet to the sender. The way there is never full.
func (r *Receiver) say(packet []byte) {
	if r.feedback.hit(r.net.Now, r.net.rnd, r.Link.FeedbackLoss, 0) {
		return
	}
	r.net.After(r.Link.Delay+r.net.Trunk.Delay, func() { r.net.Inject(nil, packet) })
}

func (r *Receiver) refresh() {
	s := r.net.api(r.group)
	if s != nil {
		s.Expect(r.net.Now)
	}
	if s == nil || r.Rejoin(r.net.Now, s.Channel) != nil {
		r.RefreshFailed(r.net.Now)
	}
	r.poll()
}

// deliver gives a chunk to the sink when that has room.
func (r *Receiver) deliver(a *cast.Assembled) {
	at := r.net.Now
	if r.SinkRate > 0 {
		if r.sinkAt.Before(at) {
			r.sinkAt = at
		}
		size := len(r.Sink.image.Encoded[a.Chunk])
		r.sinkAt = r.sinkAt.Add(time.Duration(float64(size) / r.SinkRate * float64(time.Second)))
		at = r.sinkAt
	}
	r.net.At(at, func() { r.write(a) })
}

// write ends the delivery of a chunk.
func (r *Receiver) write(a *cast.Assembled) {
	if r.Gone {
		return
	}
	r.Delivered(r.net.Now, a, r.Sink.take(a))
	select {
	case <-r.Sink.Complete():
		if r.Finished.IsZero() {
			r.Finished = r.net.Now
		}
	default:
	}
	r.poll()
}

// take recovers a chunk and compares it, or believes that it could.
func (s *Sink) take(a *cast.Assembled) error {
	if s.Count {
		return s.deliver(a.Chunk)
	}
	b, err := a.Bytes()
	if err != nil {
		return err
	}
	return s.Deliver(context.Background(), a.Chunk, b, cast.Via)
}
