package cast

import (
	"container/list"
	"math/bits"
	"slices"

	"huck/imager/cast/protocol"
)

// chunkSet is a set of chunk numbers that is walked cyclically.
type chunkSet struct {
	words []uint64
	count int
}

func newChunkSet(chunks int) chunkSet {
	return chunkSet{words: make([]uint64, (chunks+63)/64)}
}

func (s *chunkSet) has(c uint32) bool { return s.words[c/64]&(1<<(c%64)) != 0 }

func (s *chunkSet) add(c uint32) {
	if !s.has(c) {
		s.words[c/64] |= 1 << (c % 64)
		s.count++
	}
}

func (s *chunkSet) remove(c uint32) {
	if s.has(c) {
		s.words[c/64] &^= 1 << (c % 64)
		s.count--
	}
}

// from yields the set's numbers, ascending from start on and then from 0.
func (s *chunkSet) from(start uint32) func(yield func(uint32) bool) {
	return func(yield func(uint32) bool) {
		left := s.count
		if left == 0 {
			return
		}
		n := uint32(len(s.words))
		first := start / 64
		if first >= n {
			first, start = 0, 0
		}
		// The first word is met twice: its high bits first, its low bits last.
		for i := range n + 1 {
			w := (first + i) % n
			word := s.words[w]
			if i == 0 {
				word &= ^uint64(0) << (start % 64)
			} else if i == n {
				word &= 1<<(start%64) - 1
			}
			for ; word != 0; word &= word - 1 {
				if !yield(w*64 + uint32(bits.TrailingZeros64(word))) {
					return
				}
				if left--; left == 0 {
					return
				}
			}
		}
	}
}

// run is a stretch of one chunk's symbols, sent one after another.
type run struct {
	chunk uint32
	k     int
	next  uint8 // number of the next symbol
	left  int   // symbols still to send
	extra int   // parity symbols that nobody asked for; -1 is a run of repairs
	// first and last are the counters of the run's first and last packet,
	// symbols how many were sent between them.
	first, last uint64
	symbols     int
}

func (r *run) entry() protocol.Entry {
	return protocol.Entry{Chunk: r.chunk, Count: 1, From: r.next, N: uint8(min(r.left, 255))}
}

func (r *run) sentSymbol(counter uint64) {
	if r.symbols == 0 {
		r.first = counter
	}
	r.last = counter
	r.symbols++
	r.next++
	r.left--
}

// after returns how many of the run's symbols flew after the packet with
// counter seen. A receiver that saw nothing has nothing under way that it
// could count on. Announcements between the symbols are taken off, so that
// the result is never too high.
func (r *run) after(seen uint64) int {
	if r.symbols == 0 || seen == 0 || seen >= r.last {
		return 0
	}
	if seen < r.first {
		return r.symbols
	}
	others := int(r.last-r.first) + 1 - r.symbols
	return max(0, int(r.last-seen)-others)
}

// extend makes the run long enough for a request of which earlier runs bring
// so many symbols, and reports whether it was not.
func (r *run) extend(e protocol.Entry, seen uint64, earlier int) bool {
	need := int(e.N)
	if need == 0 {
		need = r.k
	}
	if need -= r.after(seen) + earlier; need <= r.left {
		return false
	}
	r.left = need
	return true
}

// runs remembers the last runs of the chunks sent lately.
type runs struct {
	last map[uint32]*record
	ring []uint32
	at   int
}

// record is what was sent of a chunk: its last runs, a cyclic buffer. A longer
// one may still be under way to a receiver when a short one has followed it.
type record struct {
	runs [4]run
	n    int // runs so far
}

// latest returns the last run; the zero one if there was none.
func (r *record) latest() run {
	if r == nil {
		return run{}
	}
	return r.runs[(r.n-1)%len(r.runs)]
}

// after is run.after for all of them.
func (r *record) after(seen uint64) int {
	if r == nil {
		return 0
	}
	n := 0
	for i := range min(r.n, len(r.runs)) {
		n += r.runs[i].after(seen)
	}
	return n
}

// maxRuns is of how many chunks runs are remembered: at 1 Gbit/s 0.4 s of the
// smallest chunks, far more than a request can lag behind.
const maxRuns = 1 << 14

