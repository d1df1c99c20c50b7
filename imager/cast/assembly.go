package cast

import (
	"cmp"
	"math/bits"
	"time"

	"huck/imager/cast/protocol"
)

// assemblyKey names an assembly: symbols of different encodings of a chunk do
// not go together.
type assemblyKey struct {
	chunk, tag uint32
}

// assembly collects the symbols of one encoded chunk.
type assembly struct {
	assemblyKey
	shape   protocol.Shape
	got     int
	have    protocol.Set
	encoded []byte // source symbols at their places
	parity  []protocol.Symbol
	memory  int   // bytes held
	last    uint8 // number of the last symbol that came

	touched time.Time
	// passedAt is when the sender went on to another chunk; zero while the
	// chunk's symbols come.
	passedAt time.Time
	askAt    time.Time // no request before
	tries    int       // requests since a symbol came
}

// newAssembly begins one in a buffer as long as the chunk.
func newAssembly(k assemblyKey, shape protocol.Shape, buf []byte) *assembly {
	return &assembly{assemblyKey: k, shape: shape, encoded: buf, memory: cap(buf)}
}

// spares are the buffers of chunks that were delivered, by the binary logarithm
// of their size: with a new one for each of 500 chunks a second, the garbage
// collector takes a tenth of a receiver's time.
type spares struct {
	bufs  [19][][]byte // up to protocol.MaxChunk
	bytes int
}

// maxSpare bounds the bytes of spare buffers.
const maxSpare = 4 << 20

// bufferSize is the size of the buffer that n bytes are given: a power of two.
func bufferSize(n int) int { return 1 << bits.Len(uint(n-1)) }

// get returns a buffer of n bytes, 1 to protocol.MaxChunk, with anything in it.
func (s *spares) get(n int) []byte {
	size := bufferSize(n)
	list := &s.bufs[bits.Len(uint(size))-1]
	last := len(*list) - 1
	if last < 0 {
		return make([]byte, n, size)
	}
	b := (*list)[last]
	*list = (*list)[:last]
	s.bytes -= size
	return b[:n]
}

// put takes a buffer of get's back.
func (s *spares) put(b []byte) {
	if s.bytes+cap(b) > maxSpare {
		return
	}
	s.bytes += cap(b)
	list := &s.bufs[bits.Len(uint(cap(b)))-1]
	*list = append(*list, b)
}

// compare puts assemblies in the order of their chunks.
func (a *assembly) compare(b *assembly) int {
	return cmp.Or(cmp.Compare(a.chunk, b.chunk), cmp.Compare(a.tag, b.tag))
}

// add takes a symbol whose length was checked. It returns false if it is
// there already.
func (a *assembly) add(now time.Time, d *protocol.Data) bool {
	n := int(d.Symbol)
	a.last, a.touched, a.passedAt = d.Symbol, now, time.Time{}
	if a.have.Has(n) {
		return false
	}
	a.have.Add(n)
	a.got++
	a.tries = 0
	if n < a.shape.K {
		copy(a.shape.Source(a.encoded, n), d.Payload)
		return true
	}
	a.parity = append(a.parity, protocol.Symbol{Number: n, Payload: append([]byte(nil), d.Payload...)})
	a.memory += len(d.Payload)
	return true
}

// entry asks for what is missing: as many consecutive symbols after the last
// one as it takes to bring enough that are not there.
func (a *assembly) entry() protocol.Entry {
	from := int(a.last) + 1
	for a.have.Has(from % protocol.MaxSymbols) {
		from++
	}
	n, need := 0, a.shape.K-a.got
	for need > 0 && n < protocol.MaxSymbols-1 {
		if !a.have.Has((from + n) % protocol.MaxSymbols) {
			need--
		}
		n++
	}
	return protocol.Entry{Chunk: a.chunk, Count: 1, From: uint8(from), N: uint8(n)}
}

// pastHope reports that nobody has sent a symbol for so long that the room is
// better used for another chunk.
func (a *assembly) pastHope(now time.Time) bool { return now.Sub(a.touched) > 2*silence }

// Assembled is a chunk of which enough symbols have come.
type Assembled struct {
	Chunk uint32
	*assembly
}

// Bytes returns the encoded chunk, after recovering the source symbols that
// did not come, which takes about 0.1 ms for 1 % of them. It is to be called
// once, before Delivered, and the bytes are valid until then; it may be called
// on another goroutine than the Receiver's.
func (a *Assembled) Bytes() ([]byte, error) {
	if len(a.parity) > 0 {
		if err := a.shape.Recover(a.encoded, &a.have, a.parity); err != nil {
			return nil, err
		}
	}
	a.parity = nil
	return a.encoded, nil
}

// room reports whether n more bytes can be held, after throwing out what
// nobody needs any more if they cannot.
func (r *Receiver) room(now time.Time, n int) bool {
	fits := func() bool { return r.memory+n <= maxMemory && len(r.held)+len(r.busy) < maxHeld }
	if fits() {
		return true
	}
	if now.Sub(r.swept) < heartbeat {
		return false
	}
	r.swept = now
	for k, a := range r.held {
		if a.pastHope(now) || !r.wants.Useful(k.chunk) {
			r.drop(k, a)
		}
	}
	return fits()
}

func (r *Receiver) drop(k assemblyKey, a *assembly) {
	delete(r.held, k)
	if r.holding[k.chunk]--; r.holding[k.chunk] == 0 {
		delete(r.holding, k.chunk)
	}
	r.memory -= a.memory
	if r.current == a {
		r.current = nil
	}
}

// dropChunk drops every assembly of chunk c.
func (r *Receiver) dropChunk(c uint32) {
	if a := r.current; a != nil && a.chunk == c {
		r.drop(a.assemblyKey, a)
	}
	if r.holding[c] == 0 {
		return
	}
	for k, a := range r.held {
		if k.chunk == c {
			r.drop(k, a)
		}
	}
}
