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
	mu   sync.Mutex
	set  func(done, total int64, words string)
	stop func()
}

// progress begins to show a job of that name. The caller must call Stop.
func (u *ui) progress(name string) *progress {
	switch {
	case u.quiet:
		return &progress{set: func(int64, int64, string) {}, stop: func() {}}
	case u.json:
		return &progress{set: everyLine(u.env.Stderr, func(done, total int64, words string) string {
			b, _ := json.Marshal(struct { // cannot fail: three plain fields
				Event string `json:"event"`
				Job   string `json:"job"`
				Done  int64  `json:"done"`
				Total int64  `json:"total"`
			}{"progress", name, done, total})
			return string(b)
		}), stop: func() {}}
	case !u.env.Terminal:
		return &progress{set: everyLine(u.env.Stderr, func(done, total int64, words string) string {
			return fmt.Sprintf("%s: %s of %s (%d %%)%s", name, size(done), size(total), percent(done, total), words)
		}), stop: func() {}}
	}
	return u.bar(name)
}

func (u *ui) bar(name string) *progress {
	p := mpb.New(mpb.WithOutput(u.env.Stderr), mpb.WithWidth(80), mpb.WithAutoRefresh())
	words := ""
	var mu sync.Mutex
	b := p.AddBar(0,
		mpb.PrependDecorators(decor.Name(name+" "), decor.CountersKibiByte("% .1f / % .1f")),
		mpb.AppendDecorators(decor.Percentage(), decor.Name(" "), decor.Elapsed(decor.ET_STYLE_MMSS),
			decor.Any(func(decor.Statistics) string { mu.Lock(); defer mu.Unlock(); return words })))
	return &progress{
		set: func(done, total int64, w string) {
			mu.Lock()
			words = w
			mu.Unlock()
			b.SetTotal(total, false)
			b.SetCurrent(done)
		},
		stop: func() {
			b.Abort(false)
			p.Wait()
		},
	}
}

// everyLine prints at most one line each lineEvery.
func everyLine(w io.Writer, line func(done, total int64, words string) string) func(int64, int64, string) {
	last := time.Now()
	return func(done, total int64, words string) {
		if time.Since(last) < lineEvery {
			return
		}
		last = time.Now()
		fmt.Fprintln(w, line(done, total, words)) // nothing can be done about a stderr that is gone
	}
}

// Set tells that done of total bytes are done; words follow them on the line.
func (p *progress) Set(done, total int64, words string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(done, total, words)
}

// Install shows the progress of an installation.
func (p *progress) Install(s api.Progress) {
	p.Set(s.InPlace+s.Written, s.Total, fmt.Sprintf(", %s in place", size(s.InPlace)))
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
