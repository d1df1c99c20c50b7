package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"huck/imager/api"
	"huck/imager/bench/rig"
)

type soakCmd struct {
	Minutes   float64 `default:"30" help:"How long faults happen."`
	Receivers int     `default:"6" help:"Hosts that install over and over."`
	Size      int64   `default:"64" placeholder:"MIB" help:"Size of the image in MiB."`
	Rate      string  `default:"40M" placeholder:"RATE" help:"Rate of the links."`
	SendRate  string  `placeholder:"RATE" help:"--rate for imager send; without it the sender finds the rate itself."`
	Seed      uint64  `help:"Of what happens when; 0 takes one from the clock."`
	Imager    string  `placeholder:"FILE" help:"The imager to soak; built from this checkout by default."`
	Keep      string  `placeholder:"DIR" help:"Keep the programs' logs in this folder."`
}

// soak is a run: hosts install an image over and over while things break.
type soak struct {
	cmd   *soakCmd
	work  *workload
	net   *rig.Network
	links []rig.Link
	image string // its name
	file  string // what it was made of
	dir   string // targets
	logs  string
	log   *slog.Logger
	// once is how long one undisturbed install takes.
	once time.Duration

	mu     sync.Mutex
	counts tally
}

// tally is what happened.
type tally struct {
	Installs, Kills, Failures, Losses, Cables, Restarts, Duplicates, Doubles int
	Memory                                                                   int64 // most that a receiver had resident, in bytes
}

// url is where the sender answers; it stays when the sender restarts.
func (s *soak) url() string { return fmt.Sprintf("http://%s:8080/%s", rig.Addr(0), s.image) }

// Run soaks and says how it ended.
func (c *soakCmd) Run(ctx context.Context, env Env) (err error) {
	rate, err := api.ParseRate(c.Rate)
	if err != nil || c.Receivers < 1 || c.Size < 1 {
		return fmt.Errorf("soak: --rate %s, --receivers %d, --size %d: %w", c.Rate, c.Receivers, c.Size, errors.Join(err, errUsage))
	}
	if err := rig.Supported(); err != nil {
		return err
	}
	if c.Seed == 0 {
		c.Seed = uint64(time.Now().UnixNano())
	}
	s := &soak{cmd: c, log: slog.New(slog.NewTextHandler(env.Stderr, nil)), once: time.Duration(float64(c.Size<<20) * 8 * 1.1 / float64(rate) * float64(time.Second))}
	fmt.Fprintf(env.Stdout, "soak: %g minutes, %d receivers, seed %d\n", c.Minutes, c.Receivers, c.Seed)
	if s.work, err = newWorkload(ctx, c.Imager); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.work.remove()) }()
	if err := s.prepare(ctx, rate); err != nil {
		return err
	}
	err = s.run(ctx)
	s.net.Close()
	fmt.Fprintf(env.Stdout, "soak: %+v\n", s.counts)
	if err == nil {
		err = s.compareAll(ctx, env.Stdout)
	}
	if err != nil {
		return fmt.Errorf("soak with seed %d: %w", c.Seed, err)
	}
	fmt.Fprintln(env.Stdout, "soak: every target is identical to the image")
	return nil
}

func (s *soak) prepare(ctx context.Context, rate int64) (err error) {
	if s.file, s.image, err = s.work.image(ctx, s.cmd.Size<<20, byte(s.cmd.Seed)); err != nil {
		return err
	}
	s.dir, s.logs = filepath.Join(s.work.dir, "targets"), filepath.Join(s.work.dir, "logs")
	if s.cmd.Keep != "" {
		s.logs = s.cmd.Keep
	}
	if err := errors.Join(os.Mkdir(s.dir, 0o755), os.MkdirAll(s.logs, 0o755)); err != nil {
		return err
	}
	s.links = make([]rig.Link, s.cmd.Receivers+1)
	for i := range s.links {
		s.links[i] = rig.Link{Up: rate, Down: rate}
	}
	s.net, err = rig.New(ctx, rig.Config{Links: s.links})
	return err
}

