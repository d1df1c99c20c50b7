package origin

import (
	"context"
	"log/slog"
	"time"

	"huck/imager/cast"
	"huck/imager/image"
)

const (
	// lookEvery is how often channels are looked at.
	lookEvery = 250 * time.Millisecond
	// over is how long a channel sends no data before what it did counts as
	// done: receivers that lack something ask again within a second.
	over = 2 * time.Second
	// A channel at work is told of after tellFirst, then every tellEvery.
	tellFirst = 2 * time.Second
	tellEvery = 10 * time.Second
)

// watch tells the log what the channels do until ctx ends.
func (o *Origin) watch(ctx context.Context) {
	known := make(map[*cast.Channel]*activity)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			open := o.channels()
			for c, digest := range open {
				if known[c] == nil {
					known[c] = newActivity(o.log, c, digest)
				}
				known[c].look(now, c.Stats())
			}
			for c, a := range known {
				if _, ok := open[c]; !ok {
					a.end()
					delete(known, c)
				}
			}
		case <-ctx.Done():
			for c, a := range known {
				a.look(time.Now(), c.Stats())
				a.end()
			}
			return
		}
	}
}

// channels returns the open channels and their images.
func (o *Origin) channels() map[*cast.Channel]image.ID {
	o.mu.Lock()
	defer o.mu.Unlock()
	m := make(map[*cast.Channel]image.ID, len(o.open))
	for _, i := range o.open {
		if i.channel != nil {
			m[i.channel] = i.img.Digest
		}
	}
	return m
}

// activity is what a channel does from when it begins to send data until
// nobody wants more.
type activity struct {
	log       *slog.Logger
	seen      cast.SenderStats // at the last look
	at        time.Time        // of the last look
	before    cast.SenderStats // before it began
	began     time.Time        // zero: it did not
	last      time.Time        // when data was last seen to go
	receivers int              // the most there were
	tellAt    time.Time
}

func newActivity(log *slog.Logger, c *cast.Channel, digest image.ID) *activity {
	return &activity{log: log.With("image", digest.Short(), "group", c.Info().Group.String())}
}

// look takes note of the channel's counters at now, a moment after the last
// look.
func (a *activity) look(now time.Time, st cast.SenderStats) {
	if st.DataPackets > a.seen.DataPackets {
		if a.began.IsZero() {
			a.began, a.before, a.receivers = now, a.seen, 0
			if !a.at.IsZero() {
				a.began = a.at
			}
			a.tellAt = a.began.Add(tellFirst)
		}
		a.last = now
	}
	a.seen, a.at = st, now
	if a.began.IsZero() {
		return
	}
	a.receivers = max(a.receivers, st.Members)
	switch {
	case st.Queued == 0 && now.Sub(a.last) >= over:
		a.end()
	case a.last.Equal(now) && !now.Before(a.tellAt):
		a.tell("channel is sending", "queued_chunks", st.Queued)
		a.tellAt = now.Add(tellEvery)
	}
}

// end tells what was done, if anything.
func (a *activity) end() {
	if a.began.IsZero() {
		return
	}
	a.tell("channel has sent", "unavailable", a.seen.Unavailable-a.before.Unavailable)
	a.began = time.Time{}
}

// tell logs the activity so far. The rate is its mean, in bits a second.
func (a *activity) tell(message string, more ...any) {
	n, took := a.seen.Bytes-a.before.Bytes, a.last.Sub(a.began)
	rate := int64(0)
	if took > 0 {
		rate = int64(float64(n) * 8 / took.Seconds())
	}
	a.log.Info(message, append([]any{
		"bytes", n, "seconds", took.Round(time.Millisecond).Seconds(), "rate", rate, "receivers", a.receivers,
		"data_packets", a.seen.DataPackets - a.before.DataPackets,
		"repair_packets", a.seen.ParityPackets - a.before.ParityPackets,
		"stragglers", a.seen.Stragglers - a.before.Stragglers,
	}, more...)...)
}
