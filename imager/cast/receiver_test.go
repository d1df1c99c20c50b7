package cast_test

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"huck/imager/api"
	"huck/imager/cast"
	"huck/imager/cast/protocol"
	"huck/imager/image"
)

// script is a sender that says what a test makes it say.
type script struct {
	t       *testing.T
	ch      api.Channel
	key     *protocol.Key
	counter uint64
}

func newScript(t *testing.T) *script {
	t.Helper()
	s := &script{t: t, ch: api.Channel{Session: 7, Epoch: 9, Secret: bytes.Repeat([]byte{1}, 32), SymbolSize: 1000}}
	var err error
	if s.key, err = protocol.SenderKey(s.ch.Secret, s.ch.Session); err != nil {
		t.Fatal(err)
	}
	return s
}

// symbols returns the source symbols from..to of chunk n, encoded as given.
func (s *script) symbols(n uint32, encoded []byte, from, to int) [][]byte {
	s.t.Helper()
	shape, err := protocol.NewShape(len(encoded), s.ch.SymbolSize)
	if err != nil {
		s.t.Fatal(err)
	}
	var out [][]byte
	for i := from; i < to; i++ {
		s.counter++
		p, err := protocol.Header{Type: protocol.TypeData, Session: s.ch.Session, Epoch: s.ch.Epoch, Counter: s.counter}.AppendBinary(nil)
		if err != nil {
			s.t.Fatal(err)
		}
		d := protocol.Data{Chunk: n, Tag: image.Tag(encoded), Length: len(encoded), Symbol: uint8(i), Payload: shape.Source(encoded, i)}
		if p, err = d.AppendBinary(p); err != nil {
			s.t.Fatal(err)
		}
		out = append(out, s.key.Seal(p, 0))
	}
	return out
}

// wanted is the set of chunks still useful, all of them known to be missing.
type wanted map[uint32]bool

func (w wanted) Useful(n uint32) bool { return w[n] }

func (w wanted) Missing(from uint32, buf []uint32) []uint32 {
	buf = buf[:0]
	for _, half := range [][2]uint32{{from, 10}, {0, from}} {
		for n := half[0]; n < half[1] && len(buf) < cap(buf); n++ {
			if w[n] {
				buf = append(buf, n)
			}
		}
	}
	return buf
}

// TestDeliveredInMidRun: symbols of a chunk that come after it was delivered,
// in a run that began before, start nothing. They once made an assembly that
// asked for the rest of the chunk without end.
func TestDeliveredInMidRun(t *testing.T) {
	s := newScript(t)
	wants := wanted{0: true, 1: true}
	r, err := cast.NewReceiver(s.ch, wants, rand.New(rand.NewPCG(1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	first, second := bytes.Repeat([]byte("first"), 1000), bytes.Repeat([]byte("second"), 1000)
	feed := func(packets [][]byte) {
		for _, p := range packets {
			now = now.Add(time.Millisecond)
			r.Packet(now, p)
		}
	}
	feed(s.symbols(0, first, 0, 5))
	a, ok := r.Done()
	if !ok || a.Chunk != 0 {
		t.Fatal("chunk 0 is not together")
	}
	feed(s.symbols(1, second, 0, 2))
	feed(s.symbols(0, first, 0, 2)) // a repair for others begins while chunk 0 is with the sink
	delete(wants, 0)
	r.Delivered(now, a, nil)
	before := r.Stats()
	feed(s.symbols(0, first, 2, 4))
	if got := r.Stats(); got.Symbols != before.Symbols || got.Duplicates != before.Duplicates+2 {
		t.Errorf("symbols of a delivered chunk were taken: %+v, before %+v", got, before)
	}

	var asked []uint32
	for range 200 {
		now = r.Timer(now)
		p, ok := r.Next(now, nil)
		if !ok {
			continue
		}
		_, body, err := protocol.ParseHeader(p)
		if err != nil {
			t.Fatal(err)
		}
		q, err := protocol.ParseRequest(body, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range q.Want {
			asked = append(asked, e.Chunk)
		}
	}
	if len(asked) == 0 {
		t.Fatal("nothing was asked for: the rest of chunk 1 is missing")
	}
	for _, n := range asked {
		if n != 1 {
			t.Fatalf("chunk %d was asked for, only 1 is missing", n)
		}
	}
}

// TestBuffersAreUsedAgain: a chunk that was delivered leaves its buffer to one
// of about its size, and nothing of what was in it.
func TestBuffersAreUsedAgain(t *testing.T) {
	s := newScript(t)
	r, err := cast.NewReceiver(s.ch, wanted{0: true, 1: true, 2: true}, rand.New(rand.NewPCG(1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	var first *byte
	for n, tt := range []struct {
		encoded []byte
		again   bool
	}{
		{bytes.Repeat([]byte("first"), 1000), false},
		{bytes.Repeat([]byte("second"), 800), true},
		{bytes.Repeat([]byte("third"), 500), false}, // too short for it
	} {
		for _, p := range s.symbols(uint32(n), tt.encoded, 0, (len(tt.encoded)+999)/1000) {
			now = now.Add(time.Millisecond)
			r.Packet(now, p)
		}
		a, ok := r.Done()
		if !ok {
			t.Fatalf("chunk %d is not together", n)
		}
		b, err := a.Bytes()
		if err != nil || !bytes.Equal(b, tt.encoded) {
			t.Fatalf("chunk %d is not what was sent: %v", n, err)
		}
		if first == nil {
			first = &b[0]
		} else if again := first == &b[0]; again != tt.again {
			t.Errorf("chunk %d in the first one's buffer: %t, want %t", n, again, tt.again)
		}
		r.Delivered(now, a, nil)
	}
}
