package pace_test

import (
	"encoding/binary"
	"math"
	"testing"
	"time"

	"huck/imager/cast/pace"
)

// odd are values that no network has, or only a broken one.
var odd = []int64{0, 1, -1, 2, 31, 32, 33, 1000, 1e6, 1e9, 1e12, math.MaxInt32, math.MinInt64, math.MaxInt64}

// FuzzSample: whatever is reported, nothing breaks and the rate keeps its bounds.
// Each operation is 18 bytes: what, receiver, and eight values.
func FuzzSample(f *testing.F) {
	f.Add([]byte{}, int64(0), int64(0), 0.0)
	for i := range odd {
		var b []byte
		for j := range 64 {
			b = append(b, byte(j%8), byte(j%5))
			for k := range 8 {
				b = binary.BigEndian.AppendUint16(b, uint16(i*(k+1)+j))
			}
		}
		f.Add(b, odd[i], odd[len(odd)-1-i], float64(odd[i])/1e9)
	}
	f.Add([]byte{}, int64(-5), int64(-7), math.NaN())
	f.Fuzz(func(t *testing.T, ops []byte, most, least int64, floor float64) {
		c := pace.New(pace.Config{Max: most, Min: least, Floor: floor, Polite: len(ops)%2 == 1})
		low, high := bounds(most, least)
		now := epoch
		for ; len(ops) >= 18; ops = ops[18:] {
			now = operate(c, now, ops)
			if r := c.Rate(now); r < low || r > high {
				t.Fatalf("rate %d, not within %d to %d", r, low, high)
			}
		}
	})
}

// bounds is what Config promises of the rate.
func bounds(most, least int64) (low, high int64) {
	if high = most; most <= 0 {
		high = 100e9
	}
	if low = least; least <= 0 {
		low = 1e6
	}
	high = min(high, 1e15)
	return min(low, high), high
}

// operate does what 18 bytes say.
func operate(c *pace.Controller, now time.Time, op []byte) time.Time {
	value := func(i int) int64 {
		v := binary.BigEndian.Uint16(op[2+2*i:])
		if v&0x8000 != 0 {
			return odd[int(v)%len(odd)]
		}
		return int64(v) << (v & 15)
	}
	now = now.Add(time.Duration(value(0) % 1e9))
	id := uint64(op[1])
	switch op[0] % 8 {
	case 0:
		c.HostLimited(now)
	case 1:
		c.Idle(now)
	case 2:
		c.Forget(id)
	case 3:
		c.Straggler(id)
	default:
		c.Sample(now, pace.Sample{
			Receiver: id, Sent: int(value(1)), Received: int(value(2)), Bytes: int(value(3)),
			SendTime: time.Duration(value(4)), RecvTime: time.Duration(value(5)), RTT: time.Duration(value(6)),
			SinkRate: value(7),
		})
	}
	return now
}
