package nodes_test

import (
	"errors"
	"testing"

	"huck/bootserver/nodes"
	"huck/imager/api"
)

func order(t *testing.T, r *nodes.Registry, then api.Then) {
	t.Helper()
	if err := r.Capture(t.Context(), node1, api.CaptureRequest{Name: "golden", Disk: "only", Then: then}); err != nil {
		t.Fatal(err)
	}
}

// TestCaptureOrder: it comes before the assignment, outlives power cuts and
// restarts, goes when it has been carried out, and that boot installs nothing.
func TestCaptureOrder(t *testing.T) {
	store := newKV()
	r := open(t, store)
	register(t, r, inventory("1"))
	assign(t, r, true, api.ThenKexec)
	before := action(t, r)
	order(t, r, api.ThenReboot)
	a := action(t, r)
	if a.Action != api.ActionCapture || a.Serial == before.Serial || a.Disk != "only" || a.Then != api.ThenReboot || a.Capture == nil || a.Capture.Name != "golden" {
		t.Fatalf("told %+v", a)
	}
	job, err := r.CaptureJob(node1)
	if err != nil || job.Name != "golden" || job.Node != node1 || job.Serial == 0 {
		t.Fatalf("job %+v, %v", job, err)
	}
	if l := r.List(); l[0].Capture != "golden" || l[0].Assignment == nil || l[0].Assignment.Ref != resolved.Ref {
		t.Errorf("listed as %+v", l[0])
	}
	r = open(t, store)
	register(t, r, inventory("2"))
	if a := action(t, r); a.Action != api.ActionCapture {
		t.Errorf("after a power cut %+v", a)
	}
	if again, err := r.CaptureJob(node1); err != nil || again != job {
		t.Errorf("then the job is %+v, %v", again, err)
	}
	if err := r.Report(t.Context(), node1, []api.Event{{Type: api.EventCaptured, Boot: "2"}}); err != nil {
		t.Fatal(err)
	}
	if a := action(t, r); a.Action != api.ActionWait {
		t.Errorf("after the capture %+v", a)
	}
	if _, err := r.CaptureJob(node1); !errors.Is(err, nodes.ErrNothing) {
		t.Errorf("after the capture: %v", err)
	}
	register(t, r, inventory("3"))
	if a := action(t, r); a.Action != api.ActionInstall {
		t.Errorf("the assignment is lost: %+v", a)
	}
}

// TestCaptureInBetween: a report of an earlier boot completes nothing, and a
// node that was not told to capture cannot.
func TestCaptureInBetween(t *testing.T) {
	r := open(t, newKV())
	register(t, r, inventory("1"))
	if _, err := r.CaptureJob(node1); !errors.Is(err, nodes.ErrNothing) {
		t.Errorf("without an order: %v", err)
	}
	order(t, r, api.ThenWait)
	if err := r.Report(t.Context(), node1, []api.Event{{Type: api.EventCaptured, Boot: "0"}}); err != nil {
		t.Fatal(err)
	}
	if a := action(t, r); a.Action != api.ActionCapture {
		t.Errorf("an earlier boot's report made it %+v", a)
	}
	if err := r.Uncapture(t.Context(), node1); err != nil {
		t.Fatal(err)
	}
	if a := action(t, r); a.Action != api.ActionWait {
		t.Errorf("taken back: %+v", a)
	}
	if err := r.Uncapture(t.Context(), node1); !errors.Is(err, nodes.ErrInvalid) {
		t.Errorf("taken back twice: %v", err)
	}
	for _, req := range []api.CaptureRequest{{Name: "../x", Disk: "only", Then: "wait"}, {Name: "x", Disk: "sda", Then: "wait"}, {Name: "x", Disk: "only"}} {
		if err := r.Capture(t.Context(), node1, req); !errors.Is(err, nodes.ErrInvalid) {
			t.Errorf("%+v: %v", req, err)
		}
	}
	if err := r.Capture(t.Context(), "nobody", api.CaptureRequest{Name: "x", Disk: "only", Then: "wait"}); !errors.Is(err, nodes.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
}
