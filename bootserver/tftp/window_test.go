package tftp_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"huck/bootserver/tftp"
)

// link is a network between a sender and a receiver that loses, doubles and
// reorders packets, one in the given number.
type link struct {
	rng                   *rand.Rand
	lose, double, reorder int
}

func (l link) one(in int) bool { return in > 0 && l.rng.IntN(in) == 0 }

// carry returns what arrives of packets.
func (l link) carry(packets []uint16) (arrive []uint16) {
	for _, p := range packets {
		if l.one(l.lose) {
			continue
		}
		arrive = append(arrive, p)
		if l.one(l.double) {
			arrive = append(arrive, p)
		}
	}
	for i := range arrive {
		if i > 0 && l.one(l.reorder) {
			arrive[i-1], arrive[i] = arrive[i], arrive[i-1]
		}
	}
	return arrive
}

// receive transfers a file of blocks over a link to a receiver as RFC 7440 has
// it, and returns the packets that were sent.
func receive(t *testing.T, blocks int64, size int, l link) (sent int) {
	t.Helper()
	w := tftp.NewWindow((blocks-1)*512+1, 512, size)
	var have int64 // the receiver's: blocks in order
	inWindow := 0
	for round := 0; !w.Done(); round++ {
		if round > 40*int(blocks)+1000 {
			t.Fatalf("%d of %d blocks after %d rounds", have, blocks, round)
		}
		var data []uint16
		for n := w.Take(); n != 0; n = w.Take() {
			data = append(data, uint16(n))
		}
		sent += len(data)
		var acks []uint16
		gap := false
		for _, n := range l.carry(data) {
			if n == uint16(have+1) {
				have, gap = have+1, false
				if inWindow++; inWindow == size || have == blocks {
					acks, inWindow = append(acks, uint16(have)), 0
				}
			} else if !gap { // out of order: once for each gap
				acks, inWindow, gap = append(acks, uint16(have)), 0, true
			}
		}
		acks = l.carry(acks)
		for _, n := range acks {
			w.Ack(n)
		}
		if len(acks) == 0 && !w.Done() {
			w.Expired()
			inWindow = 0
		}
	}
	if have != blocks {
		t.Fatalf("done with %d of %d blocks", have, blocks)
	}
	return sent
}

// TestWindow: windows of every size bring files over good and bad links, also
// where the block number wraps, and do not multiply the traffic.
func TestWindow(t *testing.T) {
	for _, size := range []int{1, 2, 4, 16, 64} {
		for _, blocks := range []int64{1, 2, 3, 63, 64, 65, 1000, 65535, 65536, 140000} {
			if sent := receive(t, blocks, size, link{}); int64(sent) != blocks {
				t.Errorf("window %d, %d blocks: %d packets without loss", size, blocks, sent)
			}
		}
		for seed := range uint64(20) {
			l := link{rand.New(rand.NewPCG(seed, 1)), 20, 30, 30}
			if sent := receive(t, 3000, size, l); sent > 3000*(2+size/8) {
				t.Errorf("window %d, seed %d: %d packets for 3000 blocks", size, seed, sent)
			}
		}
	}
	receive(t, 70000, 16, link{rand.New(rand.NewPCG(7, 7)), 50, 0, 0})
}

// TestWindowIgnores: acknowledgements of what is not out change nothing.
func TestWindowIgnores(t *testing.T) {
	w := tftp.NewWindow(100*512, 512, 4)
	for w.Take() != 0 {
	}
	for _, n := range []uint16{5, 6, 1000, 65535} {
		if w.Ack(n); w.Take() != 0 {
			t.Errorf("after the acknowledgement of block %d something is sent", n)
		}
	}
	w.Ack(4)
	if got := w.Take(); got != 5 {
		t.Errorf("after block 4 comes %d", got)
	}
	// The sorcerer's apprentice: doubled acknowledgements double nothing.
	one := tftp.NewWindow(100*512, 512, 1)
	one.Take()
	one.Ack(1)
	one.Take()
	if one.Ack(1); one.Take() != 0 {
		t.Error("a doubled acknowledgement sends a block again")
	}
}

