package cast

import (
	"math"
	"time"

	"huck/imager/cast/protocol"
)

// gap is the least time between announcements about a changed queue: so long
// that they take no more than announceShare of the rate.
func (s *Sender) gap() time.Duration {
	g := time.Duration(float64(s.announcedSize) * announceShare / s.bytesPerSecond() * float64(time.Second))
	return min(max(announceGap, g), heartbeat)
}

// announceBy sees to an announcement at the time at, or now if that is past.
func (s *Sender) announceBy(now, at time.Time) {
	if at.Before(now) {
		at = now
	}
	if s.announceAt.IsZero() || at.Before(s.announceAt) {
		s.announceAt = at
	}
}

// idle announces, twice, that nothing is queued any more.
func (s *Sender) idle(now time.Time) {
	if !s.Active() {
		s.telling = true
		s.announceBy(now, s.announced.Add(s.gap()))
	}
}

// announce appends an announcement of the queue.
func (s *Sender) announce(now time.Time, buf []byte) []byte {
	a := protocol.Announce{
		Rate:    uint32(min(s.rate/1000, math.MaxUint32)),
		Chunks:  uint32(s.cfg.Chunks),
		Members: log2(s.members),
		Reports: uint8(s.reportEvery() / protocol.ReportUnit),
		Queue:   s.entries[:0],
	}
	if s.run.left > 0 {
		a.Queue = append(a.Queue, s.run.entry())
	}
	for _, c := range s.repairs.order {
		if len(a.Queue) == protocol.MaxEntries {
			a.More = true
			break
		}
		a.Queue = append(a.Queue, s.repairs.entry(c))
	}
	for c := range s.fresh.from(s.pos) {
		if n := len(a.Queue); n > 0 && extends(&a.Queue[n-1], c) {
			continue
		}
		if len(a.Queue) == protocol.MaxEntries {
			a.More = true
			break
		}
		a.Queue = append(a.Queue, protocol.Entry{Chunk: c, Count: 1})
	}
	s.entries = a.Queue
	s.announced, s.announceAt = now, time.Time{}
	s.announcedMembers = a.Members
	if s.Active() || s.telling {
		s.telling = s.Active()
		s.announceAt = now.Add(heartbeat)
	}
	s.stats.Announces++
	at := len(buf)
	buf = s.seal(must(a.AppendBinary(s.header(protocol.TypeAnnounce, buf))), at)
	s.announcedSize = len(buf) - at + s.overhead
	return buf
}

// extends lets e, an entry for whole chunks, take in chunk c if it is the next.
func extends(e *protocol.Entry, c uint32) bool {
	if e.From != 0 || e.N != 0 || e.Count == 1<<16-1 || e.Chunk+uint32(e.Count) != c {
		return false
	}
	e.Count++
	return true
}

// tellUnavailable queues a message about chunk c.
func (s *Sender) tellUnavailable(c uint32) {
	for _, have := range s.tell {
		if have == c {
			return
		}
	}
	if len(s.tell) < protocol.MaxEntries {
		s.tell = append(s.tell, c)
	}
}

// unavailables appends the message about unavailable chunks.
func (s *Sender) unavailables(buf []byte) []byte {
	u := protocol.Unavailable{Chunks: s.entries[:0]}
	for _, c := range s.tell {
		u.Chunks = append(u.Chunks, protocol.Entry{Chunk: c, Count: 1})
	}
	s.tell, s.entries = s.tell[:0], u.Chunks
	at := len(buf)
	return s.seal(must(u.AppendBinary(s.header(protocol.TypeUnavailable, buf))), at)
}
