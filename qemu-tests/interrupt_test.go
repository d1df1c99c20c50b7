package qemutests_test

import (
	"bytes"
	"os"
	"testing"
	"time"

	"huck/qemu-tests/vm"
)

// Acceptance 4: the power is cut in mid-write, then comes back.
func TestPowerCut(t *testing.T) {
	s := newSite(t, 5*time.Minute)
	img := s.golden(tiny)
	s.must(s.StartServer(s.ctx, rate))
	m := s.machine("powercut", tiny.size, tiny.memory)
	node, from := s.started(m, img.Ref, "only", "--once", "--then", "kexec")
	at, err := s.Progress(s.ctx, node, from, 0.4)
	s.must(err)
	m.Cut()
	if at.Written >= at.Total {
		t.Fatalf("the installation was through before the power was cut: %+v", at)
	}
	if bootable(t, m) {
		t.Error("a half written disk has a partition table")
	}

	s.quiet()
	from = s.Events.Len()
	before := s.mark()
	s.must(m.PowerOn())
	s.verified(node, from, img)
	r := s.installed(node, from, img)
	cost, _ := s.imageBytes(before, 0)
	t.Logf("cut at %+v; then %+v, %d bytes crossed the network", at, r, cost)
	// What was on its way in the guest when the power went is fetched again.
	if most := img.EncodedBytes * 8 / 10; received(r) > most || cost > most {
		t.Errorf("after the power cut at 40 %% another %d bytes of %d were fetched", received(r), img.EncodedBytes)
	}
	if r.ChunksInPlace < img.chunks/5 {
		t.Errorf("%d of %d chunks were found in place", r.ChunksInPlace, img.chunks)
	}
	s.login(m, tiny)
}

// bootable reports whether a disk has a GPT header in its second sector.
func bootable(t *testing.T, m *vm.Machine) bool {
	t.Helper()
	f, err := os.Open(m.Disk(0))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 1024)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	return bytes.HasPrefix(head[512:], []byte("EFI PART"))
}

// Acceptance 4: the boot server is killed in mid-transfer and restarted.
func TestServerKilled(t *testing.T) {
	s := newSite(t, 5*time.Minute)
	img := s.golden(tiny)
	s.must(s.StartServer(s.ctx, rate))
	p := s.blankPair(tiny, 0)
	s.switchOn(p, img)
	for _, node := range p.nodes {
		at, err := s.Progress(s.ctx, node, 0, 0.3)
		s.must(err)
		if at.Written >= at.Total {
			t.Fatalf("the installation was through before the server was killed: %+v", at)
		}
	}
	s.KillServer()
	s.must(s.StartServer(s.ctx, rate))
	// Nobody touches the machines: they find the server and finish.
	s.finish(tiny, img, p, 1.65)
}
