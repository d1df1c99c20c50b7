package intake_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"huck/imager/api"
	"huck/imager/capture"
	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/intake"
	"huck/imager/store"
)

const size = 16 << 20

// rig is a server with one store; jobs are by node.
type rig struct {
	t       *testing.T
	store   *store.Dir
	jobs    map[string]intake.Job
	server  atomic.Pointer[intake.Server]
	url     *url.URL
	client  *http.Client
	chunks  atomic.Int64          // that were put
	before  func(r *http.Request) // set before the first request: those of a client that gave up still run
	handler http.Handler
}

func newRig(t *testing.T) *rig {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	g := &rig{t: t, store: st, before: func(*http.Request) {}, jobs: map[string]intake.Job{
		"n1": {Node: "n1", Name: "golden", Serial: 7}, "n2": {Node: "n2", Name: "other", Serial: 7},
	}}
	g.server.Store(intake.New(st, nil))
	g.handler = http.HandlerFunc(g.serve)
	return g
}

// listen makes the rig reachable by a client.
func (g *rig) listen() *rig {
	ts := httptest.NewServer(g.handler)
	g.t.Cleanup(ts.Close)
	g.url, _ = url.Parse(ts.URL)
	g.client = ts.Client()
	return g
}

func (g *rig) serve(w http.ResponseWriter, r *http.Request) {
	g.before(r)
	if strings.Contains(r.URL.Path, "/chunks/") {
		g.chunks.Add(1)
	}
	mux := http.NewServeMux()
	for route, h := range g.server.Load().Routes() {
		method, path, _ := strings.Cut(route, " ")
		mux.HandleFunc(method+" "+api.PathNodes+"/{node}/"+path, func(w http.ResponseWriter, r *http.Request) {
			h(w, r, g.jobs[r.PathValue("node")])
		})
	}
	mux.ServeHTTP(w, r)
}

// restart is a new server on the same store; the old one has ended well.
func (g *rig) restart() {
	g.t.Helper()
	ctx, cancel := context.WithCancel(g.t.Context())
	cancel()
	if err := g.server.Swap(intake.New(g.store, nil)).Run(ctx); err != nil {
		g.t.Error(err)
	}
}

// end closes the sessions that are left.
func (g *rig) end() { g.restart() }

