// Package steps runs the steps of a boot: each has a name, a limit for its
// silence, a number of tries and a line on the console and an event for
// whatever becomes of it.
package steps

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"huck/imager/api"
)

// Step is one thing to do.
type Step struct {
	Name string
	// Silence is how long a try may go without a sign of life before it is
	// cancelled; it must not be 0.
	Silence time.Duration
	// Tries before the step counts as failed; 0 is until it works.
	Tries int
	// MaxWait bounds the pause between two tries, which starts at a quarter
	// second and doubles; 0 is 30 s.
	MaxWait time.Duration
	// Do does it. It calls alive when something moved, and returns what came of
	// it in a few words for the console.
	Do func(ctx context.Context, alive func()) (string, error)
}

// firstWait is the pause after the first failure.
const firstWait = 250 * time.Millisecond

// Runner runs steps one after another.
type Runner struct {
	// Print writes a line to the console.
	Print func(format string, args ...any)
	// Event tells the server.
	Event func(api.Event)
	// Failed is called after each failed try.
	Failed func(step string, err error)
	// Again ends the pause before the next try; nil never does.
	Again <-chan struct{}

	// overdue is when the present step's silence is over, in Unix nanoseconds.
	overdue atomic.Int64
	// present is the name of the present step.
	present atomic.Pointer[string]
}

// Present returns the name of the step that runs, or ran last; empty before the first.
func (r *Runner) Present() string {
	if name := r.present.Load(); name != nil {
		return *name
	}
	return ""
}

// permanent is an error that more tries do not mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent marks an error that more tries do not mend; nil stays nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

// IsPermanent tells whether more tries are useless.
func IsPermanent(err error) bool { return errors.As(err, new(permanent)) }

// Overdue tells how long the present step has been silent beyond its limit;
// negative while all is well.
func (r *Runner) Overdue() time.Duration {
	at := r.overdue.Load()
	if at == 0 {
		return -time.Second
	}
	return time.Since(time.Unix(0, at))
}

// Run runs a step until it works, fails for good or ctx is done.
func (r *Runner) Run(ctx context.Context, s Step) error {
	start := time.Now()
	r.present.Store(&s.Name)
	r.Print("%s step %s: running", Uptime(), s.Name)
	r.Event(api.Event{Type: api.EventStep, Step: s.Name, State: api.StepRunning})
	most := s.MaxWait
	if most == 0 {
		most = 30 * time.Second
	}
	for try, wait := 1, min(firstWait, most); ; try, wait = try+1, min(2*wait, most) {
		said, err := r.try(ctx, s)
		if err == nil {
			r.done(s.Name, said, time.Since(start))
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		last := IsPermanent(err) || s.Tries > 0 && try >= s.Tries
		r.failed(s.Name, err, time.Since(start), last)
		if last {
			return fmt.Errorf("step %s: %w", s.Name, err)
		}
		pause := wait/2 + rand.N(wait/2+1) // a fleet must not come back in step
		r.overdue.Store(time.Now().Add(pause + s.Silence).UnixNano())
		if err := r.pause(ctx, pause); err != nil {
			return err
		}
	}
}

// pause sleeps, unless somebody wants the next try now.
func (r *Runner) pause(ctx context.Context, d time.Duration) error {
	sleep, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	select {
	case <-sleep.Done():
	case <-r.Again:
	}
	return ctx.Err()
}

// try runs a step once, cancelled if it stays silent for too long.
func (r *Runner) try(ctx context.Context, s Step) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	silent := fmt.Errorf("nothing moved for %v", s.Silence)
	timer := time.AfterFunc(s.Silence, func() { cancel(silent) })
	alive := func() {
		timer.Reset(s.Silence)
		r.overdue.Store(time.Now().Add(s.Silence).UnixNano())
	}
	alive()
	said, err := s.Do(ctx, alive)
	timer.Stop()
	if err != nil && context.Cause(ctx) == silent {
		err = fmt.Errorf("%v: %w", silent, err)
	}
	cancel(nil)
	return said, err
}

func (r *Runner) done(name, said string, took time.Duration) {
	line := fmt.Sprintf("step %s: done in %.2fs", name, took.Seconds())
	if said != "" {
		line += " (" + said + ")"
	}
	r.Print("%s", line)
	r.Event(api.Event{Type: api.EventStep, Step: name, State: api.StepDone, Seconds: took.Seconds(), Message: said})
}

func (r *Runner) failed(name string, err error, took time.Duration, last bool) {
	e := api.Event{Type: api.EventStep, Step: name, State: api.StepFailed, Seconds: took.Seconds(), Error: err.Error()}
	if last {
		e.Message = api.GivenUp
	} else {
		e.Message = "trying again"
	}
	r.Print("step %s: FAILED: %v (%s)", name, err, e.Message)
	r.Event(e)
	r.Failed(name, err)
}

// Sleep waits for d or until ctx is done, which it returns as an error.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
