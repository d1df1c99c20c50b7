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
