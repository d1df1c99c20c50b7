// Package nodes is what the boot server knows of machines: who they are, what
// they are to do, and how far they are. Records are in the store before a call
// returns; progress is in memory only.
package nodes

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"huck/imager/api"
)

// Keys in the store.
const (
	nodePrefix  = "nodes/"
	groupPrefix = "groups/"
	modelPrefix = "models/"
	secretKey   = "secret"
)

// ErrNotFound is wrapped for a node that is not known.
var ErrNotFound = errors.New("nodes: no such node")

// ErrInvalid is wrapped for input that makes no sense; the text says why.
var ErrInvalid = errors.New("nodes: invalid")

func invalid(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, a...)...)
}

// Store keeps the records; *state.Store is one.
type Store interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, prefix string) (map[string][]byte, error)
}

// Registry is all nodes. Its methods are safe for concurrent use.
type Registry struct {
	store  Store
	note   func(api.Event)
	secret []byte

	// registering is held while a machine is matched with the nodes we know,
	// so that one machine never becomes two nodes.
	registering sync.Mutex
	// grouping is held while a group or its membership changes, so that who
	// joins gets the assignment that the group has. It is taken before
	// registering and before a node's mu.
	grouping sync.Mutex

	mu     sync.RWMutex // of the maps only
	nodes  map[string]*node
	groups map[string]group
	models map[string]model // those that somebody, or experience, has spoken of
}

// node is one machine.
type node struct {
	// mu is held while the record is changed, across the write to the store:
	// two changes of one record must reach the store in their order. The store
	// bounds each write in time, and nobody else waits.
	mu       sync.Mutex
	rec      record
	progress *api.Progress
	lastSeen time.Time
	changed  chan struct{} // closed and replaced when the record changes
	keys     sync.Mutex    // held while host keys are made
}

// Open reads the registry from the store. note receives the events of nodes
// and those the registry itself has to tell; it must not block.
func Open(ctx context.Context, store Store, note func(api.Event)) (*Registry, error) {
	r := &Registry{store: store, note: note, nodes: map[string]*node{}, groups: map[string]group{}, models: map[string]model{}}
	if err := r.load(ctx); err != nil {
		return nil, err
	}
	var err error
	if r.secret, err = store.Get(ctx, secretKey); err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	if r.secret == nil {
		r.secret = make([]byte, 32)
		rand.Read(r.secret) // never fails, says its documentation
		if err := store.Put(ctx, secretKey, r.secret); err != nil {
			return nil, fmt.Errorf("nodes: %w", err)
		}
	}
	if err := r.reconcile(ctx); err != nil {
		return nil, err
	}
	// Before anybody can assign: a document is stored before the node that wants it.
	return r, r.dropDocuments(ctx)
}

// load reads the records.
func (r *Registry) load(ctx context.Context) error {
	err := records(ctx, r.store, nodePrefix, func(rec record) string {
		rec.Version = max(rec.Version, rec.Serial) // of a server that had no versions
		r.nodes[rec.ID] = &node{rec: rec, lastSeen: rec.LastSeen, changed: make(chan struct{})}
		return rec.ID
	})
	if err != nil {
		return err
	}
	if err := records(ctx, r.store, groupPrefix, func(g group) string { r.groups[g.Name] = g; return g.Name }); err != nil {
		return err
	}
	return records(ctx, r.store, modelPrefix, func(m model) string { r.models[m.Model] = m; return m.Model })
}

// records hands each record of a kind to take, which returns its name.
func records[T any](ctx context.Context, store Store, prefix string, take func(T) string) error {
	stored, err := store.List(ctx, prefix)
	if err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	for key, value := range stored {
		var rec T
		err := json.Unmarshal(value, &rec)
		if err != nil || prefix+take(rec) != key {
			return fmt.Errorf("nodes: record %s in the store is damaged: %v", key, err)
		}
	}
	return nil
}

// find returns a node by ID; a MAC with colons is the ID with dashes.
func (r *Registry) find(id string) (*node, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if n := r.nodes[normalID(id)]; n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("%w: %.80q", ErrNotFound, id)
}

func normalID(id string) string { return strings.ToLower(strings.ReplaceAll(id, ":", "-")) }

func (r *Registry) all() []*node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	l := make([]*node, 0, len(r.nodes))
	for _, n := range r.nodes {
		l = append(l, n)
	}
	return l
}

// update changes a record: change gets a copy, and if it returns nil the copy
// is stored and then becomes the record.
func (r *Registry) update(ctx context.Context, n *node, change func(*record) error) (record, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := n.rec
	if err := change(&next); err != nil {
		return record{}, err
	}
	b, err := json.Marshal(next)
	if err != nil {
		return record{}, fmt.Errorf("nodes: record %s: %v", next.ID, err)
	}
	if err := r.store.Put(ctx, nodePrefix+next.ID, b); err != nil {
		return record{}, fmt.Errorf("nodes: %w", err)
	}
	n.rec = next
	close(n.changed)
	n.changed = make(chan struct{})
	return next, nil
}

// look returns a node's record and the channel that closes when it changes.
func (n *node) look() (record, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rec, n.changed
}

// List returns all nodes, sorted by ID.
func (r *Registry) List() []api.Node {
	nodes := r.all()
	list := make([]api.Node, 0, len(nodes))
	for _, n := range nodes {
		rec, _ := n.look()
		list = append(list, n.public(r.startBy(modelOf(&rec))))
	}
	slices.SortFunc(list, func(a, b api.Node) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// public is the node as the lists show it; start is how its model starts its
// own system.
func (n *node) public(start api.Then) api.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := api.Node{
		ID: n.rec.ID, Inventory: n.rec.Inventory, Known: n.rec.Known, State: n.rec.State, LastSeen: n.lastSeen, Progress: n.progress,
		Group: n.rec.Group, Maintenance: n.rec.Maintenance, Failures: n.rec.Tries, Start: start,
	}
	if n.rec.NoKexec {
		p.Start = api.ThenReboot
	}
	rec := n.rec
	if rec.Capture != nil {
		p.Capture, rec.Capture = rec.Capture.Name, nil
	}
	if rec.want() != nil {
		a := rec.assignment()
		p.Assignment, p.Inherited = &a, n.rec.Own == nil
	}
	return p
}

// token authorises one boot of a node. It is computed rather than stored, so
// that a restarted server takes it as before.
func (r *Registry) token(id, boot string) string {
	h := hmac.New(sha256.New, r.secret)
	fmt.Fprintf(h, "%s\x00%s", id, boot)
	return id + "." + hex.EncodeToString(h.Sum(nil))
}

// Authenticate returns the node that a token belongs to. The token of an
// earlier boot is not taken.
func (r *Registry) Authenticate(token string) (id string, ok bool) {
	id, _, _ = strings.Cut(token, ".")
	n, err := r.find(id)
	if err != nil {
		return "", false
	}
	rec, _ := n.look()
	if rec.Boot == "" || !hmac.Equal([]byte(token), []byte(r.token(rec.ID, rec.Boot))) {
		return "", false
	}
	return rec.ID, true
}
