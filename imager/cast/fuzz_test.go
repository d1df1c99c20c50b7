package cast_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"huck/imager/cast"
	"huck/imager/cast/protocol"
	"huck/imager/image"
)

// FuzzReceiver: whatever the holder of the secret sends, a receiver neither
// panics nor holds more than it may.
func FuzzReceiver(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 5, 0xca, 0xfe, 0xf0, 0x0d, 0, 0, 20, 2, 1, 2, 3, 4, 5, 6})
	f.Add([]byte{2, 0, 0, 0, 5, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5, 0, 9, 0, 0})
	f.Add([]byte{4, 0, 0, 0, 5, 0, 9, 0, 0})
	ch := benchChannel()
	ch.SymbolSize = 1408
	f.Fuzz(func(t *testing.T, in []byte) {
		key, err := protocol.SenderKey(ch.Secret, ch.Session)
		if err != nil {
			t.Fatal(err)
		}
		r, err := cast.NewReceiver(ch, endless{}, rand.New(rand.NewPCG(1, 1)))
		if err != nil {
			t.Fatal(err)
		}
		now := time.Unix(1000, 0)
		in = in[:min(len(in), 2048)]
		for counter := uint64(1); len(in) > 1; counter++ {
			n := min(len(in), 32)
			p, err := protocol.Header{Type: protocol.Type(in[0]%4 + 1), Session: ch.Session, Epoch: ch.Epoch, Counter: counter}.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Packet(now, key.Seal(append(p, in[1:n]...), 0))
			in = in[n:]
			now = now.Add(20 * time.Millisecond)
			if req, ok := r.Next(now, nil); ok && len(req) > 1200 {
				t.Fatalf("request of %d bytes", len(req))
			}
			for a, ok := r.Done(); ok; a, ok = r.Done() {
				b, err := a.Bytes()
				if err != nil || len(b) == 0 {
					t.Fatalf("%d bytes, %v", len(b), err)
				}
				r.Delivered(now, a, nil)
			}
		}
	})
}

// FuzzSender: whatever the holder of the secret asks for, a sender does not
// panic and comes to rest.
func FuzzSender(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 1, 0, 3, 0, 0, 0, 0, 0, 0, 2, 0, 1, 200, 77})
	ch := benchChannel()
	f.Fuzz(func(t *testing.T, in []byte) {
		const chunks = 50
		s, err := cast.NewSender(cast.SenderConfig{Channel: ch, Chunks: chunks, Rate: 1e9})
		if err != nil {
			t.Fatal(err)
		}
		key, err := protocol.ReceiverKey(ch.Secret, ch.Session, 7)
		if err != nil {
			t.Fatal(err)
		}
		chunk := make([]byte, 3000)
		now := time.Unix(1000, 0)
		var buf []byte
		in = in[:min(len(in), 2048)]
		for counter := uint64(1); len(in) > 1; counter++ {
			n := min(len(in), 41)
			p, err := protocol.Header{Type: protocol.TypeRequest, Session: ch.Session, Epoch: ch.Epoch, Counter: counter}.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			p = append(p, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, in[0], 0, 0)
			s.Packet(now, key.Seal(append(p, in[1:n]...), 0))
			in = in[n:]
			for range 10 {
				now = now.Add(time.Millisecond)
				buf, _ = s.Next(now, buf[:0])
			}
		}
		for range 100_000 {
			for c, ok := s.Need(); ok; c, ok = s.Need() {
				if c >= chunks {
					t.Fatalf("needs chunk %d of %d", c, chunks)
				}
				s.Supply(now, c, chunk, image.Tag(chunk), nil)
			}
			p, ok := s.Next(now, buf[:0])
			if ok {
				buf = p
				continue
			}
			if now = s.Timer(now); now.IsZero() {
				break
			}
		}
		if s.Active() || !now.IsZero() {
			t.Fatalf("does not come to rest: %+v", s.Stats())
		}
	})
}
