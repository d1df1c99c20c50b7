package cast

import (
	"maps"
	"slices"
	"time"

	"huck/imager/api"
	"huck/imager/cast/protocol"
)

// Rejoin continues with what a refresh brought. Chunks in assembly are kept:
// the same encoding has the same symbols whoever sends them.
func (r *Receiver) Rejoin(now time.Time, ch api.Channel) error {
	r.refreshing = false
	r.refreshedOK++
	r.foreign = false
	r.refreshAt = now.Add(refreshGap + r.jitter(refreshGap/2))
	if ch.Session == r.channel.Session && ch.Epoch == r.channel.Epoch && slices.Equal(ch.Secret, r.channel.Secret) {
		return nil
	}
	if ch.SymbolSize != r.channel.SymbolSize {
		for k, a := range r.held {
			r.drop(k, a)
		}
	}
	if err := r.join(ch); err != nil {
		return err
	}
	r.seen, r.reporting = protocol.Window{}, reporting{}
	r.queue, r.queuedAt, r.running = r.queue[:0], time.Time{}, false
	r.tries, r.windowAt, r.probed, r.probeAt = 0, now, 0, now
	clear(r.shunned)
	for _, a := range slices.SortedFunc(maps.Values(r.held), (*assembly).compare) {
		r.pass(now, a)
	}
	return nil
}

// RefreshFailed tells that the channel could not be asked for.
func (r *Receiver) RefreshFailed(now time.Time) {
	r.refreshing = false
	r.refreshAt = now.Add(refreshGap + r.jitter(refreshGap))
}

// WantRefresh reports that the channel is to be asked for anew, to be answered
// by Rejoin or RefreshFailed.
func (r *Receiver) WantRefresh(now time.Time) bool {
	silent := !r.heard.IsZero() && r.asked >= probes && now.Sub(r.heard) > silence
	replaced := r.foreign && now.Sub(r.heard) > replacedAfter
	if r.refreshing || !replaced && !silent || now.Before(r.refreshAt) {
		return false
	}
	r.refreshing = true
	r.stats.Refreshes++
	return true
}