func TestGivesUp(t *testing.T) {
	w := tftp.NewWindow(5000, 512, 1)
	w.Take()
	for tries := 1; w.Expired(); tries++ {
		if tries > 3 {
			t.Fatal("a client that never answered is sent to more than 4 times")
		}
	}
	w.Ack(1)
	if !w.Expired() {
		t.Error("progress does not count")
	}
}

func TestParseRequest(t *testing.T) {
	for in, want := range map[string]string{
		"\x00\x01file\x00octet\x00":                                 "{false file octet []}",
		"\x00\x02file\x00OCTET\x00":                                 "{true file octet []}",
		"\x00\x01a/b\x00octet\x00BLKSIZE\x001468\x00tsize\x000\x00": "{false a/b octet [{blksize 1468} {tsize 0}]}",
		"\x00\x01f\x00octet\x00blksize\x001468\x00blksize\x008\x00": "{false f octet [{blksize 1468}]}",
		"\x00\x01f\x00octet\x00blksize\x001468\x00half\x00":         "{false f octet [{blksize 1468}]}",
		"\x00\x01f\x00octet\x00blksize\x001468\x00\x00\x00\x00":     "{false f octet [{blksize 1468}]}",
		"": "error", "\x00\x01": "error", "\x00\x01f\x00": "error", "\x00\x01\x00octet\x00": "error", "\x00\x01f\x00octet": "error",
		"\x00\x03\x00\x01\x00": "error", "\x01\x01f\x00octet\x00": "error",
		"\x00\x01" + strings.Repeat("x", 505) + "\x00octet\x00": "error",
	} {
		r, err := tftp.ParseRequest([]byte(in))
		got := fmt.Sprint(r)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestNegotiate(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "512 1 []",
		"blksize=1468":                 "1468 1 [{blksize 1468}]",
		"blksize=8":                    "8 1 [{blksize 8}]",
		"blksize=65464":                "1468 1 [{blksize 1468}]",
		"blksize=7":                    "512 1 []",
		"blksize=65465":                "512 1 []",
		"blksize=-1":                   "512 1 []",
		"tsize=0 windowsize=4":         "512 4 [{tsize 3000} {windowsize 4}]",
		"windowsize=65535 blksize=512": "512 64 [{windowsize 64} {blksize 512}]",
		"windowsize=0":                 "512 1 []",
		"windowsize=65536":             "512 1 []",
		"timeout=3":                    "512 1 [{timeout 3}]",
		"timeout=255":                  "512 1 []",
		"multicast= x=1 blksize=many":  "512 1 []",
	} {
		var options []tftp.Option
		for _, word := range strings.Fields(in) {
			name, value, _ := strings.Cut(word, "=")
			options = append(options, tftp.Option{Name: name, Value: value})
		}
		block, window, accepted := tftp.Negotiate(options, 1468, 3000)
		if got := fmt.Sprint(block, " ", window, " ", accepted); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// FuzzRequest: whatever a request says, what is agreed stays within limits, and
// the answer to it is no longer than the request and the numbers in it.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("\x00\x01file\x00octet\x00blksize\x001468\x00tsize\x000\x00windowsize\x0016\x00timeout\x001\x00"))
	f.Add([]byte("\x00\x02f\x00netascii\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := tftp.ParseRequest(b)
		if err != nil {
			return
		}
		if r.Name == "" || strings.Contains(r.Name, "\x00") {
			t.Errorf("name %q", r.Name)
		}
		block, window, accepted := tftp.Negotiate(r.Options, 1468, 1<<40)
		if block < 8 || block > 1468 || window < 1 || window > 64 || len(accepted) > len(r.Options) || len(accepted) > 4 {
			t.Errorf("blocks of %d, %d of them, %v", block, window, accepted)
		}
		for _, o := range accepted {
			if !slices.Contains([]string{"blksize", "tsize", "timeout", "windowsize"}, o.Name) {
				t.Errorf("accepts %v", o)
			}
		}
	})
}