// newDisk is a disk of size bytes that nothing can be made of, half of it
// compressible.
func newDisk(t *testing.T, seed byte) string {
	t.Helper()
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{seed})
	for at := 0; at < size; at += 1 << 18 {
		_, _ = r.Read(b[at : at+1<<17])
		copy(b[at+1<<17:], strings.Repeat("not random", 13107))
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (g *rig) capture(ctx context.Context, path string) (capture.Result, error) {
	g.t.Helper()
	dev, err := disk.Open(path, false)
	if err != nil {
		g.t.Fatal(err)
	}
	defer dev.Close()
	return capture.Run(ctx, capture.Config{Device: dev, Store: intake.NewClient(g.url, "n1", g.client), Name: "whatever", Workers: 4})
}

func (g *rig) sound() {
	g.t.Helper()
	res, err := g.store.Check(g.t.Context(), store.CheckOptions{ReadData: true, Found: func(f store.Finding) {
		if f.Damage {
			g.t.Errorf("store check: %+v", f)
		}
	}})
	if err != nil || res.Damaged > 0 {
		g.t.Errorf("store check: %+v, %v", res, err)
	}
}

func TestCapture(t *testing.T) {
	g := newRig(t).listen()
	path := newDisk(t, 1)
	r, err := g.capture(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if r.Ref != "golden:1" || r.ImageBytes != size || r.NewBytes != r.EncodedBytes || r.EncodedBytes > size*3/4 || g.chunks.Load() != size/image.RegionSize {
		t.Errorf("%+v with %d chunks", r, g.chunks.Load())
	}
	// It is the image that a capture into a store here makes.
	other, err := store.Open(t.TempDir(), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	dev, err := disk.Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	local, err := capture.Run(t.Context(), capture.Config{Device: dev, Store: other, Name: "golden"})
	if err != nil || local.Digest != r.Digest || local.EncodedBytes != r.EncodedBytes {
		t.Errorf("here %+v, %v; over HTTP %+v", local, err, r)
	}
	g.sound()
	// Its session holds nothing up.
	if _, err := g.store.GC(t.Context(), store.GCOptions{}); err != nil {
		t.Error(err)
	}
	// Again, by another order: a new version, and nothing crosses the network.
	g.jobs["n1"] = intake.Job{Node: "n1", Name: "golden", Serial: 8}
	g.chunks.Store(0)
	again, err := g.capture(t.Context(), path)
	if err != nil || again.Ref != "golden:2" || again.NewBytes != 0 || g.chunks.Load() != 0 {
		t.Errorf("again %+v, %v, %d chunks", again, err, g.chunks.Load())
	}
	// By the same order: the answer was lost, and is the same.
	same, err := g.capture(t.Context(), path)
	if err != nil || same.Ref != "golden:2" {
		t.Errorf("the same order %+v, %v", same, err)
	}
	tag, err := g.store.Resolve(t.Context(), image.Ref{Name: "golden"})
	if err != nil || tag.Version != 2 || tag.Labels["node"] != "n1" || tag.Labels["capture"] != "8" {
		t.Errorf("tag %+v, %v", tag, err)
	}
	g.end()
}

// TestInterrupted: the node's power fails, then the server is restarted. What
// was sent is not sent again.
func TestInterrupted(t *testing.T) {
	g := newRig(t).listen()
	path := newDisk(t, 2)
	const all = size / image.RegionSize
	ctx, cut := context.WithCancel(t.Context())
	g.before = func(r *http.Request) {
		if g.chunks.Load() >= all/2 {
			cut() // again in the second capture, which it does not concern
		}
	}
	if _, err := g.capture(ctx, path); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	if tags, err := g.store.Tags(t.Context()); err != nil || len(tags) > 0 {
		t.Errorf("tags %v, %v", tags, err)
	}
	// gc may not take what was sent.
	soon, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := g.store.GC(soon, store.GCOptions{}); err == nil {
		t.Error("gc runs beside an unfinished capture")
	}
	g.restart()
	sent := g.chunks.Swap(0)
	r, err := g.capture(t.Context(), path)
	if err != nil || r.Ref != "golden:1" {
		t.Fatalf("%+v, %v", r, err)
	}
	// Those that were in flight may have arrived or not.
	if n := g.chunks.Load(); n > all-sent+8 || n < all-sent-8 {
		t.Errorf("%d chunks of %d were sent after %d before", n, all, sent)
	}
	g.sound()
	g.end()
}

// TestGone: a server that is restarted in mid-capture does not know the session
// any more, which is told; trying again completes it.
func TestGone(t *testing.T) {
	g := newRig(t).listen()
	path := newDisk(t, 3)
	var once atomic.Bool
	g.before = func(r *http.Request) {
		if g.chunks.Load() >= 20 && once.CompareAndSwap(false, true) {
			g.restart()
		}
	}
	if _, err := g.capture(t.Context(), path); !errors.Is(err, intake.ErrGone) {
		t.Fatalf("error %v", err)
	}
	if r, err := g.capture(t.Context(), path); err != nil || r.Ref != "golden:1" {
		t.Errorf("%+v, %v", r, err)
	}
	g.sound()
	g.end()
}

// TestFlaky: a server that answers with trouble now and then, or not at all,
// costs time and nothing else.
func TestFlaky(t *testing.T) {
	g := newRig(t)
	var n atomic.Int64
	serve := g.handler
	g.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) % 9 {
		case 3:
			http.Error(w, "try again", http.StatusServiceUnavailable)
		case 5:
			serve.ServeHTTP(httptest.NewRecorder(), r) // done, but the answer is lost
			panic(http.ErrAbortHandler)
		default:
			serve.ServeHTTP(w, r)
		}
	})
	g.listen()
	r, err := g.capture(t.Context(), newDisk(t, 4))
	if err != nil || r.Ref != "golden:1" {
		t.Errorf("%+v, %v", r, err)
	}
	g.sound()
	g.end()
}