// run lets things happen until the time is up, and then everybody finish in
// peace.
func (s *soak) run(ctx context.Context) error {
	faults, cancel := context.WithTimeout(ctx, time.Duration(s.cmd.Minutes*float64(time.Minute)))
	defer cancel()
	g, gctx := errgroup.WithContext(ctx)
	sctx, stopSender := context.WithCancel(gctx)
	defer stopSender()
	kills := make(chan struct{})
	g.Go(func() error { return s.sender(sctx, kills, s.rand(0)) })
	installs, ictx := errgroup.WithContext(gctx)
	for host := 1; host <= s.cmd.Receivers; host++ {
		installs.Go(func() error { return s.installer(ictx, faults, host, s.rand(host)) })
	}
	installs.Go(func() error { return s.misfortune(ictx, faults, installs, kills, s.rand(-1)) })
	g.Go(func() error {
		defer stopSender()
		return installs.Wait()
	})
	return g.Wait()
}

// rand makes an actor's own generator, so that what one does does not depend
// on how far others are.
func (s *soak) rand(actor int) *rand.Rand { return rand.New(rand.NewPCG(s.cmd.Seed, uint64(actor))) }

// between draws a duration.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)+1))
}

// add counts something that happened.
func (s *soak) add(f func(*tally)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.counts)
}

// sender keeps a sender running. Each value of kills kills it; it comes back
// after a while.
func (s *soak) sender(ctx context.Context, kills <-chan struct{}, r *rand.Rand) error {
	for {
		p, err := s.startSender("8080")
		if err != nil {
			return err
		}
		select {
		case <-kills:
			p.Kill()
			s.log.Info("sender killed")
			s.add(func(t *tally) { t.Restarts++ })
		case <-p.Done():
			if _, err := p.Ended(); ctx.Err() == nil {
				return fmt.Errorf("the sender ended by itself: %v: %s", err, tail(filepath.Join(s.logs, "sender8080")))
			}
		case <-ctx.Done():
			p.Stop(context.WithoutCancel(ctx), 5*time.Second)
			return nil
		}
		if wait(ctx, between(r, 100*time.Millisecond, 5*time.Second)) != nil {
			return nil
		}
	}
}

func (s *soak) startSender(port string) (*rig.Process, error) {
	args := []string{s.work.imager, "--json", "send", s.image, "--store", s.work.store(), "--listen", rig.Addr(0).String() + ":" + port, "--interface", "eth0"}
	if s.cmd.SendRate != "" {
		args = append(args, "--rate", s.cmd.SendRate)
	}
	return s.net.Start(0, rig.Command{Args: args, Log: filepath.Join(s.logs, "sender"+port)})
}

// compareAll compares every target with what the image was made of, byte by
// byte and with imager verify.
func (s *soak) compareAll(ctx context.Context, w io.Writer) error {
	targets, err := filepath.Glob(filepath.Join(s.dir, "*"))
	if err != nil {
		return err
	}
	if len(targets) < s.cmd.Receivers {
		return fmt.Errorf("%d targets of %d receivers", len(targets), s.cmd.Receivers)
	}
	for _, t := range targets {
		if err := sameFile(t, s.file); err != nil {
			return err
		}
		if _, err := output(ctx, s.work.imager, "--quiet", "verify", s.image, "--store", s.work.store(), "--against", t); err != nil {
			return err
		}
		fmt.Fprintf(w, "soak: %s is identical\n", filepath.Base(t))
	}
	return nil
}

// sameFile returns an error that names the first block where two files differ.
func sameFile(got, want string) error {
	a, err := os.Open(got)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(want)
	if err != nil {
		return err
	}
	defer b.Close()
	const block = 256 << 10
	bufA, bufB := make([]byte, block), make([]byte, block)
	for at := int64(0); ; at += block {
		na, errA := io.ReadFull(a, bufA)
		nb, errB := io.ReadFull(b, bufB)
		if !bytes.Equal(bufA[:na], bufB[:nb]) {
			return fmt.Errorf("%s differs from %s within %d bytes from %d on", got, want, block, at)
		}
		if errA != nil || errB != nil {
			return errors.Join(atEnd(errA), atEnd(errB))
		}
	}
}

// atEnd makes nothing of the errors of a file's end.
func atEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
