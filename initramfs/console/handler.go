package console

import (
	"context"
	"log/slog"
	"strings"

	"huck/imager/api"
)

// Handler is a slog.Handler that writes records of level Info and above to a
// console and hands them on as events.
type Handler struct {
	// Print writes a line to the console.
	Print func(format string, args ...any)
	// Event takes the record as an event; nil if nobody wants it.
	Event func(api.Event)

	prefix string // attributes and group of With
	group  string
}

// Enabled implements slog.Handler.
func (h *Handler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// Handle implements slog.Handler.
func (h *Handler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	b.WriteString(h.prefix)
	r.Attrs(func(a slog.Attr) bool { b.WriteString(h.format(a)); return true })
	if r.Level >= slog.LevelWarn {
		h.Print("%s: %s", strings.ToLower(r.Level.String()), b.String())
	} else {
		h.Print("%s", b.String())
	}
	if h.Event != nil {
		h.Event(api.Event{Time: r.Time, Type: api.EventLog, Message: b.String()})
	}
	return nil
}

func (h *Handler) format(a slog.Attr) string {
	v := a.Value.Resolve().String()
	if strings.ContainsAny(v, " \t\n") {
		v = `"` + strings.ReplaceAll(v, "\n", `\n`) + `"`
	}
	return " " + h.group + a.Key + "=" + v
}

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	for _, a := range attrs {
		c.prefix += h.format(a)
	}
	return &c
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	c := *h
	if name != "" {
		c.group += name + "."
	}
	return &c
}