// ask makes a request without a network and returns status and answer.
func (g *rig) ask(method, path string, body []byte) (int, string) {
	w := httptest.NewRecorder()
	g.handler.ServeHTTP(w, httptest.NewRequest(method, api.PathNodes+"/"+path, bytes.NewReader(body)))
	return w.Code, w.Body.String()
}

func (g *rig) session(node string) string {
	g.t.Helper()
	code, body := g.ask("POST", node+"/capture", nil)
	var s api.CaptureSession
	if err := json.Unmarshal([]byte(body), &s); err != nil || code != 200 || s.Session == "" {
		g.t.Fatalf("%d %s", code, body)
	}
	return s.Session
}

// TestLiar: what a hostile client sends is refused with a reason, changes
// nothing, and does not end the session.
func TestLiar(t *testing.T) {
	g := newRig(t)
	mine, others := g.session("n1"), g.session("n2")
	if again := g.session("n1"); again != mine {
		t.Errorf("another session %s, %s", mine, again)
	}
	chunk := bytes.Repeat([]byte("chunk"), 10000)
	id := image.Sum(chunk)
	encoded := image.NewEncoder().Encode(nil, chunk)
	put := func(session string, id image.ID, size any) string {
		return fmt.Sprintf("n1/capture/%s/chunks/%s?size=%v", session, id, size)
	}
	manifest, _, err := (&image.Manifest{Format: image.ManifestVersion, DiskSize: image.RegionSize, SectorSize: 512, Table: "none"}).Marshal()
	if err != nil {
		t.Logf("the manifest is refused before it is sent: %v", err)
		manifest = []byte("{}")
	}
	large := make([]byte, image.RegionSize+1)
	for _, c := range []struct {
		name, method, path string
		body               []byte
		status             int
		says               string
	}{
		{"wrong ID", "PUT", put(mine, image.Sum([]byte("x")), len(chunk)), encoded, 400, "hashes to"},
		{"wrong size", "PUT", put(mine, id, len(chunk)+1), encoded, 400, "decodes to"},
		{"size smaller than sent", "PUT", put(mine, id, 10), encoded, 413, "too large"},
		{"raw, one byte wrong", "PUT", put(mine, id, len(chunk)), append([]byte("X"), chunk[1:]...), 400, "hashes to"},
		{"unknown encoding", "PUT", put(mine, id, len(chunk)), []byte("LZMA????"), 400, "does not decode"},
		{"cut off", "PUT", put(mine, id, len(chunk)), encoded[:len(encoded)-1], 400, "does not decode"},
		{"empty", "PUT", put(mine, id, len(chunk)), nil, 400, "empty"},
		{"oversize", "PUT", put(mine, id, image.RegionSize), large, 413, "too large"},
		{"size beyond a region", "PUT", put(mine, id, len(large)), encoded, 400, "want 1 to"},
		{"size of nothing", "PUT", put(mine, id, 0), encoded, 400, "want 1 to"},
		{"size of nonsense", "PUT", put(mine, id, "-1e9"), encoded, 400, "want 1 to"},
		{"no ID", "PUT", "n1/capture/" + mine + "/chunks/zz?size=5", encoded, 400, "zz"},
		{"another node's session", "PUT", put(others, id, len(chunk)), encoded, 410, "no more"},
		{"no session", "PUT", put("x", id, len(chunk)), encoded, 410, "no more"},
		{"half an ID", "POST", "n1/capture/" + mine + "/ask", id[:16], 400, "no list"},
		{"nothing asked", "POST", "n1/capture/" + mine + "/ask", nil, 400, "no list"},
		{"too much asked", "POST", "n1/capture/" + mine + "/ask", make([]byte, (api.CaptureAsk+1)*32), 413, "too large"},
		{"image of chunks that are not there", "PUT", fmt.Sprintf("n1/capture/%s/image?manifest=%d", mine, len(manifest)), append(manifest, "map"...), 400, ""},
		{"manifest longer than the body", "PUT", "n1/capture/" + mine + "/image?manifest=100", []byte("{}"), 400, "no manifest"},
		{"manifest of no length", "PUT", "n1/capture/" + mine + "/image", []byte("{}"), 400, "manifest="},
		{"tag of nothing", "POST", "n1/capture/" + mine + "/tag?digest=" + id.String(), nil, 400, "not found"},
		{"tag of nonsense", "POST", "n1/capture/" + mine + "/tag?digest=../../x", nil, 400, "digest="},
	} {
		code, body := g.ask(c.method, c.path, c.body)
		var e api.Error
		if code != c.status || json.Unmarshal([]byte(body), &e) != nil || e.Code == "" || !strings.Contains(e.Message, c.says) {
			t.Errorf("%s: %d %s, want %d with %q", c.name, code, body, c.status, c.says)
		}
	}
	// The session has not suffered.
	for _, want := range []string{`{"added":true}`, `{"added":false}`} {
		if code, body := g.ask("PUT", put(mine, id, len(chunk)), encoded); code != 200 || strings.TrimSpace(body) != want {
			t.Errorf("a good chunk: %d %s, want %s", code, body, want)
		}
	}
	other := image.Sum([]byte("other"))
	if code, body := g.ask("POST", "n1/capture/"+mine+"/ask", append(id[:], other[:]...)); code != 200 || strings.TrimSpace(body) != `{"known":[true,false]}` {
		t.Errorf("asked: %d %s", code, body)
	}
	if code, body := g.ask("POST", "n1/capture/"+mine+"/flush", nil); code != 204 {
		t.Errorf("flush: %d %s", code, body)
	}
	if has, err := g.store.Has(t.Context(), id); err != nil || !has {
		t.Errorf("the good chunk is not in the store: %v", err)
	}
	g.end()
	g.sound()
	if tags, err := g.store.Tags(t.Context()); err != nil || len(tags) > 0 {
		t.Errorf("tags %v, %v", tags, err)
	}
}

