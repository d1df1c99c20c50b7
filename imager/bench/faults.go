package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"huck/imager/bench/rig"
)

// installer installs on one host over and over, on a target that is new,
// damaged or complete; some installs are killed and started again. The last
// one, after the faults, is left in peace.
func (s *soak) installer(ctx, faults context.Context, host int, r *rand.Rand) error {
	target := filepath.Join(s.dir, fmt.Sprintf("host%d.raw", host))
	for last := false; !last; {
		last = faults.Err() != nil
		if err := s.spoil(target, r); err != nil {
			return err
		}
		if err := s.install(ctx, faults, host, target, r); err != nil {
			return err
		}
	}
	return nil
}

// spoil makes a target as somebody may find it.
func (s *soak) spoil(target string, r *rand.Rand) error {
	switch r.IntN(3) {
	case 0:
		if err := os.Remove(target); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	case 1:
		return damage(target, r)
	}
	return nil
}

// damage overwrites some of a file, if it is there.
func damage(path string, r *rand.Rand) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	st, err := f.Stat()
	for range 1 + r.IntN(20) {
		if err == nil && st.Size() > 0 {
			_, err = f.WriteAt([]byte("damage"), r.Int64N(max(1, st.Size()-6)))
		}
	}
	return errors.Join(err, f.Close())
}

// patience is how long one try to install may take without a fault of its
// own: others' faults hold it up. Longer is stuck.
func (s *soak) patience() time.Duration { return 2*time.Minute + 10*s.once }

// install tries until the target is complete, and compares it.
func (s *soak) install(ctx, faults context.Context, host int, target string, r *rand.Rand) error {
	log := filepath.Join(s.logs, filepath.Base(target)+".log")
	for {
		p, err := s.net.Start(host, rig.Command{Args: []string{s.work.imager, "--json", "receive", s.url(), "--to", target, "--interface", "eth0"}, Log: log})
		if err != nil {
			return err
		}
		killed, err := s.await(ctx, faults, p, r)
		if err != nil {
			return fmt.Errorf("install of %s: %w: %s", filepath.Base(target), err, tail(log))
		}
		_, ended := p.Ended()
		s.add(func(t *tally) { t.Memory = max(t.Memory, p.Usage().Memory) })
		switch {
		case killed:
			s.add(func(t *tally) { t.Kills++ })
			s.log.Info("receiver killed", "host", host)
		case ended != nil:
			s.add(func(t *tally) { t.Failures++ })
			s.log.Warn("receiver failed, starts again", "host", host, "err", ended, "said", tail(log))
			if err := wait(ctx, time.Second); err != nil {
				return err
			}
		default:
			s.add(func(t *tally) { t.Installs++ })
			s.log.Info("installed", "host", host, "target", filepath.Base(target))
			return sameFile(target, s.file)
		}
	}
}

// await waits for an install to end. While there are faults it may be killed
// at any moment.
func (s *soak) await(ctx, faults context.Context, p *rig.Process, r *rand.Rand) (killed bool, err error) {
	kill, patience := time.NewTimer(between(r, 0, 4*s.once)), time.NewTimer(s.patience())
	defer kill.Stop()
	defer patience.Stop()
	for {
		select {
		case <-p.Done():
			return killed, nil
		case <-kill.C:
			if faults.Err() == nil {
				killed = true
				p.Kill()
			}
		case <-patience.C:
			p.Kill()
			return false, fmt.Errorf("stuck: not done after %v", s.patience())
		case <-ctx.Done():
			p.Kill()
			return false, ctx.Err()
		}
	}
}

// misfortune breaks something every few seconds until faults is done, and
// then mends what it broke. Kills of the sender go to kills; what a duplicate
// start does is installs' to wait for.
func (s *soak) misfortune(ctx, faults context.Context, installs *errgroup.Group, kills chan<- struct{}, r *rand.Rand) error {
	for n := 0; ; n++ {
		if wait(faults, between(r, 500*time.Millisecond, 5*time.Second)) != nil {
			break
		}
		host := 1 + r.IntN(s.cmd.Receivers)
		var err error
		switch what := r.IntN(12); {
		case what < 5:
			err = s.loss(faults, host, r)
		case what < 8:
			err = s.cable(ctx, host, between(r, 300*time.Millisecond, 5*time.Second))
		case what < 10:
			select {
			case kills <- struct{}{}:
			case <-faults.Done():
			}
		case what < 11:
			s.duplicate(ctx, faults, installs, host, n, s.rand(1000+n))
		default:
			d := between(r, time.Second, 10*time.Second)
			installs.Go(func() error { return s.double(faults, d) })
		}
		if err != nil && faults.Err() == nil {
			return err
		}
	}
	for host := 1; host <= s.cmd.Receivers; host++ {
		if err := s.net.SetLoss(ctx, host, s.links[host]); err != nil {
			return err
		}
	}
	s.log.Info("no more faults")
	return ctx.Err()
}

func (s *soak) loss(ctx context.Context, host int, r *rand.Rand) error {
	l := s.links[host]
	l.Loss = []float64{0, 0, 0.01, 0.03, 0.1, 0.3}[r.IntN(6)]
	s.log.Info("loss", "host", host, "part", l.Loss)
	s.add(func(t *tally) { t.Losses++ })
	return s.net.SetLoss(ctx, host, l)
}

// cable pulls a host's cable for a while. It is in again in any case.
func (s *soak) cable(ctx context.Context, host int, d time.Duration) error {
	s.log.Info("cable out", "host", host, "for", d)
	s.add(func(t *tally) { t.Cables++ })
	if err := s.net.SetCable(ctx, host, false); err != nil {
		return err
	}
	err := wait(ctx, d)
	return errors.Join(err, s.net.SetCable(context.WithoutCancel(ctx), host, true))
}

// duplicate starts an install on a host that has one already.
func (s *soak) duplicate(ctx, faults context.Context, installs *errgroup.Group, host, n int, r *rand.Rand) {
	s.log.Info("started twice", "host", host)
	s.add(func(t *tally) { t.Duplicates++ })
	target := filepath.Join(s.dir, fmt.Sprintf("host%d-again%d.raw", host, n))
	installs.Go(func() error {
		if err := s.install(ctx, faults, host, target, r); err != nil {
			return err
		}
		return os.Remove(target) // it was compared; many would fill the disk
	})
}

// double lets a second sender of the same image run for a while, as by
// mistake.
func (s *soak) double(ctx context.Context, d time.Duration) error {
	s.log.Info("second sender", "for", d)
	s.add(func(t *tally) { t.Doubles++ })
	p, err := s.startSender("8081")
	if err != nil {
		return err
	}
	_ = wait(ctx, d) // however it ends, so does the sender
	p.Kill()
	return nil
}
