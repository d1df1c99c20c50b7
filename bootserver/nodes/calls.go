package nodes

import (
	"context"
	"fmt"
	"slices"
	"strings"
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
	var tell []string
	rec, err := r.update(ctx, n, func(rec *record) error {
		if rec.FirstSeen.IsZero() {
			rec.FirstSeen = now
		}
		identify(&inv, &rec.Inventory)
		rec.Inventory, rec.LastSeen = inv, now
		if rec.Boot == inv.BootID {
			return nil
		}
		startBy, said, err := r.boots(ctx, rec, now, false)
		if err != nil {
			return err
		}
		tell = said
		rec.decide(inv.BootID, startBy)
		rec.State = "registered"
		if why := rec.assignment().Why; why != "" {
			rec.State = "stopped: " + why
			tell = append(tell, rec.State)
		}
		return nil
	})
	if err != nil {
		return api.Registered{}, err
	}
	n.seen(now, rec.Boot != before.Boot)
	for _, s := range tell {
		r.say(rec, s)
	}
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
			r.say(rec, handedOut(&rec))
		}
	}
}

// handedOut tells of an installation that a node was told to do.
func handedOut(rec *record) string {
	w := rec.want()
	s := fmt.Sprintf("told to install %s on the disk %q", w.Ref, w.Disk)
	if rec.Tries > 1 {
		s += fmt.Sprintf(", attempt %d of %d", rec.Tries, w.limit())
	}
	return s
}

// Assign sets what a node, or each of a group, is to do; resolved is req.Ref
// with its digest. A machine that was never seen can be named by its MAC.
// Errors wrap ErrNotFound or ErrInvalid or are the store's.
func (r *Registry) Assign(ctx context.Context, name string, req api.AssignRequest, resolved api.Resolved) (api.Assignment, error) {
	w, err := wish(req, resolved)
	if err == nil {
		w.Document, err = r.keepDocument(ctx, name, w, req.Personalise)
	}
	if err != nil {
		return api.Assignment{}, err
	}
	if _, ok := r.group(name); ok {
		return (&record{Inherited: w}).assignment(), r.assignGroup(ctx, name, w)
	}
	n, err := r.findOrExpect(name)
	if err != nil {
		return api.Assignment{}, err
	}
	rec, err := r.update(ctx, n, func(rec *record) error { rec.order(func() { rec.Own = w }); return nil })
	if err != nil {
		return api.Assignment{}, err
	}
	r.say(rec, "assigned "+w.String())
	return rec.assignment(), nil
}

// maxTries is the most installations that may fail in a row: more is a loop.
const maxTries = 100

// wish checks what an operator asks for.
func wish(req api.AssignRequest, resolved api.Resolved) (*want, error) {
	if _, err := api.ParseRule(req.Disk); err != nil {
		return nil, invalid("%v", err)
	}
	if _, err := api.ParseThen(string(req.Then)); err != nil {
		return nil, invalid("%v", err)
	}
	if err := req.Check(); err != nil {
		return nil, invalid("%v", err)
	}
	if req.Tries < 0 || req.Tries > maxTries {
		return nil, invalid("%d installations that may fail in a row, want 1 to %d", req.Tries, maxTries)
	}
	return &want{
		Ref: resolved.Ref, Digest: resolved.Digest, Disk: req.Disk, EveryBoot: req.EveryBoot, Then: req.Then, Tries: req.Tries,
		InstallOptions: req.InstallOptions,
	}, nil
}

// findOrExpect returns a node by ID, or, if id is a MAC, the node that has it
// or one made for the machine that will come.
func (r *Registry) findOrExpect(id string) (*node, error) {
	n, notFound := r.find(id)
	if notFound == nil {
		return n, nil
	}
	mac, err := parseMAC(id)
	if err != nil {
		return nil, notFound
	}
	r.registering.Lock()
	defer r.registering.Unlock()
	var owners []string
	for _, o := range r.all() {
		if rec, _ := o.look(); slices.Contains(rec.Inventory.MACs, mac) {
			n, owners = o, append(owners, rec.ID)
		}
	}
	switch len(owners) {
	case 0:
		return r.add(mac)
	case 1: // another card of a known machine
		return n, nil
	}
	slices.Sort(owners)
	return nil, invalid("%s has been seen on %s; name one of them", mac, strings.Join(owners, " and "))
}

