package receive

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"huck/imager/api"
	"huck/imager/cast"
	"huck/imager/image"
	"huck/imager/install"
)

// A channel that brought nothing is tried again after firstRetry at most, then
// after twice that, and so on up to maxRetry. A try costs a few packets: a
// switch that learnt about the group meanwhile, or an origin that was restarted,
// should not be missed for long.
const (
	firstRetry = 30 * time.Second
	maxRetry   = 5 * time.Minute
)

// quiet is how long chunks may be missing and none come of a channel before
// HTTP brings some: longer than a channel takes to send one at its slowest.
const quiet = 30 * time.Second

// follow takes part in the image's channel as long as that is of use, and turns
// HTTP on while the channel brings nothing. It returns when the job is
// complete, ctx is done or the job itself failed.
func (r *receiver) follow(ctx context.Context) error {
	retry := firstRetry
	for !r.cfg.NoMulticast {
		brought, err := false, r.failed
		if r.failed = nil; err == nil {
			brought, err = r.once(ctx)
		}
		if failed := (*jobError)(nil); err == nil || ctx.Err() != nil || errors.As(err, &failed) {
			return err
		}
		if !worthRetry(err) {
			r.log.Warn("left the channel, finishing over HTTP", "peer", r.cfg.Base.Host, "err", err)
			break
		}
		if r.demand.setAll(true) {
			r.log.Warn("nothing comes by multicast, going on over HTTP; the channel will be tried again", "peer", r.cfg.Base.Host, "err", err)
		} else {
			r.log.Info("still nothing by multicast", "peer", r.cfg.Base.Host, "err", err)
		}
		if brought {
			retry = firstRetry
		}
		again := time.After(retry - rand.N(retry/4)) // a whole group may have lost the channel at once
		if complete, err := r.rest(ctx, again); complete || err != nil {
			return err
		}
		retry = min(2*retry, maxRetry)
	}
	r.demand.setAll(true)
	_, err := r.rest(ctx, nil)
	return err
}

// rest waits until again fires, the job is complete or ctx is done.
func (r *receiver) rest(ctx context.Context, again <-chan time.Time) (complete bool, err error) {
	select {
	case <-again:
		return false, nil
	case <-r.job.Complete():
		return true, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// worthRetry reports whether a channel that ended with err may do better later.
// To a straggler the channel would say the same again, and one that delivers
// what is not the image's is damaged or an impostor's.
func worthRetry(err error) bool {
	return !errors.Is(err, cast.ErrStraggler) && !errors.Is(err, cast.ErrBadChannel)
}

// once joins the channel and stays in it until the job is complete, which is no
// error, or the channel is of no use. brought tells that chunks came of it.
func (r *receiver) once(ctx context.Context) (brought bool, err error) {
	s := &sink{Job: r.job, r: r, arrived: make(chan struct{}, 1)}
	wctx, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { s.watch(wctx) })
	defer watcher.Wait()
	defer stop()
	err = r.fed(ctx, cast.Feed{Sink: s, Failed: func(n uint32, err error) {
		r.log.Warn("chunk not to be had by multicast, asking over HTTP", "chunk", n, "err", err)
		r.demand.add(n)
	}})
	return s.brought.Load(), errors.Join(err, r.leave())
}

// fed joins the image's channel, unless it is joined, and has it feed somebody.
func (r *receiver) fed(ctx context.Context, feed cast.Feed) error {
	if r.session == nil {
		var ifi *net.Interface // nil: the one that leads to the sender
		var err error
		if r.cfg.Interface != "" {
			if ifi, err = net.InterfaceByName(r.cfg.Interface); err != nil {
				return fmt.Errorf("receive: interface %s: %w", r.cfg.Interface, err)
			}
		}
		channel := func(ctx context.Context) (api.Channel, error) { return r.client.Channel(ctx, r.digest) }
		ch, err := channel(ctx)
		if err != nil {
			return err
		}
		if r.session, err = r.join(ctx, cast.ReceiverConfig{Channel: ch, Interface: ifi, Refresh: channel, Log: r.log}); err != nil {
			return err
		}
	}
	return r.session.Feed(ctx, feed)
}

// leave leaves the channel if it is joined.
func (r *receiver) leave() error {
	if r.session == nil {
		return nil
	}
	stats, err := r.session.Close()
	r.session = nil
	r.repairBytes += int64(stats.RepairBytes)
	return err
}

// sink is the job as the channel sees it. A chunk is the sign that the channel
// is of use: small packets, such as announcements, may come through where data
// does not.
type sink struct {
	*install.Job
	r       *receiver
	arrived chan struct{} // has room for one: a chunk came
	brought atomic.Bool   // some did
}

// Deliver implements cast.Sink.
func (s *sink) Deliver(ctx context.Context, n uint32, encoded []byte, via string) error {
	err := s.Job.Deliver(ctx, n, encoded, via)
	if damaged := (*image.ChunkError)(nil); err != nil && !errors.As(err, &damaged) {
		return &jobError{err}
	}
	if err != nil {
		return err
	}
	s.brought.Store(true)
	select {
	case s.arrived <- struct{}{}:
	default:
	}
	if s.r.demand.setAll(false) {
		s.r.log.Info("multicast arrives, HTTP takes only what it does not bring", "peer", s.r.cfg.Base.Host)
	}
	return nil
}

// watch turns HTTP on whenever the channel is quiet for too long.
func (s *sink) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.arrived:
		case <-time.After(quiet):
			wanting := len(s.Missing(0, make([]uint32, 0, 1))) > 0
			if wanting && s.r.demand.setAll(true) {
				s.r.log.Warn("no chunk by multicast for a while, fetching over HTTP beside it", "peer", s.r.cfg.Base.Host, "quiet", quiet)
			}
		}
	}
}

// jobError is the job's own: another transport would meet it, too.
type jobError struct{ error }

// Unwrap returns what the job said.
func (e *jobError) Unwrap() error { return e.error }
