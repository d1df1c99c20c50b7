package steps_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"huck/imager/api"
	"huck/initramfs/steps"
)

type record struct {
	lines  []string
	events []api.Event
	failed int
}

func runner() (*steps.Runner, *record) {
	r := &record{}
	return &steps.Runner{
		Print:  func(f string, a ...any) { r.lines = append(r.lines, fmt.Sprintf(f, a...)) },
		Event:  func(e api.Event) { r.events = append(r.events, e) },
		Failed: func(string, error) { r.failed++ },
	}, r
}

func (r *record) states() string {
	var s []string
	for _, e := range r.events {
		s = append(s, string(e.State))
	}
	return strings.Join(s, " ")
}

func TestRetries(t *testing.T) {
	boom := errors.New("boom: 100%d")
	for _, tt := range []struct {
		name   string
		step   steps.Step
		fails  int // this many tries fail
		err    error
		wantE  error
		tries  int
		states string
		line   string
	}{
		{name: "works", tries: 1, states: "running done", line: "step s: done in 0.00s (fine)"},
		{name: "works at last", fails: 3, err: boom, tries: 4, states: "running failed failed failed done", line: "step s: FAILED: boom: 100%d (trying again)"},
		{name: "out of tries", step: steps.Step{Tries: 2}, fails: 9, err: boom, wantE: boom, tries: 2, states: "running failed failed", line: "step s: FAILED: boom: 100%d (given up)"},
		{name: "permanent", fails: 9, err: steps.Permanent(boom), wantE: boom, tries: 1, states: "running failed", line: "step s: FAILED: boom: 100%d (given up)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, rec := runner()
				tries := 0
				s := tt.step
				s.Name, s.Silence = "s", time.Minute
				s.Do = func(context.Context, func()) (string, error) {
					if tries++; tries <= tt.fails {
						return "", tt.err
					}
					return "fine", nil
				}
				err := r.Run(t.Context(), s)
				if !errors.Is(err, tt.wantE) || tries != tt.tries || rec.states() != tt.states {
					t.Errorf("error %v after %d tries, events %q", err, tries, rec.states())
				}
				if !strings.Contains(strings.Join(rec.lines, "\n"), tt.line) {
					t.Errorf("console:\n%s\nlacks %q", strings.Join(rec.lines, "\n"), tt.line)
				}
				if rec.failed != strings.Count(tt.states, "failed") {
					t.Errorf("told of %d failures", rec.failed)
				}
			})
		})
	}
}

// TestBackoff: pauses grow to the limit and no further.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := runner()
		var at []time.Time
		err := r.Run(t.Context(), steps.Step{Name: "s", Silence: time.Minute, Tries: 12, MaxWait: 4 * time.Second, Do: func(context.Context, func()) (string, error) {
			at = append(at, time.Now())
			return "", errors.New("no")
		}})
		if err == nil {
			t.Fatal("no error")
		}
		if first := at[1].Sub(at[0]); first > 250*time.Millisecond {
			t.Errorf("first pause %v", first)
		}
		for i := 6; i < len(at); i++ {
			if p := at[i].Sub(at[i-1]); p < 2*time.Second || p > 4*time.Second {
				t.Errorf("pause %d is %v", i, p)
			}
		}
	})
}

// TestSilence: a try that stays silent is cancelled, one that shows signs of
// life is not, however long it takes.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, rec := runner()
		tries := 0
		start := time.Now()
		err := r.Run(t.Context(), steps.Step{Name: "s", Silence: 10 * time.Second, Do: func(ctx context.Context, alive func()) (string, error) {
			if tries++; tries == 1 {
				<-ctx.Done()
				return "", ctx.Err()
			}
			for range 100 {
				if r.Overdue() > 0 {
					t.Error("overdue while alive")
				}
				if err := steps.Sleep(ctx, 9*time.Second); err != nil {
					return "", err
				}
				alive()
			}
			return "", nil
		}})
		if err != nil || tries != 2 {
			t.Fatalf("error %v after %d tries", err, tries)
		}
		if took := time.Since(start); took < 900*time.Second || took > 920*time.Second {
			t.Errorf("took %v", took)
		}
		if !strings.Contains(rec.events[1].Error, "nothing moved for 10s") {
			t.Errorf("event %+v", rec.events[1])
		}
	})
}

// TestOverdue: a step that does not heed its cancellation shows.
func TestOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := runner()
		if r.Overdue() > 0 {
			t.Error("overdue before anything began")
		}
		release := make(chan struct{})
		done := make(chan error)
		go func() {
			done <- r.Run(t.Context(), steps.Step{Name: "s", Silence: time.Second, Do: func(context.Context, func()) (string, error) {
				<-release
				return "", nil
			}})
		}()
		time.Sleep(time.Minute)
		if o := r.Overdue(); o != 59*time.Second {
			t.Errorf("overdue by %v", o)
		}
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, rec := runner()
		ctx, cancel := context.WithCancel(t.Context())
		err := r.Run(ctx, steps.Step{Name: "s", Silence: time.Second, Do: func(ctx context.Context, _ func()) (string, error) {
			cancel()
			return "", ctx.Err()
		}})
		if !errors.Is(err, context.Canceled) || rec.failed > 0 {
			t.Errorf("error %v, %d failures told", err, rec.failed)
		}
	})
}

// TestAgain: somebody who wants the next try now does not wait for its time.
func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := runner()
		again := make(chan struct{}, 1)
		r.Again = again
		again <- struct{}{}
		tries, start := 0, time.Now()
		err := r.Run(t.Context(), steps.Step{Name: "x", Silence: time.Minute, Do: func(context.Context, func()) (string, error) {
			if tries++; tries == 1 {
				return "", errors.New("not yet")
			}
			return "", nil
		}})
		if took := time.Since(start); err != nil || tries != 2 || took != 0 {
			t.Errorf("%d tries took %v, %v", tries, took, err)
		}
	})
}
