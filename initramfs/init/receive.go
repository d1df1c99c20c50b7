package main

import (
	"context"
	"encoding/json"
	"fmt"

	"huck/imager/api"
	"huck/imager/install"
	"huck/imager/receive"
	"huck/initramfs/steps"
)

// receive puts the image on the target: plan, receive, write, read back.
func (b *boot) receive(a api.Assignment, target *api.Disk, result *api.Result) func(context.Context, func()) (string, error) {
	return func(ctx context.Context, alive func()) (string, error) {
		t := &tracker{b: b, alive: alive, path: target.Path, step: "receive"}
		defer t.watching(ctx)()

		cfg := receive.Config{
			Ref:    a.Ref,
			Target: target.Path,
			Store:  b.medium.Images,
			Admit:  b.admit(&a, target),
			Install: install.Options{
				Verify:   !b.opts.NoVerify,
				Grow:     a.Grow,
				Progress: t.progress,
				Verified: func(v api.Verified) { b.verified(v, t) },
				Log:      b.log,
			},
		}
		if b.client != nil {
			cfg.Base, cfg.Interface, cfg.Client = b.server, b.lease.Interface, b.client.HTTP()
		}
		res, err := b.m.Receive(ctx, cfg)
		if err != nil {
			if permanentError(err) {
				err = steps.Permanent(err)
			}
			return "", err
		}
		*result = res
		return resultLine(res), nil
	}
}

// verified tells what reading the disk back found. That it differs is an error
// of the receive step, too.
func (b *boot) verified(v api.Verified, t *tracker) {
	e := api.Event{Type: api.EventVerified, Step: "verify", State: api.StepDone, Seconds: t.sinceChange().Seconds()}
	if v.Differ > 0 {
		e.State = api.StepFailed
		e.Error = fmt.Sprintf("%d of %d regions differ from the image after writing", v.Differ, v.Regions)
		b.print("step verify: FAILED: %s", e.Error)
	} else {
		b.print("step verify: done in %.2fs (all %d regions equal the image's map)", e.Seconds, v.Regions)
	}
	if data, err := json.Marshal(v); err == nil {
		e.Data = data
	}
	b.run.Event(e)
}

// grownLine tells what became of the last partition.
func grownLine(g *api.Grown) string {
	switch {
	case g == nil:
		return ""
	case g.Left != "":
		return fmt.Sprintf(", partition %d not grown: %s", g.Partition, g.Left)
	}
	return fmt.Sprintf(", partition %d grown from %d to %d bytes", g.Partition, g.From, g.To)
}

func resultLine(r api.Result) string {
	s := fmt.Sprintf("image %s, %d bytes, %d chunks in place, %d bytes written", r.Image, r.ImageBytes, r.ChunksInPlace, r.WrittenBytes)
	if via := (api.Progress{Received: r.Received}).Via(); via != "" {
		s += ", " + via
	}
	return s + grownLine(r.Grown)
}
