package nodes

import (
	"context"
	"fmt"
	"time"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/intake"
)

// Capture orders an image of a node's disk. A machine that was never seen can be
// named by its MAC. Errors wrap ErrNotFound or ErrInvalid or are the store's.
func (r *Registry) Capture(ctx context.Context, id string, req api.CaptureRequest) error {
	if err := image.CheckName(req.Name); err != nil {
		return invalid("%v", err)
	}
	if _, err := api.ParseRule(req.Disk); err != nil {
		return invalid("%v", err)
	}
	if _, err := api.ParseThen(string(req.Then)); err != nil {
		return invalid("%v", err)
	}
	n, err := r.findOrExpect(id)
	if err != nil {
		return err
	}
	rec, err := r.update(ctx, n, func(rec *record) error {
		rec.order(func() { rec.Capture, rec.Captured = &order{req, rec.Version + 1}, "" })
		return nil
	})
	if err == nil {
		r.say(rec, fmt.Sprintf("to be captured as %s, disk %q, then %s", req.Name, req.Disk, req.Then))
	}
	return err
}

// Uncapture takes such an order back. Errors wrap ErrNotFound or ErrInvalid or
// are the store's.
func (r *Registry) Uncapture(ctx context.Context, id string) error {
	n, err := r.find(id)
	if err != nil {
		return err
	}
	rec, err := r.update(ctx, n, func(rec *record) error {
		if rec.Capture == nil {
			return invalid("%s is not to be captured", rec.ID)
		}
		rec.order(func() { rec.Capture = nil })
		return nil
	})
	if err == nil {
		r.say(rec, "is not to be captured any more")
	}
	return err
}

// CaptureJob is what a node that sends an image was told to capture in its
// present boot. Errors wrap ErrNotFound, or ErrNothing where it was not.
func (r *Registry) CaptureJob(id string) (intake.Job, error) {
	n, err := r.find(id)
	if err != nil {
		return intake.Job{}, err
	}
	n.seen(time.Now(), false)
	rec, _ := n.look()
	if rec.assignment().Action != api.ActionCapture {
		return intake.Job{}, fmt.Errorf("%w: node %s was not told to capture its disk", ErrNothing, rec.ID)
	}
	return intake.Job{Node: rec.ID, Name: rec.Capture.Name, Serial: rec.Capture.Serial}, nil
}

// captured notes that the order has been carried out. This boot goes on as the
// order said: it must not be told to write to the disk now.
func (r *record) captured() {
	if r.Capture == nil {
		return
	}
	r.State = "captured"
	r.Capture, r.Captured = nil, r.Boot
	r.Version++
}
