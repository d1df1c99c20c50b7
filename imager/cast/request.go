package cast

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"huck/imager/cast/protocol"
)

// Timer returns when Next has to be called again.
func (r *Receiver) Timer(now time.Time) time.Time {
	if r.nextTick.IsZero() {
		return now
	}
	return r.nextTick
}

// Next appends the request that is to be sent to the sender now to buf. It
// returns false if there is none.
func (r *Receiver) Next(now time.Time, buf []byte) ([]byte, bool) {
	if now.Before(r.nextTick) {
		return nil, false
	}
	if r.nextTick.IsZero() { // the first: at once would be together with others
		r.nextTick = now.Add(r.jitter(tick))
		return nil, false
	}
	r.nextTick = now.Add(tick/2 + r.jitter(tick))
	if r.seen.Top() == 0 {
		return r.probe(now, buf)
	}
	r.gone(now)
	r.entries = r.repairs(now, r.entries[:0])
	r.entries = r.window(now, r.entries)
	if len(r.entries) == 0 {
		return nil, false
	}
	return r.request(buf), true
}

// probe asks who is there, until the first packet of the session comes.
func (r *Receiver) probe(now time.Time, buf []byte) ([]byte, bool) {
	if now.Before(r.probeAt) {
		return nil, false
	}
	if r.probed == probes && r.heard.IsZero() {
		r.err = fmt.Errorf("cast: %d requests to %v, not one packet of group %v: %w",
			r.probed, r.channel.Sender, r.channel.Group, ErrNoMulticast)
		return nil, false
	}
	r.gone(now)
	r.probed++
	r.probeAt = now.Add(probeGap + r.jitter(tick))
	r.entries = r.entries[:0]
	return r.request(buf), true
}

// gone gives up a channel that fell silent for good while the API says that
// it is there.
func (r *Receiver) gone(now time.Time) {
	if r.err == nil && !r.heard.IsZero() && now.Sub(r.heard) > goneAfter && r.asked > probes && r.refreshedOK >= probes {
		r.err = fmt.Errorf("cast: group %v silent for %v: %w", r.channel.Group, now.Sub(r.heard).Round(time.Second), ErrNoMulticast)
	}
}

// request appends a request for r.entries.
func (r *Receiver) request(buf []byte) []byte {
	r.counter++
	r.asked++
	r.stats.Requests++
	at := len(buf)
	h := protocol.Header{Type: protocol.TypeRequest, Session: r.channel.Session, Epoch: r.channel.Epoch, Counter: r.counter}
	q := protocol.Request{Receiver: r.id, Seen: r.seen.Top(), Want: r.entries}
	return r.key.Seal(must(q.AppendBinary(must(h.AppendBinary(buf)))), at)
}

// backoff is how long after the try-th request without effect the next may
// go. The ticks make it random.
func backoff(try int) time.Duration {
	return min(patience<<min(try, 10), maxPatience)
}

// repairs appends requests for the assemblies that the sender has passed and
// does not say it will come back to.
func (r *Receiver) repairs(now time.Time, entries []protocol.Entry) []protocol.Entry {
	for k, a := range r.held {
		if !r.wants.Useful(k.chunk) { // found in place, or brought by another transport
			r.drop(k, a)
			continue
		}
		if a.passedAt.IsZero() && now.Sub(a.touched) > fading {
			a.pass(now) // what follows it got lost
		}
		if a.passedAt.IsZero() || now.Before(a.askAt) {
			continue
		}
		if e := a.entry(); !r.promised(now, a.passedAt, e) {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(a, b protocol.Entry) int { return cmp.Compare(a.Chunk, b.Chunk) })
	entries = entries[:min(len(entries), protocol.MaxEntries)]
	for k, a := range r.held {
		_, asked := slices.BinarySearchFunc(entries, k.chunk, func(e protocol.Entry, c uint32) int { return cmp.Compare(e.Chunk, c) })
		if asked && !a.passedAt.IsZero() {
			a.askAt = now.Add(backoff(a.tries))
			a.tries++
		}
	}
	return entries
}

// promised reports that the sender has announced, since the time after, that
// it will send what e asks for.
func (r *Receiver) promised(now, after time.Time, e protocol.Entry) bool {
	if !r.queuedAt.After(after) {
		return false
	}
	q, ok := r.queued(now, e.Chunk)
	return ok && (q.N == 0 || q.N >= e.N)
}

// queued returns the announced entry that chunk c is in.
func (r *Receiver) queued(now time.Time, c uint32) (protocol.Entry, bool) {
	if now.Sub(r.queuedAt) > fading {
		return protocol.Entry{}, false
	}
	i, ok := slices.BinarySearchFunc(r.queue, c, func(e protocol.Entry, c uint32) int {
		if c >= e.Chunk+uint32(e.Count) {
			return -1
		}
		if c < e.Chunk {
			return 1
		}
		return 0
	})
	if !ok {
		return protocol.Entry{}, false
	}
	return r.queue[i], true
}

// window appends a request for the missing chunks ahead of the sender's
// position, if too few of them are queued there.
func (r *Receiver) window(now time.Time, entries []protocol.Entry) []protocol.Entry {
	if r.backlog > maxBacklog {
		r.stopped = true
	} else if r.backlog < maxBacklog/2 {
		r.stopped = false
	}
	if r.stopped || now.Before(r.windowAt) {
		return entries
	}
	size := min(max(windowBytes/max(r.meanChunk, 1), 16), maxWindow)
	all := r.wants.Missing(r.pos+1, r.missing[:size:size])
	missing, ahead := all[:0], 0
	for _, c := range all {
		if r.busy[c] > 0 || r.holding[c] > 0 || r.shuns(now, c) || r.running && c == r.runChunk {
			continue
		}
		missing = append(missing, c)
		if _, ok := r.queued(now, c); ok {
			ahead++
		}
	}
	if float64(ahead) >= min(float64(len(missing)), r.threshold*float64(size)) {
		return entries
	}
	r.windowAt = now.Add(backoff(r.tries))
	r.tries++
	own := len(entries)
	for _, c := range missing {
		if n := len(entries); n > own && extends(&entries[n-1], c) {
			continue
		}
		if len(entries) == protocol.MaxEntries {
			break
		}
		entries = append(entries, protocol.Entry{Chunk: c, Count: 1})
	}
	return entries
}
