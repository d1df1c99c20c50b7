package qemutests_test

import (
	"testing"
	"time"

	"huck/imager/api"
	"huck/qemu-tests/vm"
)

// Acceptance 3: a machine that is imaged at every boot fetches what its disk
// lacks and nothing else.
func TestEveryBoot(t *testing.T) {
	s := newSite(t, 9*time.Minute)
	img := s.golden(tiny)
	s.must(s.StartServer(s.ctx, rate))
	m := s.machine("everyboot", tiny.size+32*mib, tiny.memory)

	node, from := s.started(m, img.Ref, "only", "--every-boot", "--then", "poweroff")
	r := s.installed(node, from, img)
	s.must(m.WaitOff(s.ctx))
	if differ, _ := s.difference(img.Ref, m.Disk(0)); differ != 0 {
		t.Fatalf("after the installation %d regions are not the image's", differ)
	}

	// Nothing has changed.
	r, cost := s.again(m, node, img)
	if r.ChunksInPlace != img.chunks || r.WrittenBytes != 0 {
		t.Errorf("of %d chunks %d were in place, %d bytes were written; want all and none", img.chunks, r.ChunksInPlace, r.WrittenBytes)
	}
	if cost >= img.EncodedBytes/100 {
		t.Errorf("%d bytes crossed the network for an image of %d that was in place, want less than 1 %%", cost, img.EncodedBytes)
	}
	s.must(m.WaitOff(s.ctx))

	// The system runs and changes 30 files.
	s.assign(m, img, "--every-boot", "--then", "kexec")
	s.must(m.PowerOn())
	s.login(m, tiny)
	s.must(m.Type("rewrite 30 99"))
	s.expect(m, "ok rewrite")
	s.must(m.Type("poweroff"))
	s.must(m.WaitOff(s.ctx))
	differ, diff := s.difference(img.Ref, m.Disk(0))
	if differ < 3 || diff < 30*64<<10 {
		t.Fatalf("30 rewritten files made a difference of %d regions, %d bytes", differ, diff)
	}

	// The next boot takes them back, and the system starts again.
	from = s.Events.Len()
	r, cost = s.again(m, node, img)
	t.Logf("difference: %d regions, %d encoded bytes; received %v, %d bytes crossed the network", differ, diff, r.Received, cost)
	if got := received(r); float64(got) > 1.05*float64(diff) {
		t.Errorf("fetched %d bytes for a difference of %d, want at most 1.05 times", got, diff)
	}
	if float64(cost) > 1.15*float64(diff)+float64(img.EncodedBytes/100) {
		t.Errorf("%d bytes crossed the network for a difference of %d", cost, diff)
	}
	s.verified(node, from, img)
	s.login(m, tiny)
}

// again switches a machine on that has an assignment, waits for the end of its
// installation, and tells how many bytes the server sent for the image.
func (s *labSite) again(m *vm.Machine, node string, img captured) (r api.Result, cost int64) {
	s.t.Helper()
	from, before := s.Events.Len(), s.mark()
	s.must(m.PowerOn())
	r = s.installed(node, from, img)
	cost, _ = s.imageBytes(before, 0)
	return r, cost
}

// assign gives a known machine a new assignment.
func (s *labSite) assign(m *vm.Machine, img captured, options ...string) {
	s.t.Helper()
	_, err := s.Assign(s.ctx, m, img.Ref, "only", options...)
	s.must(err)
}
