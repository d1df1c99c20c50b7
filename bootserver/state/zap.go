package state

import (
	"context"
	"log/slog"

	"go.uber.org/zap/zapcore"
)

// zapCore passes etcd's log records on to slog, one level lower each: what
// etcd calls information is of interest only to who debugs etcd, and it warns
// of things that are normal here, such as having no listener.
type zapCore struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.DPanicLevel:
		return slog.LevelError
	case l == zapcore.ErrorLevel:
		return slog.LevelWarn
	case l == zapcore.WarnLevel:
		return slog.LevelDebug
	}
	return slog.LevelDebug - 4
}

// Enabled implements zapcore.LevelEnabler.
func (c zapCore) Enabled(l zapcore.Level) bool {
	return c.log.Enabled(context.Background(), level(l))
}

// With implements zapcore.Core.
func (c zapCore) With(f []zapcore.Field) zapcore.Core {
	return zapCore{c.log, append(c.fields[:len(c.fields):len(c.fields)], f...)}
}

// Check implements zapcore.Core.
func (c zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c zapCore) Write(e zapcore.Entry, f []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, x := range append(c.fields[:len(c.fields):len(c.fields)], f...) {
		x.AddTo(enc)
	}
	attrs := make([]slog.Attr, 0, len(enc.Fields)+1)
	for k, v := range enc.Fields {
		attrs = append(attrs, slog.Any(k, v))
	}
	c.log.LogAttrs(context.Background(), level(e.Level), "etcd: "+e.Message, attrs...)
	return nil
}

// Sync implements zapcore.Core.
func (c zapCore) Sync() error { return nil }
