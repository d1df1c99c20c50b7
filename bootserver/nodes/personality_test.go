package nodes_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"huck/bootserver/nodes"
	"huck/imager/api"
	"huck/imager/personal"
)

func personalise(t *testing.T, r *nodes.Registry, id, document string) error {
	t.Helper()
	_, err := r.Assign(t.Context(), id, api.AssignRequest{Disk: "only", Then: api.ThenWait, Personalise: json.RawMessage(document)}, resolved)
	return err
}

func personality(t *testing.T, r *nodes.Registry, id string) *personal.Personality {
	t.Helper()
	p, err := r.Personality(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// keys returns a personality's host keys by type, checked by pair.
func keys(t *testing.T, p *personal.Personality) map[string]string {
	t.Helper()
	found, public := map[string]string{}, map[string]string{}
	for _, f := range p.Files {
		public[f.Path] = f.Content
	}
	for _, f := range p.Files {
		name, ok := strings.CutPrefix(f.Path, "/etc/ssh/ssh_host_")
		if !ok || strings.HasSuffix(name, ".pub") {
			continue
		}
		key, err := ssh.ParsePrivateKey([]byte(f.Content))
		if err != nil {
			t.Fatal(err)
		}
		pub := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))
		if !strings.HasPrefix(public[f.Path+".pub"], pub) || f.Mode != "0600" {
			t.Errorf("%s has mode %s and beside it %q, not %q", f.Path, f.Mode, public[f.Path+".pub"], pub)
		}
		found[name] = pub
	}
	return found
}

// TestPersonality: two nodes differ, one node stays itself, also after a
// restart of the server.
func TestPersonality(t *testing.T) {
	store := newKV()
	r := open(t, store)
	const node2 = "52-54-00-12-34-57"
	other := inventory("other")
	other.MACs = []string{"52:54:00:12:34:57"}
	register(t, r, inventory("b"))
	register(t, r, other)
	const doc = `{"hostname": "n-{{replace \":\" \"\" .MAC}}", "machine_id": "derived", "ssh_host_keys": "stored", "ssh_host_key_types": ["ed25519", "ecdsa", "rsa"]}`
	for _, id := range []string{node1, node2} {
		if err := personalise(t, r, id, doc); err != nil {
			t.Fatal(err)
		}
	}
	a, b := personality(t, r, node1), personality(t, r, node2)
	if a.Hostname != "n-525400123456" || b.Hostname != "n-525400123457" || *a.MachineID == *b.MachineID || len(*a.MachineID) != 32 {
		t.Errorf("two nodes are %s %s and %s %s", a.Hostname, *a.MachineID, b.Hostname, *b.MachineID)
	}
	ka, kb := keys(t, a), keys(t, b)
	if len(ka) != 3 || len(kb) != 3 {
		t.Fatalf("keys %v, %v", ka, kb)
	}
	for kind := range ka {
		if ka[kind] == kb[kind] {
			t.Errorf("both have the key %s", ka[kind])
		}
	}
	r = open(t, store)
	again := personality(t, r, node1)
	if *again.MachineID != *a.MachineID {
		t.Error("the machine ID is another one after a restart")
	}
	for kind, k := range keys(t, again) {
		if k != ka[kind] {
			t.Errorf("the %s is another one after a restart", kind)
		}
	}
	if got, _, err := r.Assignment(t.Context(), node1); err != nil || !got.Personalise {
		t.Errorf("the assignment %+v, %v", got, err)
	}
	// What the list shows has no key.
	if b, err := json.Marshal(r.List()); err != nil || strings.Contains(string(b), "PRIVATE") {
		t.Errorf("the list holds private keys (%v)", err)
	}
}

func TestRandomID(t *testing.T) {
	r := open(t, newKV())
	register(t, r, inventory("b"))
	if err := personalise(t, r, node1, `{"machine_id": "random"}`); err != nil {
		t.Fatal(err)
	}
	if a, b := *personality(t, r, node1).MachineID, *personality(t, r, node1).MachineID; a == b || len(a) != 32 {
		t.Errorf("IDs %s, %s", a, b)
	}
}

