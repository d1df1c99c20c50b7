package origin

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"huck/imager/cast"
)

// TestActivity: a channel's work is told of while it lasts and once at its end,
// each time with its own figures.
func TestActivity(t *testing.T) {
	var out bytes.Buffer
	a := &activity{log: slog.New(slog.NewTextHandler(&out, nil))}
	now := time.Unix(1000, 0)
	var st cast.SenderStats
	// pass lets d pass, in which packets of 1250 bytes go, every tenth a repair.
	pass := func(d time.Duration, packets uint64) {
		looks := uint64(d / lookEvery)
		for range looks {
			now = now.Add(lookEvery)
			st.Packets += packets / looks
			st.DataPackets += packets / looks
			st.ParityPackets += packets / looks / 10
			st.Bytes += packets / looks * 1250
			a.look(now, st)
		}
	}
	said := func(words ...string) {
		t.Helper()
		lines := strings.Count(out.String(), "\n")
		for _, w := range words {
			if !strings.Contains(out.String(), w) {
				t.Errorf("no %q in %q", w, out.String())
			}
		}
		if lines != min(len(words), 1) {
			t.Errorf("%d lines: %s", lines, &out)
		}
		out.Reset()
	}
	pass(time.Minute, 0)
	said()
	st.Members, st.Queued = 5, 7
	pass(4*time.Second, 4*10000)
	said("channel is sending", "receivers=5", "rate=100000000", "queued_chunks=7")
	pass(16*time.Second, 16*10000)
	said("channel is sending")
	st.Queued, st.Members, st.Stragglers = 0, 1, 1
	pass(time.Minute, 0)
	said("channel has sent", "bytes=250000000", "seconds=20", "rate=100000000", "receivers=5", "repair_packets=20000", "stragglers=1")
	pass(time.Second, 100)
	pass(time.Minute, 0)
	said("channel has sent", fmt.Sprint("bytes=", 100*1250), "receivers=1", "stragglers=0")
	pass(time.Second, 100)
	a.end()
	said("channel has sent", "seconds=1 ")
}
