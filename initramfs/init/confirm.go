package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"huck/imager/api"
	"huck/initramfs/steps"
)

// confirmSilence is how long a confirmation may wait for a person, who may have
// to come from another building; then it is given up.
const confirmSilence = 12 * time.Hour

// errChanged says that an operator changed his mind while we waited for a
// person.
var errChanged = errors.New("the assignment was changed before it was confirmed")

// confirm lets a person at the machine agree to what is about to be overwritten.
func (b *boot) confirm(a *api.Assignment, target *api.Disk) func(context.Context, func()) (string, error) {
	return func(ctx context.Context, _ func()) (string, error) {
		ctx, cancel := context.WithCancelCause(ctx)
		watched := make(chan struct{})
		go func() { defer close(watched); b.watchAssignment(ctx, cancel) }()
		defer func() { cancel(nil); <-watched }()

		word := target.Serial
		if word == "" {
			word = target.Path // some virtual disks have no serial number
		}
		d := b.lookInto([]api.Disk{*target})[0]
		b.print("%s is about to be OVERWRITTEN with %s: %d MB, %s %s", d.Path, a.Ref, d.Size/1e6, d.Model, d.Serial)
		for _, c := range d.Contents {
			b.print("  on it: %s, %d MB", c, c.Size/1e6)
		}
		for {
			line, err := b.ask(ctx, fmt.Sprintf("type its serial number, %s, and Enter to go on", word))
			if cause := context.Cause(ctx); errors.Is(cause, errChanged) {
				return "", steps.Permanent(cause)
			}
			if err != nil {
				return "", steps.Permanent(fmt.Errorf("--confirm: %w", err))
			}
			if strings.EqualFold(line, word) {
				return "by a person at the machine", nil
			}
			b.print("that is not %s: nothing is written", word)
		}
	}
}

// watchAssignment ends the wait for a person when the assignment changes.
func (b *boot) watchAssignment(ctx context.Context, changed context.CancelCauseFunc) {
	if b.client == nil {
		return
	}
	for ctx.Err() == nil {
		a, err := b.client.Assignment(ctx, b.after)
		if err == nil && a.Serial != b.after {
			changed(errChanged)
			return
		}
		if steps.Sleep(ctx, time.Second) != nil {
			return
		}
	}
}
