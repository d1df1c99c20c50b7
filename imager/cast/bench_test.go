package cast_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"huck/imager/api"
	"huck/imager/cast"
	"huck/imager/cast/protocol"
	"huck/imager/image"
)

// endless wants every chunk, always.
type endless struct{}

func (endless) Useful(uint32) bool { return true }
func (endless) Missing(from uint32, buf []uint32) []uint32 {
	for i := range buf {
		buf[i] = (from + uint32(i)) % benchChunks
	}
	return buf
}

const benchChunks = 1 << 20

func benchChannel() api.Channel {
	return api.Channel{
		Group: netip.MustParseAddrPort("239.0.0.1:9000"), Sender: netip.MustParseAddrPort("10.0.0.1:9000"),
		Session: 1, Epoch: 2, Secret: make([]byte, 32), SymbolSize: 1408,
	}
}

// BenchmarkPackets carries raw chunks from a Sender to a Receiver, all but the
// sockets, the recovery and the sink.
func BenchmarkPackets(b *testing.B) {
	ch := benchChannel()
	s, err := cast.NewSender(cast.SenderConfig{Channel: ch, Chunks: benchChunks, Rate: 1e12})
	if err != nil {
		b.Fatal(err)
	}
	r, err := cast.NewReceiver(ch, endless{}, rand.New(rand.NewPCG(1, 1)))
	if err != nil {
		b.Fatal(err)
	}
	chunk := make([]byte, image.RegionSize)
	tag := image.Tag(chunk)
	now := time.Now()
	var buf []byte
	send := func() bool {
		for n, ok := s.Need(); ok; n, ok = s.Need() {
			s.Supply(now, n, chunk, tag, nil)
		}
		p, ok := s.Next(now, buf[:0])
		if ok {
			buf = p
			r.Packet(now, p)
		}
		return ok
	}
	b.SetBytes(1402)
	b.ReportAllocs()
	for b.Loop() {
		for !send() {
			now = now.Add(20 * time.Microsecond)
			if p, ok := r.Next(now, nil); ok {
				s.Packet(now, p)
			}
			for a, ok := r.Done(); ok; a, ok = r.Done() {
				r.Delivered(now, a, nil)
			}
		}
	}
}

// BenchmarkSealOpen is one packet's authentication at both ends.
func BenchmarkSealOpen(b *testing.B) {
	key, err := protocol.SenderKey(make([]byte, 32), 1)
	if err != nil {
		b.Fatal(err)
	}
	packet, err := protocol.Header{Type: protocol.TypeData, Session: 1, Epoch: 2, Counter: 3}.AppendBinary(nil)
	if err != nil {
		b.Fatal(err)
	}
	packet = append(packet, make([]byte, 1412)...)
	b.SetBytes(int64(len(packet)))
	b.ReportAllocs()
	for b.Loop() {
		sealed := key.Seal(packet, 0)
		if !key.Open(sealed) {
			b.Fatal("own packet refused")
		}
		packet = sealed[:len(packet)]
	}
}

// sealed makes packets that a receiver, or the sender, says one after another.
type sealed struct {
	b       *testing.B
	ch      api.Channel
	key     *protocol.Key
	counter uint64
}

func (s *sealed) packet(t protocol.Type, body interface {
	AppendBinary(b []byte) ([]byte, error)
}) []byte {
	s.counter++
	h := protocol.Header{Type: t, Session: s.ch.Session, Epoch: s.ch.Epoch, Counter: s.counter}
	p, err := h.AppendBinary(nil)
	if err == nil {
		p, err = body.AppendBinary(p)
	}
	if err != nil {
		s.b.Fatal(err)
	}
	return s.key.Seal(p, 0)
}

