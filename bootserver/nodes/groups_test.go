package nodes_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"huck/bootserver/nodes"
	"huck/imager/api"
)

func TestGroups(t *testing.T) {
	store := newKV()
	r := open(t, store)
	register(t, r, inventory("b"))
	join := api.GroupRequest{Nodes: []string{mac1, m1}}
	g, err := r.Group(t.Context(), "lab", join)
	if err != nil || g.Name != "lab" || strings.Join(g.Nodes, " ") != "02-00-00-00-00-01 "+node1 {
		t.Fatalf("%+v, %v", g, err)
	}
	if _, err := r.Assign(t.Context(), "lab", api.AssignRequest{Disk: "only", Then: api.ThenWait}, resolved); err != nil {
		t.Fatal(err)
	}
	for _, n := range open(t, store).List() {
		if n.Group != "lab" || n.Assignment == nil || !n.Inherited || !n.Known || n.Assignment.Ref != resolved.Ref {
			t.Errorf("%+v", n)
		}
	}
	assign(t, r, true, api.ThenWait)
	if n := r.List()[1]; n.Inherited || !n.Assignment.EveryBoot {
		t.Errorf("its own assignment is %+v", n)
	}
	if _, err := r.Group(t.Context(), "office", api.GroupRequest{Nodes: []string{node1}}); err != nil {
		t.Fatal(err)
	}
	if g, err = r.Group(t.Context(), "lab", api.GroupRequest{}); err != nil || len(g.Nodes) != 1 {
		t.Errorf("a node in two groups: %+v, %v", g, err)
	}
	for name, c := range map[string]struct {
		group string
		req   api.GroupRequest
		err   error
	}{
		"capitals":         {"LAB", join, nodes.ErrInvalid},
		"empty":            {"", join, nodes.ErrInvalid},
		"long":             {strings.Repeat("x", 64), join, nodes.ErrInvalid},
		"a path":           {"a/b", join, nodes.ErrInvalid},
		"a node's":         {node1, join, nodes.ErrInvalid},
		"any machine's":    {"02-00-00-00-00-77", join, nodes.ErrInvalid},
		"unknown node":     {"lab", api.GroupRequest{Nodes: []string{m2, "nobody"}}, nodes.ErrNotFound},
		"unknown group":    {"garage", api.GroupRequest{}, nodes.ErrNotFound},
		"not in the group": {"lab", api.GroupRequest{Nodes: []string{node1}, Remove: true}, nodes.ErrInvalid},
		"stranger removed": {"lab", api.GroupRequest{Nodes: []string{m3}, Remove: true}, nodes.ErrNotFound},
	} {
		if _, err := r.Group(t.Context(), c.group, c.req); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if l := r.List(); len(l) != 2 {
		t.Errorf("a refused request has made a node: %+v", l)
	}
	if _, err := r.Assign(t.Context(), "garage", api.AssignRequest{Disk: "only", Then: api.ThenWait}, resolved); !errors.Is(err, nodes.ErrNotFound) {
		t.Errorf("assign to an unknown group: %v", err)
	}
	if err := r.Unassign(t.Context(), "02-00-00-00-00-01"); !errors.Is(err, nodes.ErrInvalid) || !strings.Contains(err.Error(), "group lab") {
		t.Errorf("unassign what is the group's: %v", err)
	}
}

// dying is a store that fails for good after some writes.
type dying struct {
	*kv
	writes int
}

func (s *dying) Put(ctx context.Context, key string, value []byte) error {
	if s.writes--; s.writes < 0 {
		return errors.New("killed")
	}
	return s.kv.Put(ctx, key, value)
}

// TestGroupChangeCutShort: a server killed between any two writes of a group's
// change leaves members that agree after its start.
func TestGroupChangeCutShort(t *testing.T) {
	const members = 4
	for writes := range members + 1 {
		store := newKV()
		r := open(t, store)
		var macs []string
		for i := range members {
			macs = append(macs, fmt.Sprintf("02:00:00:00:02:%02x", i))
		}
		if _, err := r.Group(t.Context(), "lab", api.GroupRequest{Nodes: macs}); err != nil {
			t.Fatal(err)
		}
		r = open(t, &dying{store, writes})
		if _, err := r.Assign(t.Context(), "lab", api.AssignRequest{Disk: "only", Then: api.ThenWait}, resolved); err == nil {
			t.Fatalf("%d writes did", writes)
		}
		for _, n := range open(t, store).List() {
			if has := n.Assignment != nil; has != (writes > 0) {
				t.Errorf("after %d writes %s is assigned: %v", writes, n.ID, has)
			}
		}
	}
}
