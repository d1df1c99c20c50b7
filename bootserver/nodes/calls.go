package nodes

import (
	"context"
	"errors"
	"fmt"
	"time"

	"huck/imager/api"
)

const (
	// maxNodes bounds what strangers that register can make us store: about
	// 2 KiB each.
	maxNodes = 10000
	// maxEvents is the most events of one report; appliances send 256.
	maxEvents = 1024
	// maxMessage and maxData bound the parts of an event, in bytes.
	maxMessage = 8 << 10
	maxData    = 16 << 10
)

// Register takes a machine's inventory at the start of its appliance and
// returns its ID and token. A machine that was never seen becomes a node that
// waits. Errors wrap ErrInvalid or are the store's.
func (r *Registry) Register(ctx context.Context, inv api.Inventory) (api.Registered, error) {
	if err := check(&inv); err != nil {
		return api.Registered{}, err
	}
	r.registering.Lock()
	defer r.registering.Unlock()
	n := r.match(&inv)
	if n == nil {
		var err error
		if n, err = r.add(inv.MACs[0]); err != nil {
			return api.Registered{}, err
		}
	}
	now := time.Now()
	before, _ := n.look()
	rec, err := r.update(ctx, n, func(rec *record) error {
		if rec.FirstSeen.IsZero() {
			rec.FirstSeen = now
		}
		rec.Inventory, rec.LastSeen = inv, now
		if rec.Boot != inv.BootID {
			rec.decide(inv.BootID)
			rec.State = "registered"
		}
		return nil
	})
	if err != nil {
		return api.Registered{}, err
	}
	n.seen(now, rec.Boot != before.Boot)
	switch {
	case before.FirstSeen.IsZero():
		r.say(rec, fmt.Sprintf("seen for the first time: %s %s, %s", inv.Manufacturer, inv.Product, inv.Address))
	case rec.Boot != before.Boot:
		r.say(rec, "registered from "+inv.Address)
	}
	return api.Registered{Node: rec.ID, Token: r.token(rec.ID, rec.Boot), Known: rec.Known}, nil
}

// add makes a node; the caller holds registering.
func (r *Registry) add(mac string) (*node, error) {
	id := r.newID(mac)
	n := &node{rec: record{ID: id}, changed: make(chan struct{})}
	n.rec.Inventory.MACs = []string{mac}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.nodes) >= maxNodes {
		return nil, fmt.Errorf("nodes: %d are known already, no room for %s", maxNodes, id)
	}
	r.nodes[id] = n
	return n, nil
}

func (n *node) seen(now time.Time, newBoot bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lastSeen = now
	if newBoot {
		n.progress = nil
	}
}

func (r *Registry) say(rec record, message string) {
	r.note(api.Event{Time: time.Now(), Node: rec.ID, Boot: rec.Boot, Type: api.EventNode, Message: message})
}

// Assignment returns what the node is to do, and a channel that closes when
// that may have changed.
func (r *Registry) Assignment(ctx context.Context, id string) (api.Assignment, <-chan struct{}, error) {
	n, err := r.find(id)
	if err != nil {
		return api.Assignment{}, nil, err
	}
	n.seen(time.Now(), false)
	for {
		rec, changed := n.look()
		a := rec.assignment()
		if a.Action != api.ActionInstall || rec.Started == (mark{rec.Serial, rec.Boot}) {
			return a, changed, nil
		}
		// In the store before the node knows: it will write to its disk.
		told := false
		rec, err := r.update(ctx, n, func(rec *record) error {
			if told = rec.assignment().Action == api.ActionInstall; told {
				rec.start()
			}
			return nil
		})
		if err != nil {
			return api.Assignment{}, nil, err
		}
		if told {
			r.say(rec, fmt.Sprintf("told to install %s on the disk %q", rec.Want.Ref, rec.Want.Disk))
		}
	}
}

