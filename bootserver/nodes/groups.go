package nodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"huck/imager/api"
)

// maxGroups bounds the groups.
const maxGroups = 1000

// group is a name for nodes that are to carry one image. Who is in it stands in
// the nodes' records.
type group struct {
	Name string `json:"name"`
	// Serial numbers its assignments and their removals.
	Serial uint64 `json:"serial,omitempty"`
	// Want is its assignment; nil if there is none.
	Want *want `json:"want,omitempty"`
}

// groupName is what names a group: letter case and dashes of a node's ID are no
// part of it, so that the two are never mistaken for each other.
var groupName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

func checkGroup(name string) error {
	if !groupName.MatchString(name) {
		return invalid("group name %.80q: want 1 to 63 of a-z 0-9 . _ -, a letter or digit first", name)
	}
	if _, err := parseMAC(name); err == nil {
		return invalid("group name %q would be a machine's", name)
	}
	return nil
}

// group returns the group of a name as it is now.
func (r *Registry) group(name string) (group, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	g, ok := r.groups[name]
	return g, ok
}

// setGroup stores a group; the caller holds grouping.
func (r *Registry) setGroup(ctx context.Context, g group) error {
	b, err := json.Marshal(g)
	if err != nil {
		return fmt.Errorf("nodes: group %s: %v", g.Name, err)
	}
	if err := r.store.Put(ctx, groupPrefix+g.Name, b); err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups[g.Name] = g
	return nil
}

// inherit gives a record its group's assignment.
func (r *record) inherit(g group) {
	if r.Group == g.Name && r.GroupSerial == g.Serial {
		return
	}
	r.order(func() { r.Group, r.Inherited, r.GroupSerial = g.Name, g.Want, g.Serial })
}

// leaveGroup takes a record out of its group.
func (r *record) leaveGroup() {
	r.order(func() { r.Group, r.Inherited, r.GroupSerial = "", nil, 0 })
}

// reconcile completes what a server that was killed had begun: the members of
// a group get its assignment.
func (r *Registry) reconcile(ctx context.Context) error {
	for _, n := range r.all() {
		rec, _ := n.look()
		if rec.Group == "" {
			continue
		}
		g, ok := r.group(rec.Group)
		if !ok {
			return fmt.Errorf("nodes: the group %s of node %s is not in the store", rec.Group, rec.ID)
		}
		if rec.GroupSerial == g.Serial {
			continue
		}
		if _, err := r.update(ctx, n, func(rec *record) error { rec.inherit(g); return nil }); err != nil {
			return err
		}
	}
	return nil
}

// Group puts nodes into a group, which need not exist, or takes them out of it.
// A node that joins leaves the group that it was in, and gets the assignment of
// the new one. Machines that were never seen can be named by their MAC. Errors
// wrap ErrNotFound or ErrInvalid, then nothing has changed; or they are the
// store's.
func (r *Registry) Group(ctx context.Context, name string, req api.GroupRequest) (api.Group, error) {
	if err := checkGroup(name); err != nil {
		return api.Group{}, err
	}
	r.grouping.Lock()
	defer r.grouping.Unlock()
	g, known := r.group(name)
	if _, err := r.find(name); err == nil {
		return api.Group{}, invalid("group name %q is a node's", name)
	}
	members, err := r.named(req, known, name)
	if err != nil {
		return api.Group{}, err
	}
	if !known {
		if len(r.groups) >= maxGroups {
			return api.Group{}, invalid("there are %d groups already", maxGroups)
		}
		g = group{Name: name}
		if err := r.setGroup(ctx, g); err != nil {
			return api.Group{}, err
		}
	}
	for _, n := range members {
		index := r.freeIndex(name)
		rec, err := r.update(ctx, n, func(rec *record) error {
			if req.Remove {
				rec.leaveGroup()
			} else {
				if rec.Group != name {
					rec.Index = index
				}
				rec.inherit(g)
			}
			return nil
		})
		if err != nil {
			return api.Group{}, err
		}
		if req.Remove {
			r.say(rec, "left the group "+name)
		} else {
			r.say(rec, "joined the group "+name+groupWords(&rec, g))
		}
	}
	return api.Group{Name: name, Nodes: r.members(name)}, nil
}

// groupWords tells what joining a group means for a node.
func groupWords(rec *record, g group) string {
	switch {
	case g.Want == nil:
		return ", which has no assignment"
	case rec.Own != nil:
		return "; its own assignment holds"
	}
	return fmt.Sprintf(": assigned %s, disk %q", g.Want.Ref, g.Want.Disk)
}

// named finds the nodes of a request, all of them or none.
func (r *Registry) named(req api.GroupRequest, known bool, group string) ([]*node, error) {
	if len(req.Nodes) > maxNodes {
		return nil, invalid("%d nodes", len(req.Nodes))
	}
	for _, id := range req.Nodes { // before any is made
		n, err := r.find(id)
		if err != nil && (req.Remove || !isMAC(id)) {
			return nil, err
		}
		if !req.Remove {
			continue
		}
		if rec, _ := n.look(); rec.Group != group {
			return nil, invalid("%s is not in the group %s", rec.ID, group)
		}
	}
	if len(req.Nodes) == 0 && !known {
		return nil, fmt.Errorf("%w or group: %.80q", ErrNotFound, group)
	}
	var list []*node
	for _, id := range req.Nodes {
		n, err := r.findOrExpect(id)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

// members are the IDs of the nodes in a group, sorted.
func (r *Registry) members(name string) []string {
	ids := []string{}
	for _, n := range r.all() {
		if rec, _ := n.look(); rec.Group == name {
			ids = append(ids, rec.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// freeIndex returns the lowest number that no member of a group has; the caller
// holds grouping. A member keeps its number, whoever comes and goes.
func (r *Registry) freeIndex(name string) int {
	taken := map[int]bool{}
	for _, n := range r.all() {
		if rec, _ := n.look(); rec.Group == name {
			taken[rec.Index] = true
		}
	}
	for i := 0; ; i++ {
		if !taken[i] {
			return i
		}
	}
}

// assignGroup gives a group an assignment, or takes it away (nil), and with it
// its members.
func (r *Registry) assignGroup(ctx context.Context, name string, w *want) error {
	r.grouping.Lock()
	defer r.grouping.Unlock()
	g, _ := r.group(name)
	g.Serial++
	g.Want = w
	if err := r.setGroup(ctx, g); err != nil {
		return err
	}
	var errs []error
	for _, id := range r.members(name) {
		n, err := r.find(id)
		if err != nil {
			return err
		}
		rec, err := r.update(ctx, n, func(rec *record) error { rec.inherit(g); return nil })
		switch {
		case err != nil:
			errs = append(errs, err) // the others are not to wait; reconcile mends it
		case rec.Own != nil:
			r.say(rec, "its group "+name+" has changed; its own assignment holds")
		case w == nil:
			r.say(rec, "unassigned with its group "+name)
		default:
			r.say(rec, "assigned with its group "+name+" "+w.String())
		}
	}
	return errors.Join(errs...)
}
