package swap_test

import (
	"bytes"
	"testing"

	"huck/imager/usedmap/swap"
)

// TestBigEndian has the swap space of a machine of the other byte order.
func TestBigEndian(t *testing.T) {
	b := make([]byte, 1<<20)
	copy(b[1024:], "\x00\x00\x00\x01\x00\x00\x00\xff")
	copy(b[4086:], "SWAPSPACE2")
	res, err := swap.Probe(bytes.NewReader(b), int64(len(b)))
	if err != nil || res == nil || res.Used == nil || res.Used.Bytes() != 4096 {
		t.Errorf("%+v, error %v", res, err)
	}
}

// TestHibernated has the signatures that suspended systems leave.
func TestHibernated(t *testing.T) {
	for _, s := range []string{"S1SUSPEND\x00", "S2SUSPEND\x00", "ULSUSPEND\x00", "\xed\xc3\x02\xe9\x98\x56\xe5\x0c\x00\x00"} {
		b := make([]byte, 1<<20)
		copy(b[4086:], s)
		res, err := swap.Probe(bytes.NewReader(b), int64(len(b)))
		if err == nil || res == nil || res.Used != nil || res.Whole == "" {
			t.Errorf("%q: %+v, error %v", s, res, err)
		}
	}
}

func FuzzProbe(f *testing.F) {
	f.Add(uint16(0), []byte("\x01\x00\x00\x00\x0f\x00\x00\x00"), []byte("SWAPSPACE2"))
	f.Add(uint16(4), []byte("\x00\x00\x00\x01\x00\x00\x00\x0f"), []byte("S1SUSPEND\x00"))
	f.Fuzz(func(t *testing.T, shift uint16, header, magic []byte) {
		b := make([]byte, 64<<10)
		copy(b[1024:4086], header)
		copy(b[4<<10<<(shift%5)-10:], magic)
		res, err := swap.Probe(bytes.NewReader(b), int64(len(b)))
		if res != nil && res.Used != nil && (err != nil || res.Used.Bytes() > int64(len(b))) {
			t.Fatalf("%+v, error %v", res, err)
		}
	})
}
