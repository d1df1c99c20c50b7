package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"huck/imager/api"
)

const (
	// maxQueue bounds the events kept for a server that is away: some 300 bytes each.
	maxQueue = 4096
	// maxBatch bounds the events of one request.
	maxBatch = 256
	// maxPause is the longest pause before trying again.
	maxPause = 5 * time.Second
)

// Queue keeps events until a server has them. Adding never blocks; the zero
// value is not usable.
type Queue struct {
	boot string
	log  *slog.Logger

	mu sync.Mutex
	// events wait to be sent; the first sent of all that ever were have left.
	events []api.Event
	sent   uint64
	// flying of them are in a request now; lost had to be forgotten unsent.
	flying int
	lost   int
	// refused is the server's word on events it will never take.
	refused error
	// moved is closed and replaced whenever events or sent change.
	moved chan struct{}
	// spool has the events that wait, for whoever comes after a crash; nil for none.
	spool *os.File
}

// NewQueue returns an empty queue whose events carry the given BootID. The log
// must not end in the queue itself.
func NewQueue(boot string, log *slog.Logger) *Queue {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Queue{boot: boot, log: log, moved: make(chan struct{})}
}

// Add takes an event. A progress event replaces one that still waits. When the
// queue is full the oldest event is lost, and the loss is told.
func (q *Queue) Add(e api.Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Boot = q.boot
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.events); n > q.flying && e.Type == api.EventProgress && q.events[n-1].Type == api.EventProgress {
		q.events[n-1] = e
		return
	}
	if len(q.events) == maxQueue {
		q.drop(1)
		q.lost++
	}
	q.events = append(q.events, e)
	q.keep(e)
	q.signal()
}

// maxSpool bounds the spool: it is in memory, as all files of an appliance.
const maxSpool = 4 << 20

// Spool takes over the events that another queue of this boot had in the file
// at path when it ended, and keeps its own there until they have left.
func (q *Queue) Spool(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("server: spool: %w", err)
	}
	var left []api.Event
	for d := json.NewDecoder(io.LimitReader(f, maxSpool)); ; {
		var e api.Event
		if d.Decode(&e) != nil { // the end, or cut off by the crash
			break
		}
		left = append(left, e)
	}
	if err := f.Truncate(0); err != nil {
		return errors.Join(fmt.Errorf("server: spool: %w", err), f.Close())
	}
	q.mu.Lock()
	q.spool = f
	q.mu.Unlock()
	for _, e := range left {
		q.Add(e)
	}
	return nil
}

// keep writes an event to the spool; the lock is held. One that cannot be
// written is not kept: there is nobody to tell.
func (q *Queue) keep(e api.Event) {
	if q.spool == nil || e.Type == api.EventProgress {
		return
	}
	if at, err := q.spool.Seek(0, io.SeekEnd); err != nil || at > maxSpool {
		return
	}
	if b, err := json.Marshal(e); err == nil {
		_, _ = q.spool.Write(append(b, '\n'))
	}
}

// drop forgets the first n events; the lock is held.
func (q *Queue) drop(n int) {
	q.events = append(q.events[:0], q.events[n:]...)
	q.sent += uint64(n)
	q.flying = max(0, q.flying-n)
}

func (q *Queue) signal() {
	close(q.moved)
	q.moved = make(chan struct{})
}

// Run sends events through post until ctx is done. It resends what post did
// not take, unless the server refused it for good.
func (q *Queue) Run(ctx context.Context, post func(context.Context, []api.Event) error) {
	pause := 100 * time.Millisecond
	for {
		batch, first, err := q.wait(ctx)
		if err != nil {
			return
		}
		err = post(ctx, batch)
		if ctx.Err() != nil {
			return
		}
		if err == nil || Permanent(err) {
			q.done(first+uint64(len(batch)), err)
			pause = 100 * time.Millisecond
			if err != nil {
				q.log.Warn("events refused", "count", len(batch), "err", err)
			}
			continue
		}
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		pause = min(2*pause, maxPause)
	}
}

// wait returns the next batch and how many events were sent before it.
func (q *Queue) wait(ctx context.Context) ([]api.Event, uint64, error) {
	for {
		q.mu.Lock()
		if q.lost > 0 {
			// It takes the place of the oldest, which counts as lost, too.
			q.events[0] = api.Event{Time: time.Now(), Boot: q.boot, Type: api.EventLog, Message: fmt.Sprintf("%d events lost: the server was away for too long", q.lost+1)}
			q.lost = 0
		}
		batch := append([]api.Event(nil), q.events[:min(len(q.events), maxBatch)]...)
		first, moved := q.sent, q.moved
		q.flying = len(batch)
		q.mu.Unlock()
		if len(batch) > 0 {
			return batch, first, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

// done notes that all events before the given one have left, or were refused.
func (q *Queue) done(upto uint64, refused error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if refused != nil {
		q.refused = refused
	}
	if upto > q.sent {
		q.drop(int(upto - q.sent))
		if q.spool != nil && len(q.events) == 0 {
			_ = q.spool.Truncate(0) // else some are told twice after a crash
		}
		q.signal()
	}
}

// Flush waits until all events added so far have left. It is an error if the
// server refused any meanwhile.
func (q *Queue) Flush(ctx context.Context) error {
	q.mu.Lock()
	upto := q.sent + uint64(len(q.events))
	q.refused = nil
	q.mu.Unlock()
	for {
		q.mu.Lock()
		sent, moved, refused := q.sent, q.moved, q.refused
		q.mu.Unlock()
		if sent >= upto {
			return refused
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("server: %d events not delivered: %w", upto-sent, ctx.Err())
		}
	}
}
