package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"time"

	"huck/imager/api"
	"huck/imager/capture"
	"huck/imager/image"
	"huck/imager/intake"
	"huck/initramfs/server"
	"huck/initramfs/steps"
)

// capture makes an image of the disk in the server's store and goes on as the
// order says.
func (b *boot) capture(ctx context.Context, a api.Assignment) error {
	if _, err := api.ParseThen(string(a.Then)); err != nil || a.Capture == nil {
		return fmt.Errorf("an order to capture that makes no sense: %+v", a)
	}
	var target api.Disk
	var result capture.Result
	for _, s := range []steps.Step{
		{Name: "target", Silence: time.Minute, Tries: 1, Do: b.target(a.Disk, &target)},
		{Name: "capture", Silence: 10 * time.Minute, Tries: 10, Do: b.send(*a.Capture, &target, &result)},
		// Without end: a server that does not know it would have it captured again.
		{Name: "report", Silence: time.Minute, Do: b.report(api.EventCaptured, func() (float64, any) { return result.Seconds, result })},
	} {
		if err := b.run.Run(ctx, s); err != nil {
			return err
		}
	}
	return b.goOn(ctx, a.Then, target.Path)
}

// send captures the disk. What a try before sent stays in the store, and is not
// sent again.
func (b *boot) send(req api.CaptureRequest, target *api.Disk, result *capture.Result) func(context.Context, func()) (string, error) {
	return func(ctx context.Context, alive func()) (string, error) {
		t := &tracker{b: b, alive: alive, path: target.Path, step: "capture"}
		defer t.watching(ctx)()
		res, err := b.m.Capture(ctx, target.Path, capture.Config{
			Store: intake.NewClient(b.server, b.client.Node(), b.client.HTTP()),
			Name:  req.Name, Force: req.Force, SkipBad: req.SkipBad, Log: b.log,
			// Each waits for the server now and then, while others compress.
			Workers:  runtime.GOMAXPROCS(0) + 2,
			Progress: func(done, total int64) { t.progress(api.Progress{Total: total, Written: done}) },
		})
		if err != nil {
			if errors.As(err, new(*capture.Refused)) || errors.Is(err, image.ErrFormat) || server.Permanent(err) {
				err = steps.Permanent(err)
			}
			return "", err
		}
		*result = res
		return fmt.Sprintf("%s@%s: %d bytes used, %d encoded, %d of them sent", res.Ref, res.Digest.Short(), res.ImageBytes, res.EncodedBytes, res.NewBytes), nil
	}
}

// report tells the server what has been done, and waits until it knows.
func (b *boot) report(kind api.EventType, what func() (seconds float64, data any)) func(context.Context, func()) (string, error) {
	queued := false
	return func(ctx context.Context, _ func()) (string, error) {
		if !queued {
			seconds, v := what()
			data, err := json.Marshal(v)
			if err != nil {
				return "", steps.Permanent(err)
			}
			b.events.Add(api.Event{Type: kind, Step: "report", Seconds: seconds, Data: data})
		}
		err := b.events.Flush(ctx)
		queued = !server.Permanent(err) // what was refused is not in the queue any more
		return "", err
	}
}