// BenchmarkFeedback is what one packet of a group of 1000 receivers costs the
// sender: requests for repairs of chunks that flew by lately, and reports. At
// 2000 of them a second, 1 % of a core is 5000 ns each.
func BenchmarkFeedback(b *testing.B) {
	const receivers, each = 1000, 64
	for _, kind := range []protocol.Type{protocol.TypeRequest, protocol.TypeReport} {
		b.Run(kind.String(), func(b *testing.B) {
			ch := benchChannel()
			var packets [][]byte
			for id := range uint64(receivers) {
				key, err := protocol.ReceiverKey(ch.Secret, ch.Session, id)
				if err != nil {
					b.Fatal(err)
				}
				says := sealed{b: b, ch: ch, key: key}
				for range each {
					if kind == protocol.TypeReport {
						packets = append(packets, says.packet(kind, &protocol.Report{Receiver: id, First: 2000, Last: 11000, Received: 8900, Elapsed: 100 * time.Millisecond}))
						continue
					}
					q := protocol.Request{Receiver: id, Seen: 11500}
					for i := range uint32(3) {
						q.Want = append(q.Want, protocol.Entry{Chunk: 50 + uint32(id)%5 + i, Count: 1, From: 187, N: uint8(1 + id%4)})
					}
					packets = append(packets, says.packet(kind, &q))
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				s, now := busySender(b, ch)
				b.StartTimer()
				for i := range packets { // in turn: each receiver's counters ascend
					s.Packet(now, packets[i%receivers*each+i/receivers])
				}
				if st := s.Stats(); st.Rejected > 0 {
					b.Fatalf("%+v", st)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(packets)), "ns/packet")
		})
	}
}

// busySender returns a sender that has sent 64 chunks and wants to send more.
func busySender(b *testing.B, ch api.Channel) (*cast.Sender, time.Time) {
	s, err := cast.NewSender(cast.SenderConfig{Channel: ch, Chunks: benchChunks, Rate: 1e9})
	if err != nil {
		b.Fatal(err)
	}
	key, err := protocol.ReceiverKey(ch.Secret, ch.Session, 1<<40)
	if err != nil {
		b.Fatal(err)
	}
	says := sealed{b: b, ch: ch, key: key}
	now := time.Unix(1000, 0)
	s.Packet(now, says.packet(protocol.TypeRequest, &protocol.Request{Receiver: 1 << 40, Want: []protocol.Entry{{Count: 4096}}}))
	chunk := make([]byte, image.RegionSize)
	tag := image.Tag(chunk)
	for s.Stats().DataPackets < 64*187 {
		for n, ok := s.Need(); ok; n, ok = s.Need() {
			s.Supply(now, n, chunk, tag, nil)
		}
		for _, ok := s.Next(now, nil); ok; _, ok = s.Next(now, nil) {
		}
		now = now.Add(time.Millisecond)
	}
	return s, now
}

// BenchmarkReceive takes chunks of which 2 % of the symbols are lost and as
// many parity symbols come, and recovers them: all that a receiver does but the
// socket and the sink. Half a core bears 1 Gbit/s from 250 MB/s on.
func BenchmarkReceive(b *testing.B) {
	const n = 32
	ch := benchChannel()
	key, err := protocol.SenderKey(ch.Secret, ch.Session)
	if err != nil {
		b.Fatal(err)
	}
	says := sealed{b: b, ch: ch, key: key}
	rnd := rand.New(rand.NewPCG(1, 1))
	chunk := make([]byte, image.RegionSize)
	rand.NewChaCha8([32]byte{}).Read(chunk) // never fails
	shape, err := protocol.NewShape(len(chunk), ch.SymbolSize)
	if err != nil {
		b.Fatal(err)
	}
	var packets [][]byte
	for c := range uint32(n) {
		for i, got := 0, 0; got < shape.K; i++ {
			d := protocol.Data{Chunk: c, Length: len(chunk), Symbol: uint8(i), Payload: make([]byte, shape.L)}
			if i < shape.K {
				d.Payload = shape.Source(chunk, i)
			} else {
				shape.Parity(d.Payload, chunk, i)
			}
			if p := says.packet(protocol.TypeData, &d); rnd.Float64() >= 0.02 {
				packets = append(packets, p)
				got++
			}
		}
	}
	b.SetBytes(int64(n * len(chunk)))
	b.ReportAllocs()
	now := time.Now()
	for b.Loop() {
		r, err := cast.NewReceiver(ch, endless{}, rand.New(rand.NewPCG(1, 1)))
		if err != nil {
			b.Fatal(err)
		}
		done := 0
		for _, p := range packets {
			r.Packet(now, p)
			for a, ok := r.Done(); ok; a, ok = r.Done() {
				if _, err := a.Bytes(); err != nil {
					b.Fatal(err)
				}
				r.Delivered(now, a, nil)
				done++
			}
		}
		if done != n {
			b.Fatalf("%d of %d chunks: %+v", done, n, r.Stats())
		}
	}
}
