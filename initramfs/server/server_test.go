package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"huck/imager/api"
	"huck/initramfs/server"
)

// fake is a boot server with state that a restart loses.
type fake struct {
	mu            sync.Mutex
	token         string
	registrations int
	events        []api.Event
	down          bool
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fail := func(status int, code string) {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(api.Error{Code: code, Message: "no: " + code})
	}
	switch {
	case f.down:
		http.Error(w, "proxy says no", http.StatusBadGateway)
	case r.Method == "POST" && r.URL.Path == "/v1/nodes":
		f.registrations++
		f.token = fmt.Sprintf("t%d", f.registrations)
		json.NewEncoder(w).Encode(api.Registered{Node: "52-54", Token: f.token})
	case r.Header.Get("Authorization") != "Bearer "+f.token:
		fail(401, "unauthorized")
	case r.URL.Path == "/v1/nodes/52-54/assignment":
		json.NewEncoder(w).Encode(api.Assignment{Serial: 7, Action: api.ActionInstall, Ref: "after=" + r.FormValue("after")})
	case r.URL.Path == "/v1/nodes/52-54/events":
		var got []api.Event
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			fail(400, "bad_request")
			return
		}
		f.events = append(f.events, got...)
		w.WriteHeader(204)
	default:
		fail(404, "not_found")
	}
}

func (f *fake) set(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func start(t *testing.T) (*fake, *server.Client) {
	f := &fake{}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	u, _ := url.Parse(s.URL)
	return f, server.New(u, func() api.Inventory { return api.Inventory{BootID: "b"} })
}

func TestClient(t *testing.T) {
	f, c := start(t)
	ctx := t.Context()
	reg, err := c.Register(ctx)
	if err != nil || reg.Node != "52-54" || c.Node() != "52-54" {
		t.Fatal(reg, err)
	}
	a, err := c.Assignment(ctx, 3)
	if err != nil || a.Serial != 7 || a.Ref != "after=3" {
		t.Fatal(a, err)
	}
	// A server that forgot us: we register again, and the body goes twice.
	f.set(func() { f.token = "forgotten" })
	if err := c.Post(ctx, []api.Event{{Type: api.EventLog, Message: "hello"}}); err != nil {
		t.Fatal(err)
	}
	if f.registrations != 2 || len(f.events) != 1 || f.events[0].Message != "hello" {
		t.Fatalf("%d registrations, events %+v", f.registrations, f.events)
	}
	// Many at once register once.
	f.set(func() { f.token = "forgotten" })
	var wg sync.WaitGroup
	var failed atomic.Int32
	for range 8 {
		wg.Go(func() {
			if _, err := c.Assignment(ctx, 0); err != nil {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	if f.registrations != 3 || failed.Load() > 0 {
		t.Fatalf("%d registrations, %d failed", f.registrations, failed.Load())
	}
	f.set(func() { f.down = true })
	_, err = c.Assignment(ctx, 0)
	if err == nil || server.Permanent(err) || !strings.Contains(err.Error(), "502") {
		t.Fatalf("error %v, want a passing one that names 502", err)
	}
}

func TestTokenStaysHome(t *testing.T) {
	_, c := start(t)
	if _, err := c.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Header.Get("Authorization"))
	}))
	defer other.Close()
	resp, err := c.HTTP().Get(other.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); len(b) > 0 {
		t.Errorf("another server was told %q", b)
	}
}

func TestPermanent(t *testing.T) {
	for code, want := range map[string]bool{"not_found": true, "corrupt": true, "bad_request": true, "internal": false, "unauthorized": false} {
		if got := server.Permanent(fmt.Errorf("x: %w", &api.Error{Code: code})); got != want {
			t.Errorf("%s: %v, want %v", code, got, want)
		}
	}
	if server.Permanent(errors.New("connection refused")) {
		t.Error("connection refused is permanent")
	}
}

func message(i int) api.Event { return api.Event{Type: api.EventLog, Message: fmt.Sprint(i)} }

// TestQueueAway: nothing is lost or reordered while the server is away, adding
// never waits, and Flush tells when all have arrived.
func TestQueueAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := server.NewQueue("boot", nil)
		var got []api.Event
		back := time.Now().Add(time.Minute)
		post := func(ctx context.Context, events []api.Event) error {
			if time.Now().Before(back) {
				return errors.New("connection refused")
			}
			got = append(got, events...)
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); q.Run(ctx, post) }()
		for i := range 1000 {
			q.Add(message(i))
		}
		short, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		if err := q.Flush(short); err == nil || !strings.Contains(err.Error(), "1000 events") {
			t.Errorf("flush while away: %v", err)
		}
		if err := q.Flush(ctx); err != nil {
			t.Error(err)
		}
		if late := time.Since(back); late > 10*time.Second {
			t.Errorf("delivered %v after the server came back", late)
		}
		cancel()
		<-done
		if len(got) != 1000 {
			t.Fatalf("%d events", len(got))
		}
		for i, e := range got {
			if e.Message != fmt.Sprint(i) || e.Boot != "boot" || e.Time.IsZero() {
				t.Fatalf("event %d is %+v", i, e)
			}
		}
	})
}

