package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"huck/imager/api"
)

// ui talks to people and scripts: results on stdout, progress and logs on
// stderr. On a terminal progress is a bar, elsewhere a plain line now and
// then, with --json one JSON value a line.
type ui struct {
	env         Env
	json, quiet bool
}

// lineEvery is how often progress is told where nothing can be redrawn.
const lineEvery = 2 * time.Second

func (u *ui) logger(level slog.Level) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if u.json {
		return slog.New(slog.NewJSONHandler(u.env.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(u.env.Stderr, opts))
}

// result prints what a command found or did: v as one line of JSON with
// --json, else the words.
func (u *ui) result(v any, format string, a ...any) error {
	if u.json {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(u.env.Stdout, "%s\n", b)
		return err
	}
	_, err := fmt.Fprintf(u.env.Stdout, format+"\n", a...)
	return err
}

// progress shows how far a job is.
type progress struct {
	job  string
	mu   sync.Mutex
	set  func(moment)
	stop func()
}

// moment is how far a job is, or one step of it that goes before or after
// the job proper and has bytes of its own. Its JSON is a line of --json.
type moment struct {
	Event string `json:"event"` // progress
	Job   string `json:"job"`
	Step  string `json:"step,omitempty"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
	words string
}

// name is what people are told is going on.
func (m moment) name() string {
	if m.Step == "" {
		return m.Job
	}
	return m.Job + ", " + m.Step
}

// progress begins to show a job of that name. The caller must call Stop.
func (u *ui) progress(name string) *progress {
	p := &progress{job: name, set: func(moment) {}, stop: func() {}}
	switch {
	case u.quiet:
	case u.json:
		p.set = everyLine(u.env.Stderr, func(m moment) string {
			b, _ := json.Marshal(m) // cannot fail: plain fields
			return string(b)
		})
	case !u.env.Terminal:
		p.set = everyLine(u.env.Stderr, func(m moment) string {
			return fmt.Sprintf("%s: %s of %s (%d %%)%s", m.name(), size(m.Done), size(m.Total), percent(m.Done, m.Total), m.words)
		})
	default:
		p.set, p.stop = u.bar(name)
	}
	return p
}

func (u *ui) bar(name string) (set func(moment), stop func()) {
	p := mpb.New(mpb.WithOutput(u.env.Stderr), mpb.WithWidth(80), mpb.WithAutoRefresh())
	now := moment{Job: name}
	var mu sync.Mutex
	b := p.AddBar(0,
		mpb.PrependDecorators(
			decor.Any(func(decor.Statistics) string { mu.Lock(); defer mu.Unlock(); return now.name() + " " }),
			decor.CountersKibiByte("% .1f / % .1f")),
		mpb.AppendDecorators(decor.Percentage(), decor.Name(" "), decor.Elapsed(decor.ET_STYLE_MMSS),
			decor.Any(func(decor.Statistics) string { mu.Lock(); defer mu.Unlock(); return now.words })))
	set = func(m moment) {
		mu.Lock()
		now = m
		mu.Unlock()
		b.SetTotal(m.Total, false)
		b.SetCurrent(m.Done)
	}
	return set, func() {
		b.Abort(false)
		p.Wait()
	}
}

// everyLine prints at most one line each lineEvery.
func everyLine(w io.Writer, line func(moment) string) func(moment) {
	last := time.Now()
	return func(m moment) {
		if time.Since(last) < lineEvery {
			return
		}
		last = time.Now()
		fmt.Fprintln(w, line(m)) // nothing can be done about a stderr that is gone
	}
}

func (p *progress) show(m moment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.Event, m.Job = "progress", p.job
	p.set(m)
}

// Step returns what shows the bytes done and to do of a step of the job, or of
// the job itself if step is empty.
func (p *progress) Step(step string) func(done, total int64) {
	return func(done, total int64) { p.show(moment{Step: step, Done: done, Total: total}) }
}

// Install shows the progress of an installation.
func (p *progress) Install(s api.Progress) {
	p.show(moment{Done: s.InPlace + s.Written, Total: s.Total, words: fmt.Sprintf(", %s in place", size(s.InPlace))})
}

// Stop ends the showing.
func (p *progress) Stop() { p.stop() }

func percent(done, total int64) int64 {
	if total <= 0 {
		return 0
	}
	return min(done*100/total, 100)
}

// size is a number of bytes for people, in powers of 1024.
func size(n int64) string {
	f, unit := float64(n), 0
	for f >= 1024 && unit < 4 {
		f /= 1024
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGT"[unit-1])
}
