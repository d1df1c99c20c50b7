package archive_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"huck/imager/archive"
	"huck/imager/store"
)

// told is what was told of progress.
type told struct {
	calls       int
	done, total int64
	back        bool // it went back, past its total, or that changed
}

func (p *told) tell(done, total int64) {
	p.back = p.back || done < p.done || done > total || p.calls > 0 && total != p.total
	p.calls++
	p.done, p.total = done, total
}

// check insists on progress from the beginning to the end of these bytes.
func (p *told) check(t *testing.T, least, most int64) {
	t.Helper()
	if p.calls < 2 || p.back || p.done != p.total || p.total < least || p.total > most {
		t.Errorf("progress %+v, want the whole of %d to %d bytes", *p, least, most)
	}
}

// checkUnpacking imports a file of which so many bytes are unpacked, and once
// more to be interrupted meanwhile.
func checkUnpacking(t *testing.T, s *store.Dir, file string, least, most int64) {
	t.Helper()
	var p told
	temp := t.TempDir()
	cfg := archive.ImportConfig{Store: s, Name: "told", TempDir: temp, Unpacking: p.tell}
	cfg.Progress = func(int64, int64) {
		if p.done != p.total {
			t.Errorf("the disk is captured when %d of %d bytes are unpacked", p.done, p.total)
		}
	}
	if _, err := archive.Import(t.Context(), file, cfg); err != nil {
		t.Fatal(err)
	}
	p.check(t, least, most)
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Name, cfg.Unpacking = "interrupted", func(int64, int64) { cancel() }
	if r, err := archive.Import(ctx, file, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %+v, %v", r, err)
	}
	leftovers(t, temp)
}

// sizes is how many bytes the files of a pattern have.
func sizes(t *testing.T, pattern string) (sum int64) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		sum += st.Size()
	}
	return sum
}
