package protocol_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"huck/imager/cast/protocol"
)

// TestCut: a packet cut at any length is refused, by the header, the body's
// parser or the tag.
func TestCut(t *testing.T) {
	for name, e := range examples() {
		key := exampleKey(t, e.header.Type)
		packet := marshal(t, key, e.header, e.body)
		for n := range packet {
			if _, _, err := protocol.ParseHeader(packet[:n]); err == nil && key.Open(packet[:n]) {
				t.Errorf("%s cut to %d bytes is believed", name, n)
			}
		}
	}
}

// TestFlip: a packet with any one bit flipped is refused.
func TestFlip(t *testing.T) {
	for name, e := range examples() {
		key := exampleKey(t, e.header.Type)
		packet := marshal(t, key, e.header, e.body)
		for bit := range 8 * len(packet) {
			p := bytes.Clone(packet)
			p[bit/8] ^= 1 << (bit % 8)
			if _, _, err := protocol.ParseHeader(p); err == nil && key.Open(p) {
				t.Errorf("%s with bit %d flipped is believed", name, bit)
			}
		}
	}
}

func TestKeysDiffer(t *testing.T) {
	e := examples()["request"]
	packet := marshal(t, exampleKey(t, protocol.TypeRequest), e.header, e.body)
	sender, _ := protocol.SenderKey(exampleSecret(), exampleSession)
	other, _ := protocol.ReceiverKey(exampleSecret(), exampleSession, exampleReceiver+1)
	session, _ := protocol.ReceiverKey(exampleSecret(), exampleSession+1, exampleReceiver)
	for i, key := range []*protocol.Key{sender, other, session} {
		if key.Open(packet) {
			t.Errorf("key %d opens another's packet", i)
		}
	}
	if _, err := protocol.SenderKey(make([]byte, 31), 1); err == nil {
		t.Error("a short secret is accepted")
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		kind protocol.Type
		body []byte
	}{
		"data without payload":          {protocol.TypeData, make([]byte, 12)},
		"data of length 0":              {protocol.TypeData, make([]byte, 13)},
		"data of a chunk too long":      {protocol.TypeData, []byte{0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 9}},
		"data of no image's chunk":      {protocol.TypeData, []byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 9}},
		"short announcement":            {protocol.TypeAnnounce, make([]byte, 11)},
		"announcement with half entry":  {protocol.TypeAnnounce, make([]byte, 16)},
		"entry of no chunks":            {protocol.TypeAnnounce, make([]byte, 20)},
		"short request":                 {protocol.TypeRequest, make([]byte, 15)},
		"request with half entry":       {protocol.TypeRequest, make([]byte, 17)},
		"entry beyond the last chunk":   {protocol.TypeUnavailable, []byte{0, 0xff, 0xff, 0xff, 0, 2, 0, 0}},
		"entry that wraps":              {protocol.TypeUnavailable, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}},
		"empty straggler message":       {protocol.TypeStraggler, nil},
		"half a straggler":              {protocol.TypeStraggler, make([]byte, 12)},
		"short report":                  {protocol.TypeReport, make([]byte, 35)},
		"long report":                   {protocol.TypeReport, make([]byte, 37)},
		"report that ends at its start": {protocol.TypeReport, append(make([]byte, 13), append([]byte{9}, make([]byte, 22)...)...)},
		"unassigned type":               {7, make([]byte, 100)},
	} {
		if _, err := parse(protocol.Header{Type: c.kind}, c.body); !errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	for name, h := range map[string]protocol.Header{
		"counter 0":     {Type: protocol.TypeData},
		"counter 2^48":  {Type: protocol.TypeData, Counter: 1 << 48},
		"type 0":        {Counter: 1},
		"type too high": {Type: 16, Counter: 1},
	} {
		if _, err := h.AppendBinary(nil); err == nil {
			t.Errorf("%s is sent", name)
		}
	}
}

