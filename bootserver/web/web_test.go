package web_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"huck/bootserver/boot"
	"huck/bootserver/events"
	"huck/bootserver/nodes"
	"huck/bootserver/web"
	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/intake"
	"huck/imager/origin"
	"huck/imager/store"
)

// kv is a store in memory.
type kv struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (s *kv) Get(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[key], nil
}

func (s *kv) Put(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
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

// rig is a handler with what is behind it.
type rig struct {
	t        *testing.T
	h        http.Handler
	nodes    *nodes.Registry
	events   *events.Log
	scripted []string
}

// far is a peer on the network, near is this host.
const far, near = "192.0.2.7:1234", "127.0.0.1:1234"

var digest = image.Sum([]byte("an image"))

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	log, err := events.Open(dir, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	reg, err := nodes.Open(t.Context(), &kv{m: map[string][]byte{}}, log.Add)
	if err != nil {
		t.Fatal(err)
	}
	netboot := filepath.Join(dir, "netboot")
	if err := os.Mkdir(netboot, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{filepath.Join(netboot, "vmlinuz"): "0123456789", filepath.Join(dir, "secret"): "secret"} {
		if err := os.WriteFile(name, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g := &rig{t: t, nodes: reg, events: log}
	u, _ := url.Parse("http://10.0.0.1:8480")
	authorize := web.Authorize(reg)
	g.h = web.Handler(web.Config{
		Nodes: reg, Events: log, Files: boot.Folder(netboot), Server: u, Intake: intake.New(nil, nil),
		Images: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := authorize(r, digest); err != nil {
				origin.WriteError(w, http.StatusUnauthorized, "unauthenticated", err)
				return
			}
			fmt.Fprint(w, "image data")
		}),
		Resolve: func(_ context.Context, ref string) (api.Resolved, error) {
			if ref != "debian" {
				return api.Resolved{}, fmt.Errorf("%q: %w", ref, store.ErrNotFound)
			}
			return api.Resolved{Ref: "debian:1@" + digest.String(), Digest: digest}, nil
		},
		Tags: func(context.Context) ([]image.TagInfo, error) {
			return []image.TagInfo{{Name: "debian", Version: 1, Digest: digest}}, nil
		},
		Scripted: func(mac string) { g.scripted = append(g.scripted, mac) },
	})
	return g
}

// do makes a request from a peer, with a token unless it is empty.
func (g *rig) do(peer, token, method, path, body string) *httptest.ResponseRecorder {
	g.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.RemoteAddr, r.Host = peer, "127.0.0.1:8480"
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	g.h.ServeHTTP(w, r)
	return w
}

// want makes a request and checks the status and, if it is not 2xx, that the
// body is an api.Error.
func (g *rig) want(status int, peer, token, method, path, body string) string {
	g.t.Helper()
	w := g.do(peer, token, method, path, body)
	if w.Code != status {
		g.t.Errorf("%s %s from %s: %d, want %d: %s", method, path, peer, w.Code, status, w.Body)
	}
	var e api.Error
	if w.Code/100 != 2 && (json.Unmarshal(w.Body.Bytes(), &e) != nil || e.Code == "" || e.Message == "") {
		g.t.Errorf("%s %s from %s: the error is %q", method, path, peer, w.Body)
	}
	return w.Body.String()
}

func (g *rig) register(mac, bootID string) api.Registered {
	g.t.Helper()
	var reg api.Registered
	b := g.want(200, far, "", "POST", "/v1/nodes", fmt.Sprintf(`{"macs":[%q],"boot_id":%q}`, mac, bootID))
	if err := json.Unmarshal([]byte(b), &reg); err != nil {
		g.t.Fatal(err)
	}
	return reg
}

const mac1, node1 = "52:54:00:12:34:56", "52-54-00-12-34-56"

func TestOneBoot(t *testing.T) {
	g := newRig(t)
	reg := g.register(mac1, "b1")
	if reg.Node != node1 || reg.Known {
		t.Fatalf("%+v", reg)
	}
	if a := g.want(200, far, reg.Token, "GET", "/v1/nodes/"+node1+"/assignment", ""); !strings.Contains(a, `"action":"wait"`) {
		t.Errorf("unknown machine is told %s", a)
	}
	g.want(404, near, "", "PUT", "/v1/nodes/"+node1+"/assignment", `{"ref":"nonesuch","disk":"only","then":"wait"}`)
	g.want(200, near, "", "PUT", "/v1/nodes/"+node1+"/assignment", `{"ref":"debian","disk":"only","then":"wait"}`)
	var a api.Assignment
	json.Unmarshal([]byte(g.want(200, far, reg.Token, "GET", "/v1/nodes/"+node1+"/assignment?after=0", "")), &a)
	if a.Action != api.ActionInstall || a.Digest != digest || a.Disk != "only" || a.Then != api.ThenWait || a.Serial != 1 {
		t.Errorf("told %+v", a)
	}
	g.want(200, far, reg.Token, "GET", "/v1/images/"+digest.String()+"/manifest", "")
	g.want(204, far, reg.Token, "POST", "/v1/nodes/"+node1+"/events", `[{"type":"step","step":"receive","state":"running"},{"type":"installed","data":{"event":"done"}}]`)
	var list []api.Node
	json.Unmarshal([]byte(g.want(200, near, "", "GET", "/v1/nodes", "")), &list)
	if len(list) != 1 || list[0].State != "installed" || list[0].Inventory.Address != "192.0.2.7" || list[0].Assignment == nil {
		t.Errorf("list: %+v", list)
	}
	diary := g.want(200, near, "", "GET", "/v1/events", "")
	for _, want := range []string{"seen for the first time", "assigned debian:1@", "told to install", `"type":"installed"`, "assign refused", "nonesuch"} {
		if !strings.Contains(diary, want) {
			t.Errorf("events lack %q:\n%s", want, diary)
		}
	}
	if !strings.Contains(g.want(200, near, "", "GET", "/", ""), node1) {
		t.Error("the page does not list the node")
	}
	g.want(204, near, "", "DELETE", "/v1/nodes/"+node1+"/assignment", "")
}

// TestOwnDiskByScript: where kexec does not suit a machine that has nothing to
// do, its boot ROM is sent on, unless more than one machine has its MAC.
func TestOwnDiskByScript(t *testing.T) {
	g := newRig(t)
	reg := g.register(mac1, "b1")
	script := func() string {
		return g.want(200, far, "", "GET", "/boot/ipxe?mac="+node1, "")
	}
	g.want(200, near, "", "PUT", "/v1/nodes/"+node1+"/assignment", `{"ref":"debian","disk":"only","then":"kexec"}`)
	g.want(200, far, reg.Token, "GET", "/v1/nodes/"+node1+"/assignment", "")
	g.want(204, near, "", "PUT", "/v1/nodes/"+node1+"/model", `{"start":"reboot"}`)
	if s := script(); !strings.Contains(s, "kernel ") {
		t.Errorf("a machine in mid-installation is told\n%s", s)
	}
	g.want(204, far, reg.Token, "POST", "/v1/nodes/"+node1+"/events", `[{"type":"installed","boot":"b1"}]`)
	if s := script(); s != boot.OwnDiskScript {
		t.Errorf("a finished machine is told\n%s", s)
	}
	g.want(401, far, reg.Token, "GET", "/v1/nodes/"+node1+"/assignment", "") // no appliance runs any more
	g.want(400, near, "", "PUT", "/v1/nodes/"+node1+"/model", `{"start":"luck"}`)
	g.want(200, far, "", "POST", "/v1/nodes", `{"macs":["02:00:00:00:00:01","`+mac1+`"],"boot_id":"x","system_uuid":"8f1b2c3d-0000-4000-8000-000000000001","serial":"S1"}`)
	g.want(200, far, "", "POST", "/v1/nodes", `{"macs":["02:00:00:00:00:02","`+mac1+`"],"boot_id":"y","system_uuid":"8f1b2c3d-0000-4000-8000-000000000002","serial":"S2"}`)
	if s := script(); !strings.Contains(s, "kernel ") {
		t.Errorf("one of several machines with that MAC is told\n%s", s)
	}
}

// TestWhoMayWhat: every path from every kind of peer.
func TestWhoMayWhat(t *testing.T) {
	g := newRig(t)
	own := g.register(mac1, "b1").Token
	other := g.register("52:54:00:00:00:02", "b2").Token
	const path = "/v1/nodes/" + node1
	for _, c := range []struct {
		method, path, body               string
		stranger, node, otherNode, owner int // statuses
	}{
		{"GET", "/boot/vmlinuz", "", 200, 200, 200, 200},
		{"GET", "/boot/ipxe", "", 200, 200, 200, 200},
		{"GET", path + "/assignment", "", 401, 200, 403, 401},
		{"POST", path + "/events", "[]", 401, 204, 403, 401},
		{"GET", path + "/personality", "", 401, 404, 403, 401},
		{"POST", path + "/capture", "", 401, 404, 403, 401}, // it was not told to
		{"PUT", path + "/capture/s/chunks/x", "", 401, 404, 403, 401},
		{"POST", path + "/capture/s/tag", "", 401, 404, 403, 401},
		{"PUT", path + "/capture", `{"name":"golden","disk":"only","then":"wait"}`, 403, 403, 403, 204},
		{"POST", path + "/capture/s/flush", "", 401, 410, 403, 401}, // now it was, but there is no such session
		{"DELETE", path + "/capture", "", 403, 403, 403, 204},
		{"GET", "/v1/images/x/manifest", "", 401, 200, 200, 200},
		{"GET", "/v1/refs/debian", "", 401, 200, 200, 200},
		{"GET", "/v1/nodes", "", 403, 403, 403, 200},
		{"PUT", path + "/assignment", `{"ref":"debian","disk":"only","then":"wait"}`, 403, 403, 403, 200},
		{"DELETE", path + "/assignment", "", 403, 403, 403, 204},
		{"PUT", path + "/maintenance", `{"on":true}`, 403, 403, 403, 204},
		{"PUT", path + "/model", `{"start":"kexec"}`, 403, 403, 403, 204},
		{"PUT", "/v1/groups/lab", `{"nodes":["` + node1 + `"]}`, 403, 403, 403, 200},
		{"PUT", "/v1/nodes/lab/assignment", `{"ref":"debian","disk":"only","then":"wait"}`, 403, 403, 403, 200},
		{"GET", "/v1/events", "", 403, 403, 403, 200},
		{"GET", "/", "", 403, 403, 403, 200},
		{"GET", "/v1/nothing", "", 404, 404, 404, 404},
		{"POST", "/v1/events", "", 404, 404, 404, 404},
		{"PATCH", "/boot/vmlinuz", "", 404, 404, 404, 404},
	} {
		g.want(c.stranger, far, "", c.method, c.path, c.body)
		g.want(c.node, far, own, c.method, c.path, c.body)
		g.want(c.otherNode, far, other, c.method, c.path, c.body)
		g.want(c.owner, near, "", c.method, c.path, c.body)
	}
	// Not by way of the owner's browser.
	for name, change := range map[string]func(*http.Request){
		"rebound name": func(r *http.Request) { r.Host = "evil.example:8480" },
		"cross site":   func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"cross origin": func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") },
	} {
		r := httptest.NewRequest("DELETE", path+"/assignment", nil)
		r.RemoteAddr, r.Host = near, "127.0.0.1:8480"
		change(r)
		w := httptest.NewRecorder()
		if g.h.ServeHTTP(w, r); w.Code != 403 {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
}

func TestBadInput(t *testing.T) {
	g := newRig(t)
	token := g.register(mac1, "b1").Token
	const path = "/v1/nodes/" + node1
	big := strings.Repeat("x", 5<<20)
	g.want(400, far, "", "POST", "/v1/nodes", `{`)
	g.want(400, far, "", "POST", "/v1/nodes", `{"macs":["x"]}`)
	g.want(413, far, "", "POST", "/v1/nodes", `{"serial":"`+big+`"}`)
	g.want(413, far, token, "POST", path+"/events", `[{"message":"`+big+`"}]`)
	g.want(400, far, token, "POST", path+"/events", `[{"type":"server"}]`)
	g.want(400, far, token, "GET", path+"/assignment?after=x", "")
	g.want(400, near, "", "PUT", path+"/assignment", `{"ref":"debian","disk":"sda","then":"wait"}`)
	g.want(400, near, "", "PUT", path+"/assignment", `{"ref":"debian","disk":"only","then":"dance"}`)
	g.want(400, near, "", "PUT", path+"/assignment", `{"ref":"UPPER","disk":"only","then":"wait"}`)
	g.want(404, near, "", "PUT", "/v1/nodes/nobody/assignment", `{"ref":"debian","disk":"only","then":"wait"}`)
	g.want(404, near, "", "DELETE", "/v1/nodes/nobody/assignment", "")
}

func TestBootFiles(t *testing.T) {
	g := newRig(t)
	r := httptest.NewRequest("GET", "/boot/vmlinuz", nil)
	r.Header.Set("Range", "bytes=2-4")
	w := httptest.NewRecorder()
	if g.h.ServeHTTP(w, r); w.Code != 206 || w.Body.String() != "234" {
		t.Errorf("range: %d %q", w.Code, w.Body)
	}
	if w := g.do(far, "", "HEAD", "/boot/vmlinuz", ""); w.Code != 200 || w.Header().Get("Content-Length") != "10" {
		t.Errorf("HEAD: %d %v", w.Code, w.Header())
	}
	for _, name := range []string{"none", "%2e%2e/secret", "..%2fsecret", "%2fetc%2fpasswd", `..%5csecret`, "", "vmlinuz/"} {
		if w := g.do(far, "", "GET", "/boot/"+name, ""); w.Code != 404 || strings.Contains(w.Body.String(), "secret\n") {
			t.Errorf("/boot/%s: %d %s", name, w.Code, w.Body)
		}
	}
	if s := g.want(200, far, "", "GET", "/boot/ipxe?mac=52-54-00-12-34-56", ""); !strings.HasPrefix(s, "#!ipxe\n") {
		t.Errorf("script: %s", s)
	}
	g.want(200, far, "", "GET", "/boot/ipxe?mac=%0a${evil}", "")
	if len(g.scripted) != 2 || g.scripted[0] != mac1 || g.scripted[1] != "" {
		t.Errorf("noted scripts: %q", g.scripted)
	}
}

// live serves the rig on loopback, as web.Server does.
func (g *rig) live() (base string, stop func()) {
	g.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := web.Listen(ctx, "127.0.0.1:0", g.h, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return "http://" + s.Addr().String(), func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				g.t.Errorf("Run ended with %v", err)
			}
		case <-time.After(api.LongPoll / 2):
			g.t.Error("Run does not end")
		}
	}
}

// TestLongPoll: a waiting machine learns of its assignment at once, and a
// shutdown does not wait for those that wait.
func TestLongPoll(t *testing.T) {
	g := newRig(t)
	token := g.register(mac1, "b1").Token
	base, stop := g.live()
	poll := func(after int) (*http.Response, error) {
		req, _ := http.NewRequest("GET", fmt.Sprintf("%s/v1/nodes/%s/assignment?after=%d", base, node1, after), nil)
		req.Header.Set("Authorization", "Bearer "+token)
		return http.DefaultClient.Do(req)
	}
	got := make(chan string, 1)
	go func() {
		resp, err := poll(0)
		if err != nil {
			got <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		got <- string(b)
	}()
	select {
	case b := <-got:
		t.Fatalf("the poll did not wait: %s", b)
	case <-time.After(300 * time.Millisecond):
	}
	g.want(200, near, "", "PUT", "/v1/nodes/"+node1+"/assignment", `{"ref":"debian","disk":"only","then":"wait"}`)
	if b := <-got; !strings.Contains(b, `"action":"install"`) {
		t.Errorf("the poll got %s", b)
	}
	ended := make(chan int, 1)
	go func() {
		resp, err := poll(1)
		if err != nil {
			ended <- 0
			return
		}
		resp.Body.Close()
		ended <- resp.StatusCode
	}()
	select {
	case code := <-ended:
		t.Errorf("the second poll did not wait: %d", code)
	case <-time.After(300 * time.Millisecond):
	}
	stop()
	if code := <-ended; code == 200 {
		t.Error("a poll cut off by the shutdown got an answer that looks like an assignment")
	}
}

func TestFollow(t *testing.T) {
	g := newRig(t)
	g.events.Add(api.Event{Type: api.EventServer, Message: "before"})
	base, stop := g.live()
	defer stop()
	resp, err := http.Get(base + "/v1/events?follow=1&node=N1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	g.events.Add(api.Event{Type: api.EventProgress, Node: "n2", Message: "another's"})
	g.events.Add(api.Event{Type: api.EventProgress, Node: "n1", Message: "its own"})
	line, err := bufio.NewReader(resp.Body).ReadBytes('\n')
	if err != nil || !bytes.Contains(line, []byte("its own")) {
		t.Errorf("followed %s, %v", line, err)
	}
}

// TestManyConnections: the cap for one address is not for this host, whose
// operator may follow events from many windows.
func TestManyConnections(t *testing.T) {
	g := newRig(t)
	base, stop := g.live()
	defer stop()
	var open []io.Closer
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for i := range 100 {
		resp, err := (&http.Client{Transport: &http.Transport{}}).Get(base + "/v1/events?follow=1")
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		open = append(open, resp.Body)
	}
}
