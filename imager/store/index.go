package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"huck/imager/image"
)

const packSuffix = ".pack"

// index tells where each chunk is. It is the union of the packs' tables, read
// when the store is opened and again when something is missing: about 52 bytes
// of memory a chunk, that is 220 MB for 1 TiB of full-size chunks.
type index struct {
	dir string // the folder of packs

	refreshing sync.Mutex // one refresh at a time; lookups go on meanwhile

	mu  sync.RWMutex
	all *tables
	bad map[string]error // names of unreadable packs and why
}

// tables is what a set of packs says about itself.
type tables struct {
	packs  []pack
	number map[string]int // name → pack number
	chunks *image.Numbers // of the packs' entries, counted through all packs
}

// pack is the table of one.
type pack struct {
	name    string // without suffix
	first   int    // the number of its first entry
	entries []entry
}

func newTables() *tables {
	t := &tables{number: make(map[string]int)}
	t.chunks = image.NewNumbers(0, func(n uint32) *image.ID {
		e, _ := t.entry(n)
		return &e.id
	})
	return t
}

// entry returns the nth of all entries, and the name of its pack.
func (t *tables) entry(n uint32) (e *entry, name string) {
	after := sort.Search(len(t.packs), func(i int) bool { return t.packs[i].first > int(n) })
	p := &t.packs[after-1]
	return &p.entries[int(n)-p.first], p.name
}

// add enters a pack, whose entries it keeps. Of a chunk in several packs the
// first entered counts.
func (t *tables) add(name string, entries []entry) {
	if _, known := t.number[name]; known {
		return
	}
	first := 0
	if n := len(t.packs); n > 0 {
		first = t.packs[n-1].first + len(t.packs[n-1].entries)
	}
	t.number[name] = len(t.packs)
	t.packs = append(t.packs, pack{name, first, entries})
	for i := range entries {
		if _, known := t.chunks.Find(&entries[i].id); !known {
			t.chunks.Set(uint32(first + i))
		}
	}
}

func newIndex(dir string) *index { return &index{dir: dir, all: newTables()} }

// lookup returns where a chunk stands, for reading only, and the name of its
// pack.
func (x *index) lookup(id image.ID) (e *entry, pack string, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	n, ok := x.all.chunks.Find(&id)
	if ok {
		e, pack = x.all.entry(n)
	}
	return e, pack, ok
}

// add enters a new pack.
func (x *index) add(name string, entries []entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.all.add(name, entries)
}

// unreadable returns one of the packs whose table could not be read, and why.
func (x *index) unreadable() (name string, why error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for name, why = range x.bad {
		return name, why
	}
	return "", nil
}

// refresh takes in what other writers and collectors did to the packs. The
// error is about the folder; packs that cannot be read are noted in bad.
func (x *index) refresh() error {
	x.refreshing.Lock()
	defer x.refreshing.Unlock()
	names, err := packNames(x.dir)
	if err != nil {
		return err
	}
	all := x.all // only refresh replaces it
	if x.gone(names) {
		// Chunks that the lost pack had may stand in another: start anew, and
		// aside, for those who look up meanwhile.
		all = newTables()
	}
	fresh := x.unknown(all, names)
	entries := make([][]entry, len(fresh))
	why := make([]error, len(fresh))
	var g errgroup.Group
	g.SetLimit(8) // reads that overlap, where each would wait for a seek
	for i, name := range fresh {
		g.Go(func() error {
			entries[i], why[i] = loadTable(x.dir, name)
			return nil
		})
	}
	g.Wait() // its functions return no error
	x.mu.Lock()
	defer x.mu.Unlock()
	x.bad = make(map[string]error)
	for i, name := range fresh {
		switch {
		case why[i] == nil:
			all.add(name, entries[i])
		case !errors.Is(why[i], fs.ErrNotExist): // else collected meanwhile
			x.bad[name] = why[i]
		}
	}
	x.all = all
	return nil
}

// gone reports whether a pack that was entered has gone. One that is not among
// names may have come after these were listed, so it looks again.
func (x *index) gone(names []string) bool {
	there := make(map[string]bool, len(names))
	for _, n := range names {
		there[n] = true
	}
	x.mu.RLock()
	entered := x.all.packs[:len(x.all.packs):len(x.all.packs)]
	x.mu.RUnlock()
	for _, p := range entered {
		if there[p.name] {
			continue
		}
		if _, err := os.Lstat(filepath.Join(x.dir, p.name+packSuffix)); errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// unknown returns the names that t has not.
func (x *index) unknown(t *tables, names []string) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var fresh []string
	for _, n := range names {
		if _, known := t.number[n]; !known {
			fresh = append(fresh, n)
		}
	}
	return fresh
}

// packNames returns the names, without suffix, of the packs in dir.
func packNames(dir string) ([]string, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("store: list packs: %w", err)
	}
	var names []string
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), packSuffix); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// loadTable reads the table of a pack and checks that it has the pack's name.
func loadTable(dir, name string) ([]entry, error) {
	f, err := os.Open(filepath.Join(dir, name+packSuffix))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	entries, id, err := readTable(f, info.Size())
	if err == nil && id.String() != name {
		err = fmt.Errorf("its table is that of %s: %w", id.Short(), errPack)
	}
	return entries, err
}

// each calls f for where every chunk stands.
func (x *index) each(f func(*entry)) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, p := range x.all.packs {
		for i := range p.entries {
			if n, _ := x.all.chunks.Find(&p.entries[i].id); int(n) == p.first+i {
				f(&p.entries[i])
			}
		}
	}
}

// len returns the number of distinct chunks.
func (x *index) len() int64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return int64(x.all.chunks.Len())
}
