package store

import (
	"fmt"
	"os"
	"path/filepath"
)

// packProgress counts the bytes of packs that were gone through.
type packProgress struct {
	report      func(done, total int64)
	left        map[string]int64 // of each pack
	done, total int64
}

// newPackProgress begins to count for the packs of these names in dir. A nil report is
// none.
func newPackProgress(dir string, names []string, report func(done, total int64)) (*packProgress, error) {
	if report == nil {
		report = func(int64, int64) {}
	}
	p := &packProgress{report: report, left: make(map[string]int64)}
	for _, name := range names {
		info, err := os.Stat(filepath.Join(dir, name+packSuffix))
		if err != nil {
			return nil, fmt.Errorf("store: size of pack %s: %w", shortName(name), err)
		}
		p.left[name] = info.Size()
		p.total += info.Size()
	}
	return p, nil
}

// read says that n bytes of a pack were.
func (p *packProgress) read(name string, n int64) {
	p.left[name] -= n
	p.done += n
	p.report(p.done, p.total)
}

// passed says that nothing remains to be done with a pack.
func (p *packProgress) passed(name string) { p.read(name, p.left[name]) }
