package site

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// PlainLog returns a logger for people: the message, then its attributes.
func PlainLog(w io.Writer) *slog.Logger { return slog.New(&plain{w: w}) }

type plain struct {
	mu sync.Mutex
	w  io.Writer
}

// Enabled implements slog.Handler.
func (p *plain) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// Handle implements slog.Handler.
func (p *plain) Handle(_ context.Context, r slog.Record) error {
	var line strings.Builder
	line.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&line, "  %s=%v", a.Key, a.Value); return true })
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := fmt.Fprintln(p.w, line.String())
	return err
}

// WithAttrs implements slog.Handler; nobody here uses it.
func (p *plain) WithAttrs([]slog.Attr) slog.Handler { return p }

// WithGroup implements slog.Handler; nobody here uses it.
func (p *plain) WithGroup(string) slog.Handler { return p }
