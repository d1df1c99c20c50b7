package calm_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"huck/bootserver/calm"
)

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	h := calm.Logger(slog.New(slog.NewTextHandler(&out, nil)), calm.NewBucket(3, 2)).With("mac", "a").Handler()
	now := time.Unix(1000, 0)
	say := func(level slog.Level) {
		t.Helper()
		if err := h.Handle(context.Background(), slog.NewRecord(now, level, "said", 0)); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		say(slog.LevelInfo)
	}
	say(slog.LevelError)
	if got := strings.Count(out.String(), "msg=said mac=a"); got != 4 {
		t.Errorf("%d records of a burst of 100 and an error:\n%s", got, &out)
	}
	now = now.Add(time.Second)
	for range 10 {
		say(slog.LevelWarn)
	}
	if got := strings.Count(out.String(), "msg=said"); got != 6 || !strings.Contains(out.String(), "left out\" mac=a count=97") {
		t.Errorf("a second later:\n%s", &out)
	}
	now = now.Add(-time.Hour) // a clock that is set back
	say(slog.LevelInfo)
	now = now.Add(time.Hour)
	say(slog.LevelInfo)
	if got := strings.Count(out.String(), "msg=said"); got != 7 {
		t.Errorf("%d records in all", got)
	}
}