// Unassign takes a node's own assignment away, or a group's. Errors wrap
// ErrNotFound or ErrInvalid or are the store's.
func (r *Registry) Unassign(ctx context.Context, name string) error {
	if _, ok := r.group(name); ok {
		return r.assignGroup(ctx, name, nil)
	}
	n, err := r.find(name)
	if err != nil {
		return err
	}
	rec, err := r.update(ctx, n, func(rec *record) error {
		if rec.Own == nil && rec.Inherited != nil {
			return invalid("%s has no assignment of its own, but that of its group %s; unassign the group, or take the node out of it", rec.ID, rec.Group)
		}
		rec.order(func() { rec.Own = nil })
		return nil
	})
	switch {
	case err != nil:
		return err
	case rec.Inherited != nil:
		r.say(rec, fmt.Sprintf("unassigned; its group %s has it assigned %s", rec.Group, rec.Inherited))
	default:
		r.say(rec, "unassigned")
	}
	return nil
}

// Maintain keeps a node, or each of a group, in the rescue shell from its next
// boot on, or at once if it waits; or ends that. Errors wrap ErrNotFound or are
// the store's.
func (r *Registry) Maintain(ctx context.Context, name string, on bool) error {
	names := []string{name}
	if _, ok := r.group(name); ok {
		names = r.members(name)
	}
	for _, id := range names {
		n, err := r.find(id)
		if err != nil {
			return err
		}
		changed := false
		rec, err := r.update(ctx, n, func(rec *record) error {
			changed = rec.Maintenance != on
			rec.order(func() { rec.Maintenance = on })
			return nil
		})
		if err != nil {
			return err
		}
		if changed {
			r.say(rec, map[bool]string{true: "put into maintenance", false: "maintenance ended"}[on])
		}
	}
	return nil
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
	case api.EventStep, api.EventProgress, api.EventVerified, api.EventInstalled, api.EventCaptured, api.EventLog:
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
	now := time.Now()
	var progress *api.Progress
	var news []api.Event
	for _, e := range events {
		switch {
		case e.Boot != "" && e.Boot != rec.Boot: // of an earlier boot: for the diary only
		case e.Type == api.EventProgress:
			progress = e.Progress
		case e.Type == api.EventStep, e.Type == api.EventInstalled, e.Type == api.EventCaptured:
			news = append(news, e)
		}
	}
	if len(news) > 0 {
		rec, err = r.update(ctx, n, func(rec *record) error {
			finished = false
			for _, e := range news {
				finished = rec.hear(e, now) || finished
			}
			return nil
		})
		if err != nil {
			return false, record{}, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lastSeen = now
	if progress != nil {
		n.progress = progress
	}
	if rec.State == "installed" || len(news) > 0 && news[len(news)-1].State == api.StepLeaving {
		n.progress = nil // of what is done; that of a failure stays to be seen
	}
	return finished, rec, nil
}

// hear changes a record as an event of its present boot says. It reports
// whether that completes an installation.
func (r *record) hear(e api.Event, now time.Time) (finished bool) {
	if e.Type == api.EventInstalled {
		r.State = "installed"
		return r.finish()
	}
	if e.Type == api.EventCaptured {
		r.captured()
		return false
	}
	r.State = describe(e)
	switch e.State {
	case api.StepLeaving:
		r.leave(e, now)
	case api.StepFailed:
		r.LastError = fmt.Sprintf("%s: %.300s", e.Step, e.Error)
		if e.Step == string(api.ThenKexec) && e.Message == api.GivenUp && !r.NoKexec {
			r.NoKexec = true
			r.Left = left{}
			r.Version++ // a boot of its own disk is told anew how
		}
	}
	return false
}

func describe(e api.Event) string {
	s := e.Step + " " + string(e.State)
	if e.State == api.StepFailed {
		s += ": " + e.Error
	}
	return s
}
