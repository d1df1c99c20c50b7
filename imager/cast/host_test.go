package cast_test

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"huck/imager/cast"
	"huck/imager/cast/casttest"
)

// TestRealHostLink: where the host's own link is the bottleneck the host drops
// nothing, and the channel finds out how fast the link is.
func TestRealHostLink(t *testing.T) {
	const rate = 200e6
	l := newLAN(t, 2)
	// 1000 packets wait, as Linux has it by default.
	l.ip("netns", "exec", l.names[0], "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "200mbit", "burst", "64kb", "limit", "1514000")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 200, region, region)
	s, _ := l.run(0, cast.ServerConfig{Addr: netip.MustParseAddrPort("10.9.0.1:0")})
	ch := l.open(s, "239.9.9.31:9100", img, 0)
	if _, err := l.receive(ctx, 1, cast.ReceiverConfig{Channel: ch.Info()}, cast.Feed{Sink: casttest.NewSink(img, nil)}); err != nil {
		t.Fatal(err)
	}
	if got := float64(ch.Stats().Rate) / rate; got < 0.5 || got > 1.2 {
		t.Errorf("the channel's rate is %.2f times the link's", got)
	}
	out, err := exec.CommandContext(ctx, "ip", "netns", "exec", l.names[0], "tc", "-s", "qdisc", "show", "dev", "eth0").Output()
	if err != nil || !strings.Contains(string(out), "dropped 0,") {
		t.Errorf("the host dropped packets: %v\n%s", err, out)
	}
}
