// Package calm keeps what strangers can make us say within bounds: whoever can
// send a packet can otherwise fill a log.
package calm

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Bucket lets a burst through, and then so many a second.
type Bucket struct {
	burst, perSecond float64

	mu      sync.Mutex
	full    float64
	filled  time.Time
	dropped int
}

// NewBucket is full at first.
func NewBucket(burst, perSecond float64) *Bucket {
	return &Bucket{burst: burst, perSecond: perSecond, full: burst}
}

// Take reports whether one more may pass at now, and how many were held back
// since the last that did.
func (b *Bucket) Take(now time.Time) (ok bool, dropped int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.filled.IsZero() {
		b.full = min(b.burst, b.full+b.perSecond*max(0, now.Sub(b.filled).Seconds()))
	}
	b.filled = now
	if b.full < 1 {
		b.dropped++
		return false, 0
	}
	b.full--
	dropped, b.dropped = b.dropped, 0
	return true, dropped
}

// handler is a slog.Handler with a bucket that its children share.
type handler struct {
	slog.Handler
	bucket *Bucket
}

// Logger is log within the bucket's bounds; errors always pass. What was left
// out is counted in a record of its own.
func Logger(log *slog.Logger, b *Bucket) *slog.Logger {
	return slog.New(handler{log.Handler(), b})
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		return h.Handler.Handle(ctx, r)
	}
	ok, dropped := h.bucket.Take(r.Time)
	if !ok {
		return nil
	}
	if dropped > 0 {
		left := slog.NewRecord(r.Time, slog.LevelWarn, "too much to log: messages left out", 0)
		left.AddAttrs(slog.Int("count", dropped))
		if err := h.Handler.Handle(ctx, left); err != nil {
			return err
		}
	}
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs), h.bucket}
}

func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.Handler.WithGroup(name), h.bucket}
}
