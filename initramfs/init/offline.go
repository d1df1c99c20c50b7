package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"huck/imager/api"
	"huck/imager/store"
	"huck/initramfs/medium"
	"huck/initramfs/steps"
)

// mediumPatience is how long the medium that we were started from may take to
// appear: a stick on a slow hub, a BMC's virtual drive.
const mediumPatience = 20 * time.Second

// onMedium is what the medium that we were started from brings along.
type onMedium struct {
	// Assignment is what to do without a server; nil if there is one to ask.
	Assignment *api.Assignment
	// Images holds the image for it.
	Images store.Store
}

// lookAtMedium waits for the medium and reads it.
func (b *boot) lookAtMedium(ctx context.Context, _ func()) (string, error) {
	for start := time.Now(); ; {
		m, path, err := b.m.Medium(b.opts.Medium)
		if err == nil {
			b.medium = m
			if m.Assignment == nil {
				return path + ", without an image", nil
			}
			return fmt.Sprintf("%s, with %s", path, m.Assignment.Ref), nil
		}
		if !errors.Is(err, medium.ErrNotFound) || time.Since(start) >= b.mediumPatience {
			return "", steps.Permanent(err)
		}
		if err := steps.Sleep(ctx, 200*time.Millisecond); err != nil {
			return "", err
		}
	}
}

// offline is the story of a boot from a medium that brings what is to be
// installed. It needs no network, and tells nobody but those at the console.
func (b *boot) offline(ctx context.Context) error {
	b.print("no server is asked: this medium installs %s", b.medium.Assignment.Ref)
	err := b.carryOut(ctx, *b.medium.Assignment)
	if errors.Is(err, errLeft) || ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		b.print("GIVEN UP: %v", err)
		b.print("start the machine again to try once more; Enter opens a shell")
	} else {
		b.print("done: the machine may be switched off; Enter opens a shell")
	}
	b.offer()
	<-ctx.Done()
	return ctx.Err()
}
