package cast

import (
	"fmt"
	"math"
	"slices"
	"time"

	"huck/imager/cast/protocol"
)

// Timer returns when Next has to be called again.
func (r *Receiver) Timer(now time.Time) time.Time {
	if r.nextTick.IsZero() {
		return now
	}
	due := r.due
	if due.IsZero() || r.nextTick.Before(due) {
		return r.nextTick
	}
	if due.Before(r.mayAsk) {
		due = r.mayAsk
	}
	return due
}

// Next appends the request or report that is to be sent to the sender now to
// buf. It returns false if there is none.
func (r *Receiver) Next(now time.Time, buf []byte) ([]byte, bool) {
	if now.Before(r.Timer(now)) {
		return nil, false
	}
	if r.nextTick.IsZero() { // the first: at once would be together with others
		r.nextTick = now.Add(r.jitter(tick))
		return nil, false
	}
	if r.err == nil && r.reportDue(now) {
		return r.report(now, buf), true
	}
	r.nextTick = now.Add(tick/2 + r.jitter(tick))
	if r.seen.Top() == 0 {
		r.due = time.Time{}
		return r.probe(now, buf)
	}
	r.gone(now)
	if now.Before(r.mayAsk) {
		return nil, false
	}
	r.due = time.Time{}
	r.entries = r.repairs(now, r.entries[:0])
	r.entries = r.window(now, r.entries)
	if len(r.entries) == 0 {
		return nil, false
	}
	r.mayAsk = now.Add(tick/2 + r.jitter(tick))
	return r.request(buf), true
}

// maxMembers is the largest group that timers are stretched for: 2^16.
const maxMembers = 16

// spread is the time over which a group whose size has that binary logarithm
// spreads its requests: 25 ms for up to 16 receivers, 100 ms for 1000.
func spread(members uint8) time.Duration {
	return tick * time.Duration(max(1, int(members)*2/5))
}

// soon returns the time to ask for something that is missing from now on, of
// which n symbols: within the group's spread, distributed with a density that
// grows exponentially (RFC 5401 section 3.2.1), so that of a large group few go
// early and the answer to them keeps the others from asking. Who needs more
// goes earlier, since its request serves those who need less.
func (r *Receiver) soon(now time.Time, n int) time.Time {
	lambda := float64(r.members)*math.Ln2 + 1
	x := math.Log(r.rnd.Float64()*(math.Exp(lambda)-1)+1) / lambda
	x *= 1 - float64(n)/float64(n+4)/2
	return now.Add(time.Duration(x * float64(spread(r.members))))
}

// dueBy sees to a look at what to ask for at the time at.
func (r *Receiver) dueBy(at time.Time) {
	if r.due.IsZero() || at.Before(r.due) {
		r.due = at
	}
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
	r.probeAt = now.Add(probeGap<<min(r.probed-1, probes-1) + r.jitter(tick))
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
	r.asked++
	r.stats.Requests++
	at := len(buf)
	q := protocol.Request{Receiver: r.id, Seen: r.seen.Top(), Want: r.entries}
	return r.key.Seal(must(q.AppendBinary(r.header(protocol.TypeRequest, buf))), at)
}

// header appends the next packet's header.
func (r *Receiver) header(t protocol.Type, buf []byte) []byte {
	r.counter++
	h := protocol.Header{Type: t, Session: r.channel.Session, Epoch: r.channel.Epoch, Counter: r.counter}
	return must(h.AppendBinary(buf))
}

// backoff is how long after the try-th request without effect the next may
// go. The ticks make it random. Where the sender is heard, the request or its
// answer got lost; where it is not, it may be gone.
func (r *Receiver) backoff(now time.Time, try int) time.Duration {
	if now.Sub(r.heard) < 3*heartbeat {
		return patience
	}
	return min(patience<<min(try, 10), maxPatience)
}

// repairs appends requests for the assemblies that the sender has passed and
// does not say it will come back to.
func (r *Receiver) repairs(now time.Time, entries []protocol.Entry) []protocol.Entry {
	for _, a := range r.waiting(now) {
		e := a.entry()
		switch {
		case r.promised(now, a.passedAt, e): // it may yet be forgotten
			a.askAt = r.soon(now.Add(r.backoff(now, 0)), int(e.N))
			r.dueBy(a.askAt)
		case len(entries) < protocol.MaxEntries:
			entries = append(entries, e)
			a.askAt = r.soon(now.Add(r.backoff(now, a.tries)), int(e.N))
			a.tries++
			r.dueBy(a.askAt)
		default:
			r.dueBy(now)
		}
	}
	return entries
}

// waiting returns the assemblies that it is time to ask for, by chunk number.
func (r *Receiver) waiting(now time.Time) []*assembly {
	list := r.asking[:0]
	for k, a := range r.held {
		if !r.wants.Useful(k.chunk) { // found in place, or brought by another transport
			r.drop(k, a)
			continue
		}
		// What follows it got lost, or nothing does: a sender that has something
		// to send is heard once a heartbeat.
		lost := a.passedAt.IsZero() && (now.Sub(a.touched) > fading || now.Sub(r.heard) > heartbeat*3/2)
		switch {
		case lost || !a.passedAt.IsZero() && !now.Before(a.askAt):
			list = append(list, a)
		case !a.passedAt.IsZero():
			r.dueBy(a.askAt)
		}
	}
	slices.SortFunc(list, (*assembly).compare)
	r.asking = list
	for _, a := range list {
		if a.passedAt.IsZero() {
			r.pass(now, a)
		}
	}
	return slices.DeleteFunc(list, func(a *assembly) bool { return now.Before(a.askAt) })
}

// pass notes that the sender has gone on from an assembly's chunk.
func (r *Receiver) pass(now time.Time, a *assembly) {
	a.passedAt, a.askAt = now, r.soon(now.Add(settle), a.shape.K-a.got)
	r.dueBy(a.askAt)
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
	if r.stopped {
		return entries
	}
	if now.Before(r.windowAt) {
		r.dueBy(r.windowAt)
		return entries
	}
	ahead := min(max(int64(windowTime.Seconds()*float64(r.rate)/8), minWindow), maxWindow)
	size := min(max(int(ahead)/max(r.meanChunk, 1), 16), maxWindowChunks)
	all := r.wants.Missing(r.pos+1, r.missing[:size:size])
	missing, queued := all[:0], 0
	for _, c := range all {
		if r.busy[c] > 0 || r.holding[c] > 0 || r.shuns(now, c) || r.running && c == r.runChunk {
			continue
		}
		missing = append(missing, c)
		if _, ok := r.queued(now, c); ok {
			queued++
		}
	}
	if float64(queued) >= min(float64(len(missing)), r.threshold*float64(size)) {
		r.shortSince = time.Time{}
		return entries
	}
	if r.shortSince.IsZero() { // others may see it, too, and ask first
		r.shortSince = now
		r.windowAt = r.soon(now, 0)
		r.dueBy(r.windowAt)
		return entries
	}
	r.windowAt = r.soon(now.Add(r.backoff(now, r.tries)), 0)
	r.dueBy(r.windowAt)
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
