package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"huck/imager/api"
	"huck/imager/capture"
	"huck/imager/image"
	"huck/imager/personal"
	"huck/imager/receive"
	"huck/initramfs/bootos"
	"huck/initramfs/cmdline"
	"huck/initramfs/efiboot"
	"huck/initramfs/medium"
	"huck/initramfs/network"
	"huck/initramfs/scripts"
	"huck/initramfs/server"
	"huck/initramfs/steps"
)

// diary is what happened, in the order it happened in.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) add(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.lines, "\n")
}

// bootServer is a boot server with one node.
type bootServer struct {
	*diary
	mu      sync.Mutex
	a       api.Assignment
	changed chan struct{}
	deaf    int    // so many posts of events fail
	persona string // what the node is to be, JSON
}

func (s *bootServer) assign(a api.Assignment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.a = a
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *bootServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/v1/nodes":
		json.NewEncoder(w).Encode(api.Registered{Node: "n1", Token: "t"})
	case r.URL.Path == "/v1/nodes/n1/personality":
		s.personality(w)
	case r.URL.Path == "/v1/nodes/n1/events":
		s.mu.Lock()
		deaf := s.deaf > 0
		s.deaf--
		s.mu.Unlock()
		if deaf {
			http.Error(w, "restarting", http.StatusServiceUnavailable)
			return
		}
		var events []api.Event
		if err := json.NewDecoder(r.Body).Decode(&events); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for _, e := range events {
			s.add("event %s %s %s %s%s", e.Type, e.Step, e.State, e.Error, e.Data)
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		s.poll(w, r)
	}
}

func (s *bootServer) personality(w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.persona == "" {
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(&api.Error{Code: "bad_request", Message: "hostname: no such fact"})
		return
	}
	fmt.Fprint(w, s.persona)
}