// Assign sets what a node is to do; resolved is req.Ref with its digest. A
// machine that was never seen can be named by its MAC. Errors wrap ErrNotFound
// or ErrInvalid or are the store's.
func (r *Registry) Assign(ctx context.Context, id string, req api.AssignRequest, resolved api.Resolved) (api.Assignment, error) {
	if _, err := api.ParseRule(req.Disk); err != nil {
		return api.Assignment{}, invalid("%v", err)
	}
	if _, err := api.ParseThen(string(req.Then)); err != nil {
		return api.Assignment{}, invalid("%v", err)
	}
	if err := req.Check(); err != nil {
		return api.Assignment{}, invalid("%v", err)
	}
	n, err := r.find(id)
	if errors.Is(err, ErrNotFound) {
		if n, err = r.expect(id, err); err != nil {
			return api.Assignment{}, err
		}
	}
	if err != nil {
		return api.Assignment{}, err
	}
	w := &want{Ref: resolved.Ref, Digest: resolved.Digest, Disk: req.Disk, EveryBoot: req.EveryBoot, Then: req.Then, InstallOptions: req.InstallOptions}
	rec, err := r.update(ctx, n, func(rec *record) error { rec.assign(w); return nil })
	if err != nil {
		return api.Assignment{}, err
	}
	when := "once"
	if w.EveryBoot {
		when = "at every boot"
	}
	r.say(rec, fmt.Sprintf("assigned %s, disk %q, %s, then %s", w.Ref, w.Disk, when, w.Then))
	return rec.assignment(), nil
}

// expect makes a node for a machine that was never seen, if id is a MAC;
// else it returns notFound.
func (r *Registry) expect(id string, notFound error) (*node, error) {
	mac, err := parseMAC(id)
	if err != nil {
		return nil, notFound
	}
	r.registering.Lock()
	defer r.registering.Unlock()
	if n := r.match(&api.Inventory{MACs: []string{mac}}); n != nil { // another card of a known machine
		return n, nil
	}
	return r.add(mac)
}

// Unassign takes a node's assignment away. Errors wrap ErrNotFound or are the
// store's.
func (r *Registry) Unassign(ctx context.Context, id string) error {
	n, err := r.find(id)
	if err != nil {
		return err
	}
	rec, err := r.update(ctx, n, func(rec *record) error { rec.assign(nil); return nil })
	if err == nil {
		r.say(rec, "unassigned")
	}
	return err
}

// Report takes events of a node's present boot. When it returns nil, what
// they change is in the store. Errors wrap ErrNotFound or ErrInvalid or are
// the store's; then no event has been noted.
func (r *Registry) Report(ctx context.Context, id string, events []api.Event) error {
	n, err := r.find(id)
	if err != nil {
		return err
	}
	if len(events) > maxEvents {
		return invalid("%d events at once, at most %d", len(events), maxEvents)
	}
	for i := range events {
		if err := checkEvent(&events[i]); err != nil {
			return err
		}
	}
	finished, rec, err := r.apply(ctx, n, events)
	if err != nil {
		return err
	}
	for _, e := range events {
		e.Node = rec.ID
		r.note(e)
	}
	if finished {
		r.say(rec, "installed; the disk is complete")
	}
	return nil
}

// checkEvent refuses what is not a node's to say.
func checkEvent(e *api.Event) error {
	switch e.Type {
	case api.EventStep, api.EventProgress, api.EventVerified, api.EventInstalled, api.EventLog:
	default:
		return invalid("event type %.40q", e.Type)
	}
	if len(e.Message)+len(e.Error)+len(e.Step)+len(e.State)+len(e.Boot) > maxMessage || len(e.Data) > maxData {
		return invalid("an event is too large")
	}
	if e.Progress != nil && len(e.Progress.Received) > 16 {
		return invalid("an event has %d transports", len(e.Progress.Received))
	}
	return nil
}

// apply changes the node as its events say.
func (r *Registry) apply(ctx context.Context, n *node, events []api.Event) (finished bool, rec record, err error) {
	rec, _ = n.look()
	state, installed := rec.State, false
	var progress *api.Progress
	for _, e := range events {
		if e.Boot != "" && e.Boot != rec.Boot {
			continue // of an earlier boot: for the diary only
		}
		switch e.Type {
		case api.EventStep:
			state = describe(e)
		case api.EventProgress:
			progress = e.Progress
		case api.EventInstalled:
			installed = true
			state = "installed"
		}
	}
	if state != rec.State || installed {
		rec, err = r.update(ctx, n, func(rec *record) error {
			rec.State = state
			if installed {
				finished = rec.finish()
			}
			return nil
		})
		if err != nil {
			return false, record{}, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lastSeen = time.Now()
	if progress != nil {
		n.progress = progress
	}
	return finished, rec, nil
}

func describe(e api.Event) string {
	s := e.Step + " " + string(e.State)
	if e.State == api.StepFailed {
		s += ": " + e.Error
	}
	return s
}