// TestIdle: a node that fell silent does not hold gc up for ever, and what it
// sent is kept until gc comes.
func TestIdle(t *testing.T) {
	g := newRig(t)
	synctest.Test(t, func(t *testing.T) {
		server := intake.New(g.store, nil)
		g.server.Store(server)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- server.Run(ctx) }()
		s := g.session("n1")
		chunk := []byte("a chunk")
		id := image.Sum(chunk)
		path := fmt.Sprintf("n1/capture/%s/chunks/%s?size=%d", s, id, len(chunk))
		time.Sleep(29 * time.Minute)
		if code, body := g.ask("PUT", path, chunk); code != 200 {
			t.Errorf("after 29 minutes: %d %s", code, body)
		}
		time.Sleep(32 * time.Minute)
		if code, body := g.ask("PUT", path, chunk); code != http.StatusGone {
			t.Errorf("after an hour: %d %s", code, body)
		}
		if has, err := g.store.Has(t.Context(), id); err != nil || !has {
			t.Errorf("the chunk is lost: %v", err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if r, err := g.store.GC(t.Context(), store.GCOptions{}); err != nil || r.Packs != 1 {
		t.Errorf("gc: %+v, %v", r, err)
	}
}

// TestNewOrder: another order to the same node ends the session of the first.
func TestNewOrder(t *testing.T) {
	g := newRig(t)
	first := g.session("n1")
	g.jobs["n1"] = intake.Job{Node: "n1", Name: "renamed", Serial: 9}
	if code, _ := g.ask("POST", "n1/capture/"+first+"/flush", nil); code != http.StatusGone {
		t.Errorf("the first session answers %d", code)
	}
	if second := g.session("n1"); second == first {
		t.Error("the same session for another order")
	}
	g.end()
}

// TestSilentServer: a capture ends when it is told to, whatever the server does.
func TestSilentServer(t *testing.T) {
	g := newRig(t)
	block := make(chan struct{})
	g.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-block:
		case <-r.Context().Done():
		}
	})
	g.listen()
	defer close(block)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := g.capture(ctx, newDisk(t, 5)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}
