package qemutests_test

import (
	"encoding/json"
	"testing"
	"time"

	"huck/imager/api"
)

// nodeCaptured is what a node reports of its capture.
type nodeCaptured struct {
	Ref          string `json:"ref"`
	EncodedBytes int64  `json:"encoded_bytes"`
	NewBytes     int64  `json:"new_bytes"`
}

// captured waits for a node's report of its capture.
func (s *labSite) captured(node string, from int) (c nodeCaptured) {
	s.t.Helper()
	e, _, err := s.Events.Wait(s.ctx, from, "captured of "+node, func(e api.Event) bool {
		return e.Node == node && e.Type == api.EventCaptured
	})
	s.must(err)
	s.must(json.Unmarshal(e.Data, &c))
	return c
}

// TestCaptureFromNode: a machine that has changed what it carries is captured
// over the network; its power fails in between, and only the rest is sent
// then. The image is put on another machine, which is the same as the first.
func TestCaptureFromNode(t *testing.T) {
	t.Parallel()
	s := newSite(t, 12*time.Minute)
	img := s.golden(tiny)
	s.must(s.StartServer(s.ctx, rate))
	m := s.machine("source", tiny.size+32*mib, tiny.memory)
	node, from := s.started(m, img.Ref, "only", "--once", "--then", "kexec")
	s.installed(node, from, img)
	s.login(m, tiny)
	s.must(m.Type("rewrite 400 7"))
	s.expect(m, "ok rewrite")
	s.must(m.Type("poweroff"))
	s.must(m.WaitOff(s.ctx))
	differ, lacks := s.difference(img.Ref, m.Disk(0))
	if differ < 80 {
		t.Fatalf("400 rewritten files made a difference of %d regions", differ)
	}

	// The power fails when a part of what the store lacks has been sent.
	order := []string{"capture", node, "--name", "changed", "--then", "poweroff"}
	_, err := s.Bootserver(s.ctx, order...)
	s.must(err)
	s.must(s.Network.LimitSending(s.ctx, m.Tap(), 4_000_000)) // there is progress every two seconds
	from = s.Events.Len()
	s.must(m.PowerOn())
	_, err = s.Progress(s.ctx, node, from, 0.4)
	s.must(err)
	m.Cut()
	if out, err := s.Imager(s.ctx, "images", "--store", s.Store()); err != nil || len(out) == 0 {
		t.Fatalf("images: %s, %v", out, err)
	}
	from = s.Events.Len()
	s.must(m.PowerOn())
	c := s.captured(node, from)
	t.Logf("captured %+v; %d bytes differ from %s", c, lacks, img.Ref)
	if c.Ref != "changed:1" || c.NewBytes == 0 || c.NewBytes > lacks*9/10 {
		t.Errorf("after the power cut %d bytes were sent of %d that were lacking at first, want a part", c.NewBytes, lacks)
	}
	s.must(m.WaitOff(s.ctx))
	if differ, _ := s.difference(c.Ref, m.Disk(0)); differ != 0 {
		t.Errorf("the image differs from the disk in %d regions", differ)
	}

	// Another machine carries it.
	other := s.machine("target", tiny.size+64*mib, tiny.memory)
	copied, from := s.started(other, c.Ref, "only", "--once", "--then", "poweroff")
	_, _, err = s.Installed(s.ctx, copied, from)
	s.must(err)
	s.must(other.WaitOff(s.ctx))
	if differ, _ := s.difference(c.Ref, other.Disk(0)); differ != 0 {
		t.Errorf("%d regions of the other machine's disk differ", differ)
	}
	s.must(other.PowerOn())
	s.login(other, tiny)
	if out, err := s.Imager(s.ctx, "check", "--read-data", "--store", s.Store()); err != nil {
		t.Errorf("store: %s, %v", out, err)
	}
}
