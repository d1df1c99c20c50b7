package site

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"sync"

	"huck/imager/api"
	"huck/qemu-tests/proc"
)

var (
	readyLine = regexp.MustCompile(`(?m)^\{.*"event":"ready".*\}$`)
	wholeLine = regexp.MustCompile(`([^\n]*)\n`)
)

// lines splits output into its lines without the empty ones.
func lines(out []byte) [][]byte {
	return slices.DeleteFunc(bytes.Split(out, []byte("\n")), func(l []byte) bool { return len(bytes.TrimSpace(l)) == 0 })
}

// lastLine returns the last line of output.
func lastLine(out []byte) []byte {
	if all := lines(out); len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// Events collects what `bootserver events --follow --json` prints, over
// restarts of the server; what a restarted server repeats counts once.
type Events struct {
	readers sync.WaitGroup
	seen    map[string]bool // lines; belongs to the one reader at a time

	mu      sync.Mutex
	list    []api.Event
	changed chan struct{}
}

func newEvents() *Events { return &Events{seen: make(map[string]bool), changed: make(chan struct{})} }

// read takes over the output of a follower until it ends; wait waits for that.
func (e *Events) read(follow *proc.Proc) {
	e.readers.Go(func() {
		for at := 0; ; {
			line, next, err := follow.Stdout.Wait(context.Background(), wholeLine, at)
			if err != nil {
				return // the follower ended
			}
			at = next
			if e.seen[line[1]] {
				continue
			}
			e.seen[line[1]] = true
			var event api.Event
			if json.Unmarshal([]byte(line[1]), &event) == nil {
				e.add(event)
			}
		}
	})
}

func (e *Events) wait() { e.readers.Wait() }

func (e *Events) add(event api.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, event)
	close(e.changed)
	e.changed = make(chan struct{})
}

// Len returns the number of events so far, a position to Wait from.
func (e *Events) Len() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.list)
}

// Since returns the events from position from on.
func (e *Events) Since(from int) []api.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.list[min(from, len(e.list)):])
}

// Wait waits for an event that match accepts, looking from position from on,
// and returns it with the position after it. What says what is waited for.
func (e *Events) Wait(ctx context.Context, from int, what string, match func(api.Event) bool) (api.Event, int, error) {
	for {
		e.mu.Lock()
		news, changed := e.list[min(from, len(e.list)):], e.changed
		e.mu.Unlock()
		for i, event := range news {
			if match(event) {
				return event, from + i + 1, nil
			}
		}
		from += len(news)
		select {
		case <-changed:
		case <-ctx.Done():
			return api.Event{}, 0, fmt.Errorf("site: wait for the event %s: %w", what, context.Cause(ctx))
		}
	}
}