func (s *bootServer) poll(w http.ResponseWriter, r *http.Request) {
	after, _ := strconv.ParseUint(r.FormValue("after"), 10, 64)
	for {
		s.mu.Lock()
		a, changed := s.a, s.changed
		s.mu.Unlock()
		if a.Serial != after {
			json.NewEncoder(w).Encode(a)
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// fakeMachine notes what is done to it.
type fakeMachine struct {
	*diary
	disks     []api.Disk
	mayCome   bool // more disks
	medium    onMedium
	mediumErr error
	contents  map[string][]api.Content // by disk
	man       image.Manifest           // of the image received
	receives  []error                  // what each receive ends with; the last one goes on
	load      error
	entry     error // of the firmware
	firmware  string
	kexec     error
	script    map[string]error // by the script's name
	persona   error
	captures  []error // what each capture ends with; the last one goes on
}

func (m *fakeMachine) Inventory() api.Inventory {
	return api.Inventory{Product: "fake", BootID: "b", Firmware: m.firmware}
}
func (m *fakeMachine) Disks() ([]api.Disk, error) { return m.disks, nil }
func (m *fakeMachine) Contents(d api.Disk) ([]api.Content, error) {
	return m.contents[d.Path], nil
}
func (m *fakeMachine) DisksMayCome() bool { return m.mayCome }
func (m *fakeMachine) DiskComing() bool   { return false }
func (m *fakeMachine) Medium(name string) (onMedium, string, error) {
	if m.mediumErr != nil {
		return onMedium{}, "", m.mediumErr
	}
	if m.medium.Assignment == nil && m.medium.Images == nil {
		return onMedium{}, "", medium.ErrNotFound
	}
	return m.medium, "/dev/sr0", nil
}
func (m *fakeMachine) Activity(string) string { return "" }
func (m *fakeMachine) Leave()                 { m.add("leave") }
func (m *fakeMachine) Kexec() error           { m.add("kexec"); return m.kexec }
func (m *fakeMachine) Reboot() error          { m.add("reboot"); return nil }
func (m *fakeMachine) PowerOff() error        { m.add("poweroff"); return nil }

func (m *fakeMachine) BootEntry(path string, next bool) (efiboot.Entry, error) {
	m.add("boot entry for %s, next %v", path, next)
	return efiboot.Entry{Number: 4, Loader: `\EFI\x.efi`}, m.entry
}

func (m *fakeMachine) Personalise(path string, p *personal.Personality) (string, error) {
	m.add("personalise %s as %s", path, p.Hostname)
	return "", m.persona
}

func (m *fakeMachine) ScriptHere(_ context.Context, s personal.Script, cfg scripts.Config) error {
	m.add("here %s with %v", s.Name, cfg.Env)
	cfg.Line("said by " + s.Name)
	return m.script[s.Name]
}

func (m *fakeMachine) ScriptsThere(_ context.Context, path string, p *personal.Personality, cfg scripts.Config) error {
	for _, s := range p.Scripts.After {
		m.add("there %s on %s", s.Name, path)
		if err := m.script[s.Name]; err != nil {
			return err
		}
	}
	return nil
}

func (m *fakeMachine) Capture(_ context.Context, path string, cfg capture.Config) (capture.Result, error) {
	m.add("capture %s, force %v", path, cfg.Force)
	err := m.captures[0]
	if len(m.captures) > 1 {
		m.captures = m.captures[1:]
	}
	cfg.Progress(1<<20, 4<<20)
	return capture.Result{Ref: cfg.Name + ":7"}, err
}

func (m *fakeMachine) Reread(path string) error {
	m.add("reread %s", path)
	return nil
}

func (m *fakeMachine) Load(path string) (bootos.Entry, error) {
	m.add("load %s", path)
	return bootos.Entry{Title: "Linux"}, m.load
}

func (m *fakeMachine) Receive(_ context.Context, cfg receive.Config) (api.Result, error) {
	if err := cfg.Admit(&m.man); err != nil {
		return api.Result{}, err
	}
	from := ""
	if cfg.Store != nil {
		from = " from a store"
	}
	m.add("receive %s to %s over %s, verify %v%s", cfg.Ref, cfg.Target, cfg.Interface, cfg.Install.Verify, from)
	err := m.receives[0]
	if len(m.receives) > 1 {
		m.receives = m.receives[1:]
	}
	if err != nil {
		return api.Result{}, err
	}
	if cfg.Install.Verify {
		cfg.Install.Verified(api.Verified{Regions: 3})
	}
	return api.Result{Event: "done", Image: "@1"}, nil
}

// fakeNet has one lease, of the loopback interface.
type fakeNet struct {
	leases chan network.Lease
	chosen string
}

func (n *fakeNet) Leases() <-chan network.Lease { return n.leases }
func (n *fakeNet) Choose(ifname string)         { n.chosen = ifname }
func (n *fakeNet) String() string               { return "eth9: no carrier" }

// scene is a boot on a fake machine against a real HTTP server.
type scene struct {
	*diary
	server  *bootServer
	machine *fakeMachine
	boot    *boot
	done    chan error
	typed   chan string // at the console
	// answers is who answers on the link; nil is nobody.
	answers *url.URL
}

// discover stands for the link. That of the interface "slow" lets one wait.
func (s *scene) discover(ctx context.Context, l network.Lease) (*url.URL, error) {
	if l.Interface == "slow" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if s.answers == nil {
		return nil, errors.New("nobody answers")
	}
	return s.answers, nil
}

func newScene(t *testing.T) *scene {
	d := &diary{}
	disks := []api.Disk{{Path: "/dev/sda", Size: 1 << 30, Serial: "S1"}}
	s := &scene{diary: d, done: make(chan error, 1), typed: make(chan string, 9),
		server:  &bootServer{diary: d, changed: make(chan struct{})},
		machine: &fakeMachine{diary: d, disks: disks, receives: []error{nil}, captures: []error{nil}},
	}
	ts := httptest.NewServer(s.server)
	t.Cleanup(ts.Close)
	u, _ := url.Parse(ts.URL)
	n := &fakeNet{leases: make(chan network.Lease, 1)}
	n.leases <- network.Lease{Interface: "lo", Addr: netip.MustParsePrefix("127.0.0.1/8"), Server: u}
	print := func(f string, a ...any) { d.add("console %s", fmt.Sprintf(f, a...)) }
	events := server.NewQueue("b", nil)
	ask := func(ctx context.Context, question string) (string, error) {
		d.add("asked %s", question)
		select {
		case line := <-s.typed:
			return line, nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	s.boot = &boot{
		opts: cmdline.Options{}, m: s.machine, net: n, discover: s.discover, print: print, tick: print, offer: func() { d.add("offer") }, ask: ask,
		log: slog.New(slog.DiscardHandler), events: events,
		run: &steps.Runner{Print: print, Event: events.Add, Failed: func(string, error) {}},
		// The disks have been there for long: no need to let them settle.
		disks:    disksSeen{list: disks, since: time.Now().Add(-time.Hour)},
		patience: time.Second, mediumPatience: time.Second,
	}
	return s
}

func (s *scene) start(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.done <- s.boot.tell(ctx)
	}()
	t.Cleanup(func() { cancel(); <-ended })
}

func (s *scene) await(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !strings.Contains(s.String(), text) {
		select {
		case <-deadline:
			t.Fatalf("no %q in\n%s", text, s)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// order fails unless all texts are there, one after the other.
func (s *scene) order(t *testing.T, texts ...string) {
	t.Helper()
	rest := s.String()
	for _, text := range texts {
		_, after, ok := strings.Cut(rest, text)
		if !ok {
			t.Fatalf("no %q at its place in\n%s", text, s)
		}
		rest = after
	}
}

func (s *scene) without(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(s.String(), text) {
			t.Errorf("%q in\n%s", text, s)
		}
	}
}

func install1(then api.Then) api.Assignment {
	return api.Assignment{Serial: 1, Action: api.ActionInstall, Ref: "deb:1", Disk: "only", Then: then}
}
