package qemutests_test

import (
	"context"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"huck/qemu-tests/vm"
)

// Acceptance 5: a machine that nobody has assigned anything to waits and does
// no harm; an assignment starts the work where it stands.
func TestUnknownMachine(t *testing.T) {
	t.Parallel() // it mostly waits
	s := newSite(t, 8*time.Minute)
	img := s.golden(tiny)
	s.must(s.StartServer(s.ctx, rate))
	m := s.machine("unknown", tiny.size, tiny.memory)
	s.fillDisk(m)
	hash := diskHash(t, m.Disk(0))
	s.must(m.PowerOn())
	s.expect(m, `huck: waiting for an assignment`)
	node, err := s.Node(s.ctx, m)
	s.must(err)
	if node.Known || node.Assignment != nil {
		t.Errorf("a machine nobody has spoken of is listed as %+v", node)
	}
	s.must(pause(s.ctx, time.Minute))
	if diskHash(t, m.Disk(0)) != hash {
		t.Error("the disk of an unknown machine was written to")
	}

	from := s.Events.Len()
	s.assign(m, img, "--once", "--then", "kexec")
	s.verified(node.ID, from, img)
	s.login(m, tiny)
	if n := strings.Count(m.Console().String(), "SeaBIOS (version"); n != 1 {
		t.Errorf("the machine has started %d times, want once", n)
	}
	after, err := s.Node(s.ctx, m)
	s.must(err)
	if !after.Known || after.Inventory.BootID != node.Inventory.BootID {
		t.Errorf("before the assignment %+v, after it %+v", node, after)
	}
}

// fillDisk gives a machine a disk that somebody uses.
func (s *labSite) fillDisk(m *vm.Machine) {
	s.t.Helper()
	f, err := os.OpenFile(m.Disk(0), os.O_WRONLY, 0)
	s.must(err)
	content := make([]byte, 8*mib)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(content) // never fails
	_, err = f.Write(content)
	s.must(err)
	s.must(f.Close())
}

// pause waits: that nothing happens in a time is part of what is promised.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
