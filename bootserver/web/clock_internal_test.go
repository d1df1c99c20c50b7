package web

import (
	"testing"
	"time"

	"huck/imager/api"
)

func TestSetClock(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	wrong := now.Add(-12 * time.Hour) // what the node takes for now
	happened := wrong.Add(-3 * time.Second)
	for sent, want := range map[string]time.Time{
		wrong.Format(time.RFC3339Nano): now.Add(-3 * time.Second),
		"":                             happened,
		"yesterday":                    happened,
	} {
		list := []api.Event{{Time: happened}}
		if setClock(list, sent, now); !list[0].Time.Equal(want) {
			t.Errorf("sent %q: %s, want %s", sent, list[0].Time, want)
		}
	}
}
