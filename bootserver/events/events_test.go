package events_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"huck/bootserver/events"
	"huck/imager/api"
)

func open(t *testing.T, dir string, max int64) *events.Log {
	t.Helper()
	l, err := events.Open(dir, max, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func messages(t *testing.T, l *events.Log) (got []string) {
	t.Helper()
	if err := l.Read(t.Context(), false, func() {}, func(e api.Event) error { got = append(got, e.Message); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, 0)
	l.Add(api.Event{Type: api.EventServer, Message: "one"})
	l.Add(api.Event{Type: api.EventProgress, Message: "never recorded"})
	l.Close()
	// A power cut in mid-line.
	f, err := os.OpenFile(filepath.Join(dir, "events.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"time":"2026-01-01T00:00:00Z","type":"ser`)
	f.Close()
	l = open(t, dir, 0)
	l.Add(api.Event{Type: api.EventServer, Message: "two"})
	if got := messages(t, l); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("read back %q", got)
	}
}

func TestBounded(t *testing.T) {
	dir := t.TempDir()
	const max = 4000
	l := open(t, dir, max)
	for i := range 500 {
		l.Add(api.Event{Type: api.EventServer, Message: fmt.Sprint(i)})
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if info, _ := f.Info(); info.Size() > max {
			t.Errorf("%s has %d bytes", f.Name(), info.Size())
		}
	}
	got := messages(t, l)
	if len(files) != 2 || len(got) < 40 || got[len(got)-1] != "499" {
		t.Errorf("%d files, %d events, last %v", len(files), len(got), got[len(got)-1])
	}
}

func TestFollowHasNoGap(t *testing.T) {
	l := open(t, t.TempDir(), 3000)
	ctx, cancel := context.WithCancel(t.Context())
	const n = 200
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range n {
			l.Add(api.Event{Type: api.EventServer, Message: fmt.Sprint(i)})
		}
	}()
	var got []string
	err := l.Read(ctx, true, func() {}, func(e api.Event) error {
		got = append(got, e.Message)
		if e.Message == fmt.Sprint(n-1) {
			cancel()
		}
		return nil
	})
	<-written
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(got); i++ {
		var a, b int
		fmt.Sscan(got[i-1], &a)
		fmt.Sscan(got[i], &b)
		if b != a+1 {
			t.Fatalf("event %d follows %d", b, a)
		}
	}
}

func TestSlowFollowerIsCutOff(t *testing.T) {
	l := open(t, t.TempDir(), 0)
	l.Add(api.Event{Type: api.EventServer})
	flooded := false
	err := l.Read(t.Context(), true, func() {}, func(api.Event) error {
		for i := 0; !flooded && i < 5000; i++ { // while we do not read on
			l.Add(api.Event{Type: api.EventProgress})
		}
		flooded = true
		return nil
	})
	if !errors.Is(err, events.ErrSlow) {
		t.Errorf("Read ended with %v", err)
	}
}

func TestReaderEndsWithItsError(t *testing.T) {
	l := open(t, t.TempDir(), 0)
	l.Add(api.Event{Type: api.EventServer, Message: strings.Repeat("x", 1000)})
	stop := errors.New("enough")
	if err := l.Read(t.Context(), false, func() {}, func(api.Event) error { return stop }); err != stop {
		t.Errorf("Read = %v", err)
	}
}