func TestPersonalityRefused(t *testing.T) {
	r := open(t, newKV())
	register(t, r, inventory("b"))
	for _, doc := range []string{`{"nonsense": 1}`, `{"hostname": "{{.Nonsense}}"}`, `{"hostname": "{{.Serial}}x y"}`} {
		if err := personalise(t, r, node1, doc); !errors.Is(err, nodes.ErrInvalid) {
			t.Errorf("%s: %v", doc, err)
		}
	}
	if _, err := r.Personality(t.Context(), node1); !errors.Is(err, nodes.ErrNothing) {
		t.Errorf("without an assignment: %v", err)
	}
	if err := personalise(t, r, node1, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Personality(t.Context(), node1); !errors.Is(err, nodes.ErrNothing) {
		t.Errorf("without a document: %v", err)
	}
	if err := personalise(t, r, node1, `{"hostname": "a"}`); err != nil {
		t.Fatal(err)
	}
	action(t, r)
	installed(t, r, "b")
	if _, err := r.Personality(t.Context(), node1); !errors.Is(err, nodes.ErrNothing) {
		t.Errorf("after the installation: %v", err)
	}
	if _, err := r.Personality(t.Context(), "nobody"); !errors.Is(err, nodes.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
}

// TestDocumentsGo: a document that no node has any more is gone after a
// restart, one in use is not.
func TestDocumentsGo(t *testing.T) {
	store := newKV()
	r := open(t, store)
	count := func() int {
		m, _ := store.List(context.Background(), "documents/")
		return len(m)
	}
	for _, doc := range []string{`{"hostname": "a"}`, `{"hostname": "b"}`} {
		if err := personalise(t, r, mac1, doc); err != nil {
			t.Fatal(err)
		}
	}
	if count() != 2 {
		t.Fatalf("%d documents", count())
	}
	r = open(t, store)
	register(t, r, inventory("b"))
	if p := personality(t, r, node1); p.Hostname != "b" || count() != 1 {
		t.Errorf("hostname %s, %d documents", p.Hostname, count())
	}
	if err := r.Unassign(t.Context(), node1); err != nil {
		t.Fatal(err)
	}
	open(t, store)
	if count() != 0 {
		t.Errorf("%d documents that nobody has", count())
	}
}

// TestGroupPersonality: a group's document is for each of its members, who have
// numbers that stay.
func TestGroupPersonality(t *testing.T) {
	store := newKV()
	r := open(t, store)
	macs := []string{"52:54:00:00:00:0c", "52:54:00:00:00:0b", "52:54:00:00:00:0a"}
	group := func(remove bool, nodes ...string) {
		t.Helper()
		if _, err := r.Group(t.Context(), "lab", api.GroupRequest{Nodes: nodes, Remove: remove}); err != nil {
			t.Fatal(err)
		}
	}
	names := func() (list []string) {
		for _, mac := range macs {
			inv := inventory("boot-" + strings.ReplaceAll(mac, ":", "-"))
			inv.MACs = []string{mac}
			id := register(t, r, inv).Node
			p, err := r.Personality(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, p.Hostname)
		}
		return list
	}
	group(false, macs[0], macs[1])
	if err := personalise(t, r, "lab", `{"hostname": "{{.Group}}{{.Index}}"}`); err != nil {
		t.Fatal(err)
	}
	group(false, macs[2])
	if got := strings.Join(names(), " "); got != "lab0 lab1 lab2" {
		t.Errorf("the group is %s", got)
	}
	// One leaves and comes back: it takes the place that is free.
	group(true, macs[1])
	r = open(t, store)
	group(false, macs[1])
	if got := strings.Join(names(), " "); got != "lab0 lab1 lab2" {
		t.Errorf("the group is %s then", got)
	}
	if err := personalise(t, r, "lab", `{"hostname": "{{.Serial}} x"}`); !errors.Is(err, nodes.ErrInvalid) || !strings.Contains(err.Error(), "52-54-00-00-00-0") {
		t.Errorf("a document that does not suit the members: %v", err)
	}
}
