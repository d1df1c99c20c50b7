package site

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"huck/imager/api"
	"huck/qemu-tests/vm"
)

// Node waits until a machine has registered since its server knows it, and
// returns what the boot server says of it.
func (s *Site) Node(ctx context.Context, m *vm.Machine) (api.Node, error) {
	// The list is asked for again at every event and now and then, because the
	// event of the registration may come before the list tells.
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		nodes, err := s.Nodes(ctx)
		if err != nil {
			return api.Node{}, err
		}
		for _, n := range nodes {
			if slices.Contains(n.Inventory.MACs, m.MAC()) {
				return n, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return api.Node{}, fmt.Errorf("site: wait for %s to register: %w", m.Name(), context.Cause(ctx))
		}
	}
}

// Assign gives a registered machine something to do. Options are those of
// `bootserver assign` after the disk rule.
func (s *Site) Assign(ctx context.Context, m *vm.Machine, ref, rule string, options ...string) (api.Node, error) {
	node, err := s.Node(ctx, m)
	if err != nil {
		return node, err
	}
	args := append([]string{"assign", node.ID, ref, "--disk", rule}, options...)
	if _, err := s.Bootserver(ctx, args...); err != nil {
		return node, err
	}
	return node, nil
}

// Installed waits for the end of a node's installation, from event position
// from on, and returns the result it reported.
func (s *Site) Installed(ctx context.Context, node string, from int) (api.Result, int, error) {
	var r api.Result
	event, next, err := s.Events.Wait(ctx, from, "installed of "+node, func(e api.Event) bool {
		return e.Node == node && e.Type == api.EventInstalled
	})
	if err == nil {
		err = json.Unmarshal(event.Data, &r)
	}
	return r, next, err
}

// Verified waits for a node's read-back, from event position from on.
func (s *Site) Verified(ctx context.Context, node string, from int) (api.Verified, int, error) {
	var v api.Verified
	event, next, err := s.Events.Wait(ctx, from, "verified of "+node, func(e api.Event) bool {
		return e.Node == node && e.Type == api.EventVerified
	})
	if err == nil {
		err = json.Unmarshal(event.Data, &v)
	}
	return v, next, err
}

// Progress waits until a node's installation has reached share (0 to 1) of the
// image, counting what was found in place as well as what was written.
func (s *Site) Progress(ctx context.Context, node string, from int, share float64) (api.Progress, error) {
	event, _, err := s.Events.Wait(ctx, from, fmt.Sprintf("progress %.0f %% of %s", 100*share, node), func(e api.Event) bool {
		return e.Node == node && e.Progress != nil && e.Progress.Total > 0 &&
			float64(e.Progress.InPlace+e.Progress.Written) >= share*float64(e.Progress.Total)
	})
	if err != nil {
		return api.Progress{}, err
	}
	return *event.Progress, nil
}

// Step waits for a step of a node to reach a state.
func (s *Site) Step(ctx context.Context, node string, from int, step string, state api.StepState) (api.Event, int, error) {
	return s.Events.Wait(ctx, from, fmt.Sprintf("step %s %s of %s", step, state, node), func(e api.Event) bool {
		return e.Node == node && e.Type == api.EventStep && e.Step == step && e.State == state
	})
}
