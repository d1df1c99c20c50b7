package qemutests_test

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"huck/imager/api"
	"huck/qemu-tests/disks"
	"huck/qemu-tests/vm"
)

// Acceptance 1 and 7: two machines with empty disks, switched on together.
func TestTogether(t *testing.T) {
	s := newSite(t, 12*time.Minute)
	p := s.together(debian, 0)
	s.atWork(p.machines[0])
}

// Acceptance 1: the second is switched on when the first is half done.
func TestLateJoiner(t *testing.T) { newSite(t, 12*time.Minute).lateJoiner(debian, 0) }

// Acceptance 2: the same with 2 % of packets dropped at each machine's port.
func TestTogetherWithLoss(t *testing.T) { newSite(t, 5*time.Minute).together(tiny, 2) }

func TestLateJoinerWithLoss(t *testing.T) { newSite(t, 6*time.Minute).lateJoiner(tiny, 2) }

func rateWith(loss int) string {
	if loss > 0 {
		return lossyRate
	}
	return rate
}

// pair is two machines that are installed at the same time.
type pair struct {
	machines [2]*vm.Machine
	nodes    [2]string
	loss     int // percent at each machine's port
}

// blankPair plugs in two machines with empty disks.
func (s *labSite) blankPair(sys system, loss int) *pair {
	s.t.Helper()
	p := &pair{loss: loss}
	for i, name := range []string{"first", "second"} {
		// Larger than the image: the backup GPT has to move.
		p.machines[i] = s.machine(name, sys.size+32*mib, sys.memory)
		if loss > 0 {
			s.must(s.Network.SetLoss(s.ctx, p.machines[i].Tap(), loss))
		}
	}
	return p
}

func (s *labSite) together(sys system, loss int) *pair {
	s.t.Helper()
	img := s.golden(sys)
	s.must(s.StartServer(s.ctx, rateWith(loss)))
	p := s.blankPair(sys, loss)
	s.switchOn(p, img)
	s.finish(sys, img, p, 1.15)
	return p
}

// switchOn switches both machines on and assigns the image to both once both
// are there.
func (s *labSite) switchOn(p *pair, img captured) {
	s.t.Helper()
	for _, m := range p.machines {
		s.must(m.PowerOn())
	}
	for _, m := range p.machines {
		_, err := s.Node(s.ctx, m)
		s.must(err)
	}
	var g errgroup.Group
	for i, m := range p.machines {
		g.Go(func() error {
			n, err := s.Assign(s.ctx, m, img.Ref, "only", "--once", "--then", "kexec")
			p.nodes[i] = n.ID
			return err
		})
	}
	s.must(g.Wait())
}

// lateJoiner switches the second machine on when the first is half done. An
// image of this size would be through before the second has booted, so the
// link is slow meanwhile, as it would be to a larger one.
func (s *labSite) lateJoiner(sys system, loss int) {
	s.t.Helper()
	const (
		slow = 500_000
		fast = 100_000_000 // no limit, but what waits does not come as one burst
	)
	img := s.golden(sys)
	s.must(s.StartServer(s.ctx, rateWith(loss)))
	s.must(s.Network.LimitMulticast(s.ctx, fast))
	p := s.blankPair(sys, loss)
	p.nodes[0], _ = s.started(p.machines[0], img.Ref, "only", "--once", "--then", "kexec")
	for s.sent().Multicast < img.EncodedBytes/2 {
		s.must(pause(s.ctx, 50*time.Millisecond))
	}
	s.must(s.Network.LimitMulticast(s.ctx, slow))
	s.t.Logf("first half done; sent %+v", s.sent())
	var from int
	p.nodes[1], from = s.started(p.machines[1], img.Ref, "only", "--once", "--then", "kexec")
	_, _, err := s.Events.Wait(s.ctx, from, "that the second has joined", func(e api.Event) bool {
		return e.Node == p.nodes[1] && strings.HasPrefix(e.Message, "joined channel")
	})
	s.must(err)
	s.must(s.Network.LimitMulticast(s.ctx, fast))
	s.t.Logf("second joins; sent %+v", s.sent())
	s.finish(sys, img, p, 1.65)
}

// finish waits until both machines run the installed system and checks what
// was sent for that, against bar times the encoded image.
func (s *labSite) finish(sys system, img captured, p *pair, bar float64) {
	s.t.Helper()
	var http int64
	for i, node := range p.nodes {
		s.verified(node, 0, img)
		r := s.installed(node, 0, img)
		s.t.Logf("%s: %+v", p.machines[i].Name(), r)
		http += r.Received["http"]
	}
	total, unicast := s.imageBytes(mark{}, p.loss)
	share := func(n int64) float64 { return float64(n) / float64(img.EncodedBytes) }
	s.t.Logf("sent %+v: %.3f × the encoded image, %.3f of it by unicast; by HTTP %.3f", s.sent(), share(total), share(unicast), share(http))
	if share(total) > bar {
		s.t.Errorf("the server sent %.3f times the encoded image, want at most %.2f", share(total), bar)
	}
	if share(http) >= 0.05 || share(unicast) >= 0.05 {
		s.t.Errorf("%.3f of the image came by HTTP and %.3f by unicast, want less than 0.05", share(http), share(unicast))
	}
	for _, m := range p.machines {
		s.login(m, sys)
	}
}

// atWork logs in to the installed Debian and checks that it is the image's
// system, that it can write, and that it leaves a clean filesystem.
func (s *labSite) atWork(m *vm.Machine) {
	s.t.Helper()
	at := 0
	for _, turn := range []struct{ answer, typed string }{
		{disks.DebianHostname + " login: ", disks.DebianUser},
		{"Password: ", disks.DebianPassword},
		{`# `, `echo "name=$(hostname)."`},
		{`name=` + disks.DebianHostname + `\.`, `findmnt -n -o OPTIONS /`},
		{`[\r\n]rw,`, `echo kept > /root/written && sync && echo can-$((1+1))-write`},
		{`can-2-write`, "systemctl poweroff"},
	} {
		var err error
		_, at, err = m.Expect(s.ctx, turn.answer, at)
		s.must(err)
		s.must(m.Type(turn.typed))
	}
	s.must(m.WaitOff(s.ctx))
	s.must(disks.Ext4().Check(s.ctx, m.Disk(0)))
}
