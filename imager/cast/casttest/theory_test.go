package casttest_test

import (
	"math"
	"testing"

	"huck/imager/cast/casttest"
)

// TestNeeded compares with values that were simulated elsewhere.
func TestNeeded(t *testing.T) {
	for _, c := range []struct {
		k, n int
		loss float64
		want float64
	}{
		{10, 16, 0.01, 1.095}, {58, 16, 0.01, 1.040}, {187, 16, 0.01, 1.024},
		{10, 4, 0.10, 1.23}, {58, 4, 0.10, 1.160}, {187, 4, 0.10, 1.14},
		{10, 1000, 0.01, 1.219}, {58, 1000, 0.01, 1.08}, {187, 1000, 0.01, 1.04},
		{10, 5000, 0.05, 1.515}, {58, 5000, 0.05, 1.20}, {187, 5000, 0.05, 1.13},
		{187, 1, 0.30, 1 / 0.7},
		{187, 1000, 0, 1},
	} {
		got := casttest.Needed(c.k, c.n, c.loss, 0)
		if math.Abs(got-c.want) > 0.008 {
			t.Errorf("k = %d, %d receivers, loss %g: %.4f, want %.3f", c.k, c.n, c.loss, got, c.want)
		}
		if of := casttest.NeededOf(4096, c.k, c.n, c.loss); math.Abs(of-got) > 1e-6 {
			t.Errorf("k = %d, %d receivers, loss %g: %.6f of many symbols, %.6f of any", c.k, c.n, c.loss, of, got)
		}
	}
	if a, b := casttest.NeededOf(256, 187, 100, 0.3), casttest.Needed(187, 100, 0.3, 0); a <= b {
		t.Errorf("%.3f of 256 symbols, %.3f of any number", a, b)
	}
	if a, b := casttest.Needed(187, 100, 0.01, 8), casttest.Needed(187, 100, 0.01, 0); a <= b {
		t.Errorf("%.3f with losses in bursts, %.3f without", a, b)
	}
}
