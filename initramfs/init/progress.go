package main

import (
	"context"
	"reflect"
	"sync"
	"time"

	"huck/imager/api"
	"huck/initramfs/steps"
)

// tracker watches an installation's progress, for the console, the server and
// the limit on silence.
type tracker struct {
	b     *boot
	alive func()
	path  string
	step  string

	mu   sync.Mutex
	last api.Progress
	at   time.Time // when last changed
	told time.Time
	done int64   // when told
	rate float64 // bytes a second

	wrote bool
}

// every is the least time between two progress lines, or two progress events;
// but that the first bytes are on the disk is told at once.
const every = 2 * time.Second

// progress takes what install reports, a few times a second.
func (t *tracker) progress(p api.Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if !reflect.DeepEqual(p, t.last) {
		t.last, t.at = p, now
		t.alive()
	}
	first := !t.wrote && p.Written > 0
	t.wrote = t.wrote || first
	if now.Sub(t.told) < every && !first {
		return
	}
	if done := p.Written + p.InPlace; !t.told.IsZero() && !first {
		t.rate = smooth(t.rate, float64(done-t.done)/now.Sub(t.told).Seconds())
	}
	t.told, t.done = now, p.Written+p.InPlace
	p.Rate = int64(t.rate)
	t.b.tick("%s %s: %s", steps.Uptime(), t.step, p)
	t.b.run.Event(api.Event{Type: api.EventProgress, Step: t.step, Progress: &p})
}

// watching runs watch until the function that it returns is called.
func (t *tracker) watching(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); t.watch(ctx) }()
	return func() { cancel(); <-ended }
}

// smooth takes a new rate into account, so that what it means for the time
// left does not jump; the first one counts alone.
func smooth(rate, now float64) float64 {
	if rate == 0 {
		return now
	}
	return 0.7*rate + 0.3*now
}

// watch takes work of the disk for a sign of life where no progress is
// reported: reading back, discarding, the last sync.
func (t *tracker) watch(ctx context.Context) {
	last := ""
	for steps.Sleep(ctx, every) == nil {
		if a := t.b.m.Activity(t.path); a != last {
			last = a
			t.alive()
		}
	}
}

// sinceChange is the time since progress last changed.
func (t *tracker) sinceChange() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at.IsZero() {
		return 0
	}
	return time.Since(t.at)
}
