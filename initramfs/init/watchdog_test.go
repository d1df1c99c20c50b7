package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"huck/imager/api"
	"huck/initramfs/steps"
)

// TestWatchdog: a step that is cancelled for its silence and does not even end
// then is what the watchdog is for; it bites once, and pets no more.
func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const silence = 10 * time.Minute
		run := &steps.Runner{Print: func(string, ...any) {}, Event: func(api.Event) {}, Failed: func(string, error) {}}
		start := time.Now()
		var petted, bitten time.Time
		bites := 0
		stuck, release := "", make(chan struct{})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			guard(t.Context(), run.Overdue, func() { petted = time.Now() }, func() {
				bites++
				bitten, stuck = time.Now(), run.Present()
				close(release)
			})
		}()
		for _, s := range []steps.Step{
			{Name: "slow", Silence: silence, Do: func(ctx context.Context, alive func()) (string, error) {
				for range 12 { // two hours
					<-time.After(silence - time.Second)
					alive()
				}
				return "", nil
			}},
			{Name: "stuck", Silence: silence, Tries: 1, Do: func(context.Context, func()) (string, error) {
				<-release // heeds no cancellation, as a disk that answers no more
				return "", nil
			}},
		} {
			if s.Name == "stuck" {
				if bites > 0 {
					t.Fatal("bit while all was well")
				}
				start = time.Now()
			}
			if err := run.Run(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		<-ended
		if took := bitten.Sub(start); bites != 1 || stuck != "stuck" || took < silence+watchdogGrace || took > silence+watchdogGrace+2*watchdogPet {
			t.Errorf("bit %d times, for %q, after %v", bites, stuck, took)
		}
		if petted.After(bitten) {
			t.Error("petted after it had bitten")
		}
	})
}

// TestHungStep: a step that shows no sign of life is cancelled at its limit,
// tried as often as its policy says, and then fails with that as the cause.
func TestHungStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failures []string
		run := &steps.Runner{Print: func(string, ...any) {}, Event: func(e api.Event) {
			if e.State == api.StepFailed {
				failures = append(failures, e.Error+" "+e.Message)
			}
		}, Failed: func(string, error) {}}
		start := time.Now()
		err := run.Run(t.Context(), steps.Step{Name: "receive", Silence: 10 * time.Minute, Tries: 2, Do: func(ctx context.Context, _ func()) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}})
		want := "nothing moved for 10m0s: context canceled"
		if err == nil || len(failures) != 2 || failures[0] != want+" trying again" || failures[1] != want+" "+api.GivenUp {
			t.Errorf("ended with %v, failures %q", err, failures)
		}
		if took := time.Since(start); took < 20*time.Minute || took > 21*time.Minute {
			t.Errorf("took %v", took)
		}
	})
}
