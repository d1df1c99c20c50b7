package api_test

import (
	"testing"
	"time"

	"huck/imager/api"
)

func TestProgress(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		p    api.Progress
		left time.Duration
		line string
	}{
		{api.Progress{Total: 100 * mib, Planned: 50 * mib, InPlace: 10 * mib, Written: 30 * mib, Rate: 5 * mib,
			Received: map[string]int64{"multicast": 20 * mib, "http": mib}},
			12 * time.Second, "40% of 100 MiB at 5.0 MiB/s, 12s left, compared 50%, in place 10%, multicast 20.0 MiB, http 1.0 MiB"},
		{api.Progress{Total: 100 * mib, Written: mib}, -1, "1% of 100 MiB"},
		{api.Progress{Total: 1 << 50, Rate: 1}, -1, "0% of 1073741824 MiB at 0.0 MiB/s"},
		{api.Progress{Total: mib, InPlace: mib, Planned: mib, Rate: 9}, 0, "100% of 1 MiB at 0.0 MiB/s, compared 100%, in place 100%"},
		{api.Progress{}, 0, "100% of 0 MiB"},
	} {
		if got := c.p.String(); got != c.line || c.p.Left() != c.left {
			t.Errorf("%+v: %q, %v left; want %q, %v", c.p, got, c.p.Left(), c.line, c.left)
		}
	}
}
