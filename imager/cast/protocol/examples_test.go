package protocol_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"huck/imager/cast/protocol"
)

// The session of PROTOCOL.md's examples.
const (
	exampleSession  = 0x01020304
	exampleEpoch    = 0x0a0b0c0d
	exampleReceiver = 0x1112131415161718
)

func exampleSecret() []byte {
	b := make([]byte, protocol.SecretSize)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// exampleChunk is the encoded chunk of the examples: 20 bytes, 00 to 13, in
// symbols of at most 8 bytes.
func exampleChunk() (protocol.Shape, []byte) {
	s, err := protocol.NewShape(20, 8)
	if err != nil {
		panic(err)
	}
	return s, exampleSecret()[:20]
}

type body interface {
	AppendBinary([]byte) ([]byte, error)
}

// examples are the packets that PROTOCOL.md shows, by name.
func examples() map[string]struct {
	header protocol.Header
	body   body
} {
	type example = struct {
		header protocol.Header
		body   body
	}
	h := func(t protocol.Type, counter uint64) protocol.Header {
		return protocol.Header{Type: t, Session: exampleSession, Epoch: exampleEpoch, Counter: counter}
	}
	shape, chunk := exampleChunk()
	parity := make([]byte, shape.L)
	shape.Parity(parity, chunk, 3)
	return map[string]example{
		"data":   {h(protocol.TypeData, 1), &protocol.Data{Chunk: 5, Tag: 0xcafef00d, Length: 20, Symbol: 2, Payload: shape.Source(chunk, 2)}},
		"parity": {h(protocol.TypeData, 2), &protocol.Data{Chunk: 5, Tag: 0xcafef00d, Length: 20, Symbol: 3, Payload: parity}},
		"announce": {h(protocol.TypeAnnounce, 3), &protocol.Announce{Rate: 200000, Chunks: 1000, More: true, Members: 2, Reports: 5,
			Queue: []protocol.Entry{{Chunk: 5, Count: 1, From: 4, N: 2}, {Chunk: 6, Count: 300}}}},
		"request": {h(protocol.TypeRequest, 1), &protocol.Request{Receiver: exampleReceiver, Seen: 3,
			Want: []protocol.Entry{{Chunk: 5, Count: 1, From: 4, N: 1}}}},
		"unavailable": {h(protocol.TypeUnavailable, 4), &protocol.Unavailable{Chunks: []protocol.Entry{{Chunk: 7, Count: 1}}}},
		"straggler":   {h(protocol.TypeStraggler, 5), &protocol.Straggler{Receivers: []uint64{exampleReceiver}}},
		"report": {h(protocol.TypeReport, 2), &protocol.Report{Receiver: exampleReceiver, First: 3, Last: 0x103, Received: 250,
			Elapsed: 100 * time.Millisecond, Age: 2 * time.Millisecond, Sink: 80000}},
	}
}

func exampleKey(t *testing.T, kind protocol.Type) *protocol.Key {
	t.Helper()
	key, err := protocol.SenderKey(exampleSecret(), exampleSession)
	if kind == protocol.TypeRequest || kind == protocol.TypeReport {
		key, err = protocol.ReceiverKey(exampleSecret(), exampleSession, exampleReceiver)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func marshal(t *testing.T, key *protocol.Key, h protocol.Header, b body) []byte {
	t.Helper()
	packet, err := h.AppendBinary(nil)
	if err == nil {
		packet, err = b.AppendBinary(packet)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key.Seal(packet, 0)
}

// parse reads the body of any type.
func parse(h protocol.Header, b []byte) (body, error) {
	switch h.Type {
	case protocol.TypeData:
		d, err := protocol.ParseData(b)
		return &d, err
	case protocol.TypeAnnounce:
		a, err := protocol.ParseAnnounce(b, nil)
		return &a, err
	case protocol.TypeRequest:
		r, err := protocol.ParseRequest(b, nil)
		return &r, err
	case protocol.TypeUnavailable:
		u, err := protocol.ParseUnavailable(b, nil)
		return &u, err
	case protocol.TypeStraggler:
		s, err := protocol.ParseStraggler(b)
		return &s, err
	case protocol.TypeReport:
		r, err := protocol.ParseReport(b)
		return &r, err
	}
	return nil, fmt.Errorf("%v: %w", h.Type, protocol.ErrMalformed)
}

// TestExamples: the packets in PROTOCOL.md are what this package makes and
// reads.
func TestExamples(t *testing.T) {
	text, err := os.ReadFile("../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[string][]byte)
	for _, m := range regexp.MustCompile("(?s)```hex ([a-z]+)\n(.*?)```").FindAllSubmatch(text, -1) {
		var digits strings.Builder
		for line := range strings.Lines(string(m[2])) {
			bytes, _, _ := strings.Cut(line, "|") // the rest explains
			digits.WriteString(strings.Join(strings.Fields(bytes), ""))
		}
		if shown[string(m[1])], err = hex.DecodeString(digits.String()); err != nil {
			t.Fatalf("example %s: %v", m[1], err)
		}
	}
	for name, e := range examples() {
		key := exampleKey(t, e.header.Type)
		want := marshal(t, key, e.header, e.body)
		got := shown[name]
		if !bytes.Equal(got, want) {
			t.Errorf("example %s is\n% x\nshould be\n% x", name, got, want)
			continue
		}
		h, b, err := protocol.ParseHeader(got)
		if err != nil || h != e.header || !key.Open(got) {
			t.Errorf("example %s: header %+v, error %v", name, h, err)
			continue
		}
		if back, err := parse(h, b); err != nil || !reflect.DeepEqual(back, e.body) {
			t.Errorf("example %s: %+v, error %v", name, back, err)
		}
	}
}