func newRuns() runs { return runs{last: make(map[uint32]*record)} }

// get returns nil if nothing is remembered.
func (r *runs) get(c uint32) *record { return r.last[c] }

func (r *runs) add(done run) {
	rec := r.last[done.chunk]
	if rec == nil {
		rec = new(record)
		if len(r.ring) < maxRuns {
			r.ring = append(r.ring, done.chunk)
		} else {
			delete(r.last, r.ring[r.at])
			r.ring[r.at] = done.chunk
			r.at = (r.at + 1) % maxRuns
		}
		r.last[done.chunk] = rec
	}
	rec.runs[rec.n%len(rec.runs)] = done
	rec.n++
}

// repairQueue holds what is wanted of parts of the chunk map and of chunks that
// flew by, each in the order the first request for it came, the parts first.
type repairQueue struct {
	want   map[uint32]protocol.Entry
	order  []uint32
	chunks uint32 // the number of the first part
}

func newRepairQueue(chunks int) repairQueue {
	return repairQueue{want: make(map[uint32]protocol.Entry), chunks: uint32(chunks)}
}

func (q *repairQueue) len() int                      { return len(q.order) }
func (q *repairQueue) has(c uint32) bool             { _, ok := q.want[c]; return ok }
func (q *repairQueue) entry(c uint32) protocol.Entry { return q.want[c] }

func (q *repairQueue) add(c uint32, from, n uint8) {
	q.want[c] = protocol.Entry{Chunk: c, Count: 1, From: from, N: n}
	at := len(q.order)
	if c >= q.chunks {
		for at > 0 && q.order[at-1] < q.chunks {
			at--
		}
	}
	q.order = slices.Insert(q.order, at, c)
}

// merge widens what is queued of chunk c to what e asks, too, and reports
// whether it had to.
func (q *repairQueue) merge(c uint32, e protocol.Entry) bool {
	w := q.want[c]
	old := w
	switch ahead := int(e.From - w.From); {
	case w.N == 0:
	case e.N == 0:
		w.From, w.N = 0, 0
	case ahead < protocol.MaxSymbols/2: // begins later: reach to its end
		w.N = uint8(min(max(int(w.N), ahead+int(e.N)), 255))
	default: // it counts on nothing before From
		w.N = max(w.N, e.N)
	}
	q.want[c] = w
	return w != old
}

// take removes chunk c, which has k source symbols, and returns what to send.
func (q *repairQueue) take(c uint32, k int) (from uint8, n int) {
	w := q.want[c]
	q.remove(c)
	if w.N == 0 {
		return w.From, k
	}
	return w.From, int(w.N)
}

func (q *repairQueue) remove(c uint32) {
	if q.has(c) {
		delete(q.want, c)
		q.order = slices.DeleteFunc(q.order, func(x uint32) bool { return x == c })
	}
}

// loaded is a chunk ready to send.
type loaded struct {
	encoded []byte
	tag     uint32
	shape   protocol.Shape
}

// cache keeps the chunks read ahead and those sent lately, whose repairs come
// soon after.
type cache struct {
	entries map[uint32]*list.Element
	order   *list.List // of cacheEntry, used last in front
	bytes   int
}

// maxCache is the bytes a channel's cache keeps: half a second at 250 Mbit/s.
const maxCache = 16 << 20

type cacheEntry struct {
	chunk uint32
	loaded
}

func newCache() cache {
	return cache{entries: make(map[uint32]*list.Element), order: list.New()}
}

func (c *cache) has(n uint32) bool { return c.entries[n] != nil }

func (c *cache) get(n uint32) (loaded, bool) {
	e := c.entries[n]
	if e == nil {
		return loaded{}, false
	}
	c.order.MoveToFront(e)
	return e.Value.(cacheEntry).loaded, true
}

func (c *cache) add(n uint32, l loaded) {
	if e := c.entries[n]; e != nil {
		c.drop(e)
	}
	c.entries[n] = c.order.PushFront(cacheEntry{n, l})
	c.bytes += len(l.encoded)
	for c.bytes > maxCache {
		c.drop(c.order.Back())
	}
}

func (c *cache) drop(e *list.Element) {
	old := c.order.Remove(e).(cacheEntry)
	delete(c.entries, old.chunk)
	c.bytes -= len(old.encoded)
}
