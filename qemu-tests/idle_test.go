package qemutests_test

import (
	"context"
	"testing"
	"time"

	"huck/qemu-tests/vm"
)

// TestNothingToDo: a node with nothing to do is in its own system within seconds
// of its lease; one in maintenance stays where it is, and one whose
// appliance crashes reports that.
func TestNothingToDo(t *testing.T) {
	t.Parallel()
	s := newSite(t, 10*time.Minute)
	img := s.smallTiny(false)
	s.must(s.StartServer(s.ctx, rate))
	m := s.machine("idle", tiny.size, tiny.memory)
	node, from := s.started(m, img.Ref, "only", "--once", "--then", "poweroff")
	s.installed(node, from, img)
	s.must(m.WaitOff(s.ctx))

	s.must(m.PowerOn())
	s.expect(m, `huck: step network: done`)
	lease := time.Now()
	s.expect(m, `huck: \[ *[0-9.]+\] leaving: kexec`)
	left := time.Since(lease)
	s.login(m, tiny)
	t.Logf("kexec %v after the lease, the own system %v", left.Round(10*time.Millisecond), time.Since(lease).Round(10*time.Millisecond))
	if left > scaled(20*time.Second) { // a few seconds where nothing else runs
		t.Errorf("the machine's own system was started %v after the lease", left)
	}

	s.order("maintain", node)
	from = s.Events.Len()
	s.restarted(m)
	s.expect(m, `huck: in maintenance: nothing is written`)
	s.crash(m, node, from, "6", `SIGABRT`)
	s.crash(m, node, from, "9", `signal killed`)
	from = s.Events.Len()
	s.kill(m, "9")
	s.told(node, from, `too many crashes, restarting the machine`)
	_, _, err := m.Expect(s.ctx, `(?s)SeaBIOS.*SeaBIOS.*huck: in maintenance`, 0)
	s.must(err)
	s.order("maintain", node, "--end")
	s.login(m, tiny)
}

// crash ends the appliance with a signal, and waits until the next one has told
// of it and is in maintenance again.
func (s *labSite) crash(m *vm.Machine, node string, from int, signal, cause string) {
	s.t.Helper()
	seen := m.Console().Len()
	s.kill(m, signal)
	s.told(node, from, `the appliance crashed and was started anew(?s:.)*`+cause)
	_, _, err := m.Expect(s.ctx, `huck: in maintenance: nothing is written`, seen)
	s.must(err)
}

// kill opens the rescue shell and kills its parent. What is typed before the
// shell is on offer counts for nothing, so it is typed until there is one.
func (s *labSite) kill(m *vm.Machine, signal string) {
	s.t.Helper()
	for at := m.Console().Len(); ; {
		s.must(m.Type(""))
		ctx, cancel := context.WithTimeout(s.ctx, 3*time.Second)
		_, _, err := m.Expect(ctx, `huck:/# `, at)
		cancel()
		if err == nil {
			break
		}
		s.must(s.ctx.Err())
	}
	s.must(m.Type("kill -" + signal + " $PPID"))
}

// order runs a command of the boot server for an operator.
func (s *labSite) order(args ...string) {
	s.t.Helper()
	_, err := s.Bootserver(s.ctx, args...)
	s.must(err)
}
