package nodes_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"huck/bootserver/nodes"
	"huck/bootserver/state"
	"huck/imager/api"
	"huck/imager/image"
)

// kv is a store in memory that outlives a registry, and can fail.
type kv struct {
	mu   sync.Mutex
	m    map[string][]byte
	fail error
}

func (s *kv) Get(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[key], nil
}

func (s *kv) Put(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.m[key] = value
	return nil
}

func (s *kv) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, key)
	return nil
}

func (s *kv) List(_ context.Context, prefix string) (map[string][]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := maps.Clone(s.m)
	maps.DeleteFunc(out, func(k string, _ []byte) bool { return !strings.HasPrefix(k, prefix) })
	return out, nil
}

func newKV() *kv { return &kv{m: map[string][]byte{}} }

func open(t testing.TB, s nodes.Store) *nodes.Registry {
	t.Helper()
	r, err := nodes.Open(t.Context(), s, func(api.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const mac1, node1 = "52:54:00:12:34:56", "52-54-00-12-34-56"

func inventory(boot string) api.Inventory { return api.Inventory{MACs: []string{mac1}, BootID: boot} }

func register(t testing.TB, r *nodes.Registry, inv api.Inventory) api.Registered {
	t.Helper()
	reg, err := r.Register(t.Context(), inv)
	if err != nil {
		t.Fatal(err)
	}
	return reg
}

var resolved = api.Resolved{Ref: "debian:1@" + image.Sum([]byte("x")).String(), Digest: image.Sum([]byte("x"))}

func assign(t testing.TB, r *nodes.Registry, everyBoot bool, then api.Then) {
	t.Helper()
	if _, err := r.Assign(t.Context(), node1, api.AssignRequest{Ref: "debian", Disk: "only", EveryBoot: everyBoot, Then: then}, resolved); err != nil {
		t.Fatal(err)
	}
}

func action(t testing.TB, r *nodes.Registry) api.Assignment {
	t.Helper()
	a, _, err := r.Assignment(t.Context(), node1)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func installed(t testing.TB, r *nodes.Registry, boot string) {
	t.Helper()
	if err := r.Report(t.Context(), node1, []api.Event{{Type: api.EventInstalled, Boot: boot}}); err != nil {
		t.Fatal(err)
	}
}

func TestChangedWakes(t *testing.T) {
	r := open(t, newKV())
	register(t, r, inventory("b"))
	a, changed, err := r.Assignment(t.Context(), node1)
	if err != nil || a.Serial != 0 {
		t.Fatalf("%+v, %v", a, err)
	}
	go r.Assign(context.Background(), node1, api.AssignRequest{Disk: "only", Then: api.ThenWait}, resolved)
	<-changed
	if a = action(t, r); a.Serial != 1 || a.Digest != resolved.Digest || a.Ref != resolved.Ref {
		t.Errorf("after the wake-up %+v", a)
	}
}

func TestTokens(t *testing.T) {
	store := newKV()
	r := open(t, store)
	first := register(t, r, inventory("boot-1")).Token
	if id, ok := r.Authenticate(first); !ok || id != node1 {
		t.Fatal("fresh token refused")
	}
	r = open(t, store)
	if _, ok := r.Authenticate(first); !ok {
		t.Error("token refused after a restart")
	}
	if again := register(t, r, inventory("boot-1")).Token; again != first {
		t.Error("registering again within a boot changes the token")
	}
	second := register(t, r, inventory("boot-2")).Token
	if _, ok := r.Authenticate(first); ok {
		t.Error("token of an earlier boot is taken")
	}
	for _, bad := range []string{"", ".", node1, node1 + ".", second + "0", second[:len(second)-1], "x" + second, strings.Replace(second, "56.", "57.", 1)} {
		if _, ok := r.Authenticate(bad); ok {
			t.Errorf("token %q is taken", bad)
		}
	}
	// A node expected but never seen has no boot, hence no valid token.
	r.Assign(t.Context(), "02:00:00:00:00:09", api.AssignRequest{Disk: "only", Then: api.ThenWait}, resolved)
	if _, ok := r.Authenticate("02-00-00-00-00-09."); ok {
		t.Error("token of a machine never seen is taken")
	}
}

func TestInvalid(t *testing.T) {
	r := open(t, newKV())
	for name, change := range map[string]func(*api.Inventory){
		"no MAC":        func(i *api.Inventory) { i.MACs = nil },
		"bad MAC":       func(i *api.Inventory) { i.MACs = []string{"x"} },
		"multicast MAC": func(i *api.Inventory) { i.MACs = []string{"01:00:5e:00:00:01"} },
		"zero MAC":      func(i *api.Inventory) { i.MACs = []string{"00:00:00:00:00:00"} },
		"Infiniband": func(i *api.Inventory) {
			i.MACs = []string{"00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01"}
		},
		"many MACs":   func(i *api.Inventory) { i.MACs = make([]string, 65) },
		"no boot ID":  func(i *api.Inventory) { i.BootID = "" },
		"odd boot ID": func(i *api.Inventory) { i.BootID = "a\x00b" },
		"long serial": func(i *api.Inventory) { i.Serial = strings.Repeat("x", 1000) },
		"many disks":  func(i *api.Inventory) { i.Disks = make([]api.Disk, 300) },
		"long model":  func(i *api.Inventory) { i.Disks = []api.Disk{{Model: strings.Repeat("x", 1000)}} },
	} {
		inv := inventory("b")
		change(&inv)
		if _, err := r.Register(t.Context(), inv); !errors.Is(err, nodes.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(r.List()) != 0 {
		t.Errorf("refused machines are listed: %v", r.List())
	}
	register(t, r, inventory("b"))
	for name, e := range map[string]api.Event{
		"server's word": {Type: api.EventServer},
		"node's own":    {Type: api.EventNode},
		"unknown":       {Type: "x"},
		"long message":  {Type: api.EventLog, Message: strings.Repeat("x", 10000)},
		"long data":     {Type: api.EventInstalled, Data: []byte(`"` + strings.Repeat("x", 20000) + `"`)},
		"many transports": {Type: api.EventProgress, Progress: &api.Progress{Received: map[string]int64{
			"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1, "g": 1, "h": 1, "i": 1, "j": 1, "k": 1, "l": 1, "m": 1, "n": 1, "o": 1, "p": 1, "q": 1}}},
	} {
		if err := r.Report(t.Context(), node1, []api.Event{e}); !errors.Is(err, nodes.ErrInvalid) {
			t.Errorf("event %s: %v", name, err)
		}
	}
	for name, req := range map[string]api.AssignRequest{
		"rule": {Disk: "sda", Then: api.ThenWait}, "then": {Disk: "only", Then: "sleep"}, "no then": {Disk: "only"},
	} {
		if _, err := r.Assign(t.Context(), node1, req, resolved); !errors.Is(err, nodes.ErrInvalid) {
			t.Errorf("assign with bad %s: %v", name, err)
		}
	}
	if _, err := r.Assign(t.Context(), "nobody", api.AssignRequest{Disk: "only", Then: api.ThenWait}, resolved); !errors.Is(err, nodes.ErrNotFound) {
		t.Errorf("assign to nobody: %v", err)
	}
	if err := r.Unassign(t.Context(), "nobody"); !errors.Is(err, nodes.ErrNotFound) {
		t.Errorf("unassign nobody: %v", err)
	}
}

func TestStateAndProgress(t *testing.T) {
	store := newKV()
	r := open(t, store)
	register(t, r, inventory("b"))
	report := func(e ...api.Event) {
		t.Helper()
		if err := r.Report(t.Context(), node1, e); err != nil {
			t.Fatal(err)
		}
	}
	report(api.Event{Type: api.EventStep, Step: "receive", State: api.StepRunning},
		api.Event{Type: api.EventProgress, Progress: &api.Progress{Total: 10, Written: 3}})
	if n := r.List()[0]; n.State != "receive running" || n.Progress == nil || n.Progress.Written != 3 || n.Known {
		t.Errorf("%+v", n)
	}
	report(api.Event{Type: api.EventInstalled})
	if n := r.List()[0]; n.State != "installed" || n.Progress != nil {
		t.Errorf("installed, and still %+v", n)
	}
	report(api.Event{Type: api.EventStep, Step: "receive", State: api.StepFailed, Error: "target too small"},
		api.Event{Type: api.EventStep, Step: "late", State: api.StepDone, Boot: "an earlier boot"})
	if n := open(t, store).List()[0]; n.State != "receive failed: target too small" || n.Progress != nil {
		t.Errorf("after a restart %+v", n)
	}
}

// TestStoreFails: what is not stored has not happened.
func TestStoreFails(t *testing.T) {
	store := newKV()
	r := open(t, store)
	register(t, r, inventory("b"))
	store.fail = errors.New("disk full")
	if _, err := r.Assign(t.Context(), node1, api.AssignRequest{Disk: "only", Then: api.ThenWait}, resolved); !errors.Is(err, store.fail) {
		t.Errorf("Assign: %v", err)
	}
	if a := action(t, r); a.Action != api.ActionWait || a.Serial != 0 {
		t.Errorf("assigned nevertheless: %+v", a)
	}
	store.fail = nil
	assign(t, r, false, api.ThenWait)
	store.fail = errors.New("disk full")
	if a, _, err := r.Assignment(t.Context(), node1); err == nil {
		t.Errorf("told to %s without a record of it", a.Action)
	}
	store.fail = nil
	action(t, r)
	store.fail = errors.New("disk full")
	if err := r.Report(t.Context(), node1, []api.Event{{Type: api.EventInstalled}}); err == nil {
		t.Error("an installation is acknowledged without a record of it")
	}
}

// TestOneMachineOneNode registers one machine from many goroutines at once, on
// a real store.
func TestOneMachineOneNode(t *testing.T) {
	s, err := state.Open(t.Context(), t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := open(t, s)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			inv := inventory("b")
			inv.MACs = append(inv.MACs, fmt.Sprintf("02:00:00:00:01:%02x", i))
			if _, err := r.Register(context.Background(), inv); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if l := open(t, s).List(); len(l) != 1 || l[0].ID != node1 {
		t.Errorf("%d nodes: %+v", len(l), l)
	}
}