// TestQueueInFlight: what is added or forgotten while a request is under way
// neither gets lost nor counts as delivered.
func TestQueueInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := server.NewQueue("boot", nil)
		release := make(chan struct{})
		var got []api.Event
		post := func(ctx context.Context, events []api.Event) error {
			<-release
			got = append(got, events...)
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); q.Run(ctx, post) }()
		progress := func(n int64) { q.Add(api.Event{Type: api.EventProgress, Progress: &api.Progress{Written: n}}) }
		progress(1)
		synctest.Wait() // 1 is under way
		progress(2)
		progress(3) // replaces 2
		close(release)
		if err := q.Flush(ctx); err != nil {
			t.Error(err)
		}
		cancel()
		<-done
		if len(got) != 2 || got[0].Progress.Written != 1 || got[1].Progress.Written != 3 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestQueueFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := server.NewQueue("boot", nil)
		for i := range 5000 {
			q.Add(message(i))
		}
		var got []api.Event
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			q.Run(ctx, func(_ context.Context, e []api.Event) error { got = append(got, e...); return nil })
		}()
		if err := q.Flush(ctx); err != nil {
			t.Error(err)
		}
		cancel()
		<-done
		if len(got) != 4096 || !strings.Contains(got[0].Message, "905 events lost") || got[4095].Message != "4999" {
			t.Errorf("%d events, first %q, last %q", len(got), got[0].Message, got[len(got)-1].Message)
		}
	})
}

// TestQueueRefused: events that the server will never take do not stop those
// behind them, and Flush says so.
func TestQueueRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := server.NewQueue("boot", nil)
		first := true
		post := func(context.Context, []api.Event) error {
			if first {
				first = false
				return &api.Error{Code: "bad_request", Message: "no such type"}
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		q.Add(message(1))
		flushed := make(chan error)
		go func() { flushed <- q.Flush(ctx) }()
		synctest.Wait()
		go func() { defer close(done); q.Run(ctx, post) }()
		if err := <-flushed; err == nil || !strings.Contains(err.Error(), "no such type") {
			t.Errorf("flush: %v", err)
		}
		q.Add(message(2))
		if err := q.Flush(ctx); err != nil {
			t.Error(err)
		}
		cancel()
		<-done
	})
}

// TestQueueSpool: events that a crash left unsent go with the next queue, those
// that were sent do not go twice, and progress is not worth it.
func TestQueueSpool(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	var got []string
	send := func(q *server.Queue) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			q.Run(ctx, func(_ context.Context, events []api.Event) error {
				for _, e := range events {
					got = append(got, e.Boot+" "+e.Message)
				}
				return nil
			})
		}()
		if err := q.Flush(ctx); err != nil {
			t.Error(err)
		}
		cancel()
		<-done
	}
	open := func() *server.Queue {
		q := server.NewQueue("boot", nil)
		if err := q.Spool(path); err != nil {
			t.Fatal(err)
		}
		return q
	}
	first := open()
	first.Add(message(1))
	send(first)
	first.Add(message(2))
	first.Add(api.Event{Type: api.EventProgress, Message: "progress"})
	first.Add(message(3)) // and then it crashes, in the middle of the next
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"time":"20`)
	f.Close()
	open() // crashes at once
	send(open())
	if want := []string{"boot 1", "boot 2", "boot 3"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	if b, err := os.ReadFile(path); err != nil || len(b) > 0 {
		t.Errorf("the spool keeps %q, %v", b, err)
	}
	if err := server.NewQueue("boot", nil).Spool(t.TempDir()); err == nil {
		t.Error("a folder is taken for a spool")
	}
}