func TestWindow(t *testing.T) {
	var w protocol.Window
	see := func(c uint64, want bool) {
		t.Helper()
		if w.See(c) != want {
			t.Errorf("counter %d after %d: want %v", c, w.Top(), want)
		}
	}
	see(0, false)
	see(1, true)
	see(1, false)
	see(3, true)
	see(2, true)
	see(2, false)
	see(5000, true)
	see(5000-2047, true)
	see(5000-2048, false)
	see(5000-2047, false)
	see(5001, true)
	see(5000-2046, true)
	see(5000-2047, false)
	see(protocol.MaxCounter, true)
	see(5001, false)
	see(protocol.MaxCounter-1, true)
	if w.Top() != protocol.MaxCounter {
		t.Errorf("top %d", w.Top())
	}
}

// TestWindowModel compares the window with a set over many counters.
func TestWindowModel(t *testing.T) {
	var w protocol.Window
	seen := make(map[uint64]bool)
	top, x := uint64(0), uint64(1)
	for range 200000 {
		x = x*6364136223846793005 + 1442695040888963407
		c := top + 3
		if back := x >> 33 % 3000; back < c {
			c -= back
		}
		if x>>60 == 0 {
			c += x >> 40 % 5000
		}
		want := c > 0 && !seen[c] && c+2048 > top
		if w.See(c) != want {
			t.Fatalf("counter %d, top %d: want %v", c, top, want)
		}
		if want {
			seen[c] = true
		}
		top = max(top, c)
	}
}

// FuzzParse: whatever parses is written back as the same bytes, and nothing
// panics.
func FuzzParse(f *testing.F) {
	for _, e := range examples() {
		key, _ := protocol.SenderKey(exampleSecret(), exampleSession)
		packet, _ := e.header.AppendBinary(nil)
		packet, _ = e.body.AppendBinary(packet)
		f.Add(key.Seal(packet, 0))
	}
	key, err := protocol.SenderKey(exampleSecret(), exampleSession)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		h, b, err := protocol.ParseHeader(packet)
		if err != nil {
			return
		}
		key.Open(packet)
		m, err := parse(h, b)
		if err != nil {
			return
		}
		out, err := h.AppendBinary(nil)
		if err == nil {
			out, err = m.AppendBinary(out)
		}
		if err != nil {
			t.Fatalf("%+v parses but is not written: %v", m, err)
		}
		h2, b2, err := protocol.ParseHeader(append(out, make([]byte, protocol.TagSize)...))
		if err != nil || h2 != h {
			t.Fatalf("header %+v comes back as %+v, %v", h, h2, err)
		}
		if again, err := parse(h2, b2); err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v comes back as %+v, %v", m, again, err)
		}
	})
}

// FuzzRecover: recovery from any subset of symbols gives the chunk or an
// error.
func FuzzRecover(f *testing.F) {
	f.Add([]byte("some chunk of text"), 4, []byte{1, 2, 3, 200, 201, 202, 255})
	f.Fuzz(func(t *testing.T, chunk []byte, size int, numbers []byte) {
		s, err := protocol.NewShape(len(chunk), size)
		if err != nil {
			return
		}
		var have protocol.Set
		var parity []protocol.Symbol
		got := make([]byte, len(chunk))
		for _, b := range numbers {
			n := int(b)
			if have.Has(n) {
				continue
			}
			have.Add(n)
			if n < s.K {
				copy(s.Source(got, n), s.Source(chunk, n))
				continue
			}
			p := make([]byte, s.L)
			s.Parity(p, chunk, n)
			parity = append(parity, protocol.Symbol{Number: n, Payload: p})
		}
		enough := have.Len() >= s.K
		if err := s.Recover(got, &have, parity); (err == nil) != enough || enough && !bytes.Equal(got, chunk) {
			t.Fatalf("%+v with %d symbols: error %v", s, have.Len(), err)
		}
	})
}
