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

	"huck/imager/api"
	"huck/imager/personal"
)

// Documents are stored by their hash, once for all nodes that were assigned
// the same; host keys by node, for good.
const (
	documentPrefix = "documents/"
	keysPrefix     = "hostkeys/"
)

// ErrNothing is wrapped where a node has no personality to fetch.
var ErrNothing = errors.New("nodes: the assignment asks for no personalisation")

// parseDocument returns nil for none.
func parseDocument(b []byte) (*personal.Document, error) {
	if len(b) == 0 || string(b) == "null" {
		return nil, nil
	}
	doc, err := personal.Parse(b)
	if err != nil {
		return nil, invalid("%v", err)
	}
	return doc, nil
}

// dropDocuments removes documents that no node was assigned.
func (r *Registry) dropDocuments(ctx context.Context) error {
	stored, err := r.store.List(ctx, documentPrefix)
	if err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	keep := func(w *want) {
		if w != nil {
			delete(stored, documentPrefix+w.Document)
		}
	}
	for _, n := range r.all() {
		rec, _ := n.look()
		keep(rec.Own)
		keep(rec.Inherited)
	}
	for _, g := range r.groups { // nobody else knows the registry yet
		keep(g.Want)
	}
	for key := range stored {
		if err := r.store.Delete(ctx, key); err != nil {
			return fmt.Errorf("nodes: %w", err)
		}
	}
	return nil
}

// keepDocument stores a document and returns its name, both empty for none.
// What is known of the node, or of each of the group, of that name shows at
// once whether the document suits it; w is the assignment that it is part of.
func (r *Registry) keepDocument(ctx context.Context, name string, w *want, text []byte) (string, error) {
	doc, err := parseDocument(text)
	if doc == nil || err != nil {
		return "", err
	}
	ids := []string{name}
	if _, ok := r.group(name); ok {
		ids = r.members(name)
	}
	for _, id := range ids {
		n, err := r.find(id)
		if err != nil {
			continue // one that will come
		}
		rec, _ := n.look()
		if rec.Boot == "" {
			continue // the same: nothing but its MAC is known
		}
		blank := personal.Secrets{Derived: emptyID, Random: emptyID}
		if _, err := doc.For(facts(&rec, w), blank); err != nil {
			return "", invalid("for node %s: %v", rec.ID, err)
		}
	}
	sum := sha256.Sum256(text)
	document := hex.EncodeToString(sum[:])
	if err := r.store.Put(ctx, documentPrefix+document, text); err != nil {
		return "", fmt.Errorf("nodes: %w", err)
	}
	return document, nil
}

const emptyID = "00000000000000000000000000000000"

// facts are what is known of a node that has the assignment w.
func facts(rec *record, w *want) personal.Facts {
	i := rec.Inventory
	f := personal.Facts{
		Node: rec.ID, MACs: i.MACs, UUID: i.SystemUUID, Serial: i.Serial, Manufacturer: i.Manufacturer, Product: i.Product,
		Address: i.Address, Image: w.Ref, Assignment: rec.Serial, Group: rec.Group,
	}
	if len(i.MACs) > 0 {
		f.MAC = i.MACs[0]
	}
	if rec.Group != "" {
		f.Index = rec.Index
	}
	return f
}

// Personality renders what a node is to be, with its keys. Errors wrap
// ErrNotFound, ErrNothing or ErrInvalid or are the store's.
func (r *Registry) Personality(ctx context.Context, id string) (*personal.Personality, error) {
	n, err := r.find(id)
	if err != nil {
		return nil, err
	}
	rec, _ := n.look()
	// Only while it is to be installed: who registers in a machine's name later gets no keys of it.
	w := rec.want()
	if w == nil || w.Document == "" || rec.assignment().Action != api.ActionInstall {
		return nil, fmt.Errorf("%w: node %s", ErrNothing, rec.ID)
	}
	text, err := r.store.Get(ctx, documentPrefix+w.Document)
	if err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	if text == nil {
		return nil, fmt.Errorf("nodes: the personalisation of %s is not in the store: assign it again", rec.ID)
	}
	doc, err := personal.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("nodes: the personalisation of %s in the store: %v", rec.ID, err)
	}
	secrets := personal.Secrets{Derived: r.derived(rec.ID), Random: randomID()}
	if secrets.HostKeys, err = r.hostKeys(ctx, n, rec.ID, doc.KeyTypes()); err != nil {
		return nil, err
	}
	p, err := doc.For(facts(&rec, w), secrets)
	if err != nil {
		return nil, invalid("for node %s: %v", rec.ID, err)
	}
	return p, nil
}

// derived is a machine ID that one server always gives to one node.
func (r *Registry) derived(id string) string {
	h := hmac.New(sha256.New, r.secret)
	fmt.Fprintf(h, "machine-id\x00%s", id)
	return version4(h.Sum(nil))
}

func randomID() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails, says its documentation
	return version4(b)
}

// version4 makes of 16 bytes a machine ID that is a UUID of version 4, too
// (machine-id(5)).
func version4(b []byte) string {
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return hex.EncodeToString(b[:16])
}

// hostKeys returns a node's keys of these types; those that it does not have
// yet are made, and stored before anybody gets them.
func (r *Registry) hostKeys(ctx context.Context, n *node, id string, types []string) ([]personal.HostKey, error) {
	if len(types) == 0 {
		return nil, nil
	}
	n.keys.Lock() // across the store: a node must not get two keys of one type
	defer n.keys.Unlock()
	b, err := r.store.Get(ctx, keysPrefix+id)
	if err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	have := map[string]personal.HostKey{}
	if b != nil {
		if err := json.Unmarshal(b, &have); err != nil {
			return nil, fmt.Errorf("nodes: host keys of %s in the store are damaged: %v", id, err)
		}
	}
	var list []personal.HostKey
	made := false
	for _, t := range types {
		k, ok := have[t]
		if !ok {
			if k, err = newHostKey(t, "root@"+id); err != nil {
				return nil, fmt.Errorf("nodes: %w", err)
			}
			have[t], made = k, true
		}
		list = append(list, k)
	}
	if !made {
		return list, nil
	}
	if b, err = json.Marshal(have); err != nil {
		return nil, fmt.Errorf("nodes: %v", err)
	}
	if err := r.store.Put(ctx, keysPrefix+id, b); err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	return list, nil
}
