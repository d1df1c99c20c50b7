// Package storetest is the suite that every kind of store passes.
package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"huck/imager/image"
	"huck/imager/store"
)

// Backend is one kind of store. All funcs must be set unless said otherwise.
type Backend struct {
	// New makes the room for a store and returns how to open it. Every call
	// of open is like another program opening the same store.
	New func(t *testing.T) (open func(t *testing.T) store.PruneStore)
	// Damage flips a bit of the stored bytes of a chunk.
	Damage func(t *testing.T, s store.PruneStore, id image.ID)
	// Crash leaves in the store what a writer leaves that died between
	// writing and rename.
	Crash func(t *testing.T, s store.PruneStore)
	// Full returns a store with room for about 1 MiB, or skips the test.
	Full func(t *testing.T) store.PruneStore
}

// Run runs the suite.
func Run(t *testing.T, b Backend) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Backend)
	}{
		{"RoundTrip", roundTrip},
		{"NotFound", notFound},
		{"Dedup", dedup},
		{"UnflushedIsNotSeen", unflushed},
		{"ImageNeedsItsChunks", imageNeedsChunks},
		{"Tags", tags},
		{"RacingTags", racingTags},
		{"TwoWriters", twoWriters},
		{"ReadWhileWriting", readWhileWriting},
		{"BitFlip", bitFlip},
		{"Crash", crash},
		{"Full", full},
		{"GC", gc},
		{"GCBesideWriter", gcBesideWriter},
		{"GCRefusesDamage", gcRefusesDamage},
		{"Cancelled", cancelled},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, b) })
	}
}

// Chunk returns a chunk of size bytes made from seed, half of it compressible.
func Chunk(seed uint64, size int) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i+8 <= size/2; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	if size > 0 {
		b[size-1] = byte(seed)
	}
	return b
}

// Image is an image for tests, and its chunks.
type Image struct {
	Digest        image.ID
	Manifest, Map []byte
	Chunks        [][]byte
}

// MakeImage makes an image of one chunk a seed, in consecutive regions.
func MakeImage(t *testing.T, seeds ...uint64) Image {
	t.Helper()
	var img Image
	var m image.Map
	distinct := make(map[image.ID]bool)
	for i, seed := range seeds {
		c := Chunk(seed, image.RegionSize)
		img.Chunks = append(img.Chunks, c)
		m.Entries = append(m.Entries, image.Entry{Region: uint64(i), Used: ^uint64(0), ID: image.Sum(c)})
		distinct[image.Sum(c)] = true
	}
	raw, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	used := int64(len(seeds)) * image.RegionSize
	man := image.Manifest{Format: image.ManifestVersion, DiskSize: used + image.RegionSize, SectorSize: 512, Table: "none",
		Map: image.MapInfo{Digest: image.Sum(raw), Regions: len(seeds), Chunks: len(distinct), UsedBytes: used}}
	if img.Manifest, img.Digest, err = man.Marshal(); err != nil {
		t.Fatal(err)
	}
	if img.Map, err = image.CompressMap(raw); err != nil {
		t.Fatal(err)
	}
	return img
}

// Put stores an image and its chunks and gives it the next version of name. It
// returns the tag and how many chunks were new.
func Put(t *testing.T, s store.WriteStore, name string, img Image) (image.TagInfo, int) {
	t.Helper()
	ctx := t.Context()
	w, err := s.NewWriter(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer closeWriter(t, w)
	n := putChunks(t, w, img.Chunks)
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.PutImage(ctx, img.Manifest, img.Map); err != nil {
		t.Fatal(err)
	}
	tag, err := s.CreateTag(ctx, name, img.Digest, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return tag, n
}

func closeWriter(t *testing.T, w store.Writer) {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func putChunks(t *testing.T, w store.Writer, chunks [][]byte) (added int) {
	t.Helper()
	enc := image.NewEncoder()
	for _, c := range chunks {
		ok, err := w.Put(t.Context(), image.Sum(c), len(c), enc.Encode(nil, c))
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			added++
		}
	}
	return added
}

// wantChunks fails the test unless s has all chunks and they read back.
func wantChunks(t *testing.T, s store.Store, chunks [][]byte) {
	t.Helper()
	dec, buf := image.NewDecoder(), make([]byte, image.RegionSize)
	r := s.NewReader()
	defer r.Close()
	var unverified []byte
	for i, c := range chunks {
		id := image.Sum(c)
		encoded, err := s.Chunk(t.Context(), id)
		if err != nil {
			t.Errorf("chunk %d: %v", i, err)
			continue
		}
		got, err := dec.Decode(buf, encoded, id, len(c))
		if err != nil || !bytes.Equal(got, c) {
			t.Errorf("chunk %d reads back differently: %v", i, err)
		}
		if unverified, err = r.Encoded(t.Context(), id, unverified); err != nil || !bytes.Equal(unverified, encoded) {
			t.Errorf("chunk %d: a reader gives other bytes: %v", i, err)
		}
		if n, size, ok := s.Lookup(id); !ok || n != len(encoded) || size != len(c) {
			t.Errorf("chunk %d: Lookup says %d, %d, %v; want %d, %d", i, n, size, ok, len(encoded), len(c))
		}
		if ok, err := s.Has(t.Context(), id); !ok || err != nil {
			t.Errorf("chunk %d: Has says %v, %v", i, ok, err)
		}
	}
}

// check runs a full check and returns its findings.
func check(t *testing.T, s store.PruneStore, damaged bool) []store.Finding {
	t.Helper()
	var found []store.Finding
	var way progress
	res, err := s.Check(t.Context(), store.CheckOptions{ReadData: true, Found: func(f store.Finding) { found = append(found, f) }, Progress: way.step})
	if err != nil {
		t.Fatal(err)
	}
	way.check(t, res.Packs > 0)
	if damaged != (res.Damaged > 0) {
		t.Errorf("check found damage: %v, want %v: %+v", res.Damaged > 0, damaged, found)
	}
	return found
}

// progress follows what Check or GC tells of its progress.
type progress struct {
	done, total int64
	bad         bool
}

func (p *progress) step(done, total int64) {
	p.bad = p.bad || done < p.done || done > total || p.total != 0 && total != p.total
	p.done, p.total = done, total
}

// check wants it to have gone forward and, if there was anything, to its end.
func (p *progress) check(t *testing.T, any bool) {
	t.Helper()
	if p.bad || p.done != p.total || any && p.total == 0 {
		t.Errorf("progress ended at %d of %d, went astray: %v", p.done, p.total, p.bad)
	}
}

func roundTrip(t *testing.T, b Backend) {
	open := b.New(t)
	s := open(t)
	img := MakeImage(t, 1, 2, 3, 2)
	tag, added := Put(t, s, "golden", img)
	if added != 3 || tag.Version != 1 || tag.Digest != img.Digest {
		t.Errorf("added %d chunks, tag %+v", added, tag)
	}
	for name, s := range map[string]store.PruneStore{"same": s, "reopened": open(t)} {
		wantChunks(t, s, img.Chunks)
		got, err := store.OpenImage(t.Context(), s, img.Digest)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.Layout.Chunks() != 3 || got.Digest != img.Digest {
			t.Errorf("%s: %d chunks, digest %s", name, got.Layout.Chunks(), got.Digest)
		}
		if found := check(t, s, false); len(found) > 0 {
			t.Errorf("%s: check found %+v", name, found)
		}
	}
}

func notFound(t *testing.T, b Backend) {
	s, ctx := b.New(t)(t), t.Context()
	id := image.Sum([]byte("nowhere"))
	_, err1 := s.Chunk(ctx, id)
	_, err2 := s.Manifest(ctx, id)
	_, err3 := s.Map(ctx, id)
	_, err4 := s.Resolve(ctx, image.Ref{Name: "none"})
	_, err5 := s.Resolve(ctx, image.Ref{Digest: id})
	_, err6 := s.CreateTag(ctx, "none", id, "", nil)
	err7 := s.RemoveTag(ctx, "none", 1)
	r := s.NewReader()
	defer r.Close()
	_, err8 := r.Encoded(ctx, id, nil)
	for i, err := range []error{err1, err2, err3, err4, err5, err6, err7, err8} {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("error %d is %v, want ErrNotFound", i+1, err)
		}
	}
	if ok, err := s.Has(ctx, id); ok || err != nil {
		t.Errorf("Has says %v, %v", ok, err)
	}
	if _, _, ok := s.Lookup(id); ok {
		t.Error("Lookup found it")
	}
	if all, err := s.Tags(ctx); len(all) != 0 || err != nil {
		t.Errorf("Tags says %v, %v", all, err)
	}
}

func dedup(t *testing.T, b Backend) {
	open := b.New(t)
	Put(t, open(t), "one", MakeImage(t, 1, 2, 3))
	if _, added := Put(t, open(t), "two", MakeImage(t, 3, 4, 2, 4)); added != 1 {
		t.Errorf("second image added %d chunks, want 1", added)
	}
	s := open(t)
	w, err := s.NewWriter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeWriter(t, w)
	if !w.Has(image.Sum(Chunk(4, image.RegionSize))) || w.Has(image.Sum(Chunk(5, image.RegionSize))) {
		t.Error("Has is wrong about chunks 4 or 5")
	}
	for _, c := range []struct {
		name          string
		size, encoded int
	}{{"empty", 0, 0}, {"no bytes", 10, 0}, {"longer encoded", 10, 11}, {"too large", image.RegionSize + 1, 5}} {
		if _, err := w.Put(t.Context(), image.ID{1}, c.size, make([]byte, c.encoded)); err == nil {
			t.Errorf("Put of a chunk that is %s succeeds", c.name)
		}
	}
}

func unflushed(t *testing.T, b Backend) {
	open := b.New(t)
	s := open(t)
	w, err := s.NewWriter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	chunks := MakeImage(t, 1).Chunks
	putChunks(t, w, chunks)
	if !w.Has(image.Sum(chunks[0])) {
		t.Error("writer does not know what was put")
	}
	if ok, err := open(t).Has(t.Context(), image.Sum(chunks[0])); ok || err != nil {
		t.Errorf("Has before Flush says %v, %v", ok, err)
	}
	closeWriter(t, w)
	closeWriter(t, w) // twice does no harm
	if ok, err := s.Has(t.Context(), image.Sum(chunks[0])); ok || err != nil {
		t.Errorf("Has after Close without Flush says %v, %v", ok, err)
	}
	if _, err := w.Put(t.Context(), image.ID{1}, 1, []byte{1}); err == nil {
		t.Error("Put after Close succeeds")
	}
	if found := check(t, s, false); len(found) > 0 {
		t.Errorf("check found %+v", found)
	}
}

func imageNeedsChunks(t *testing.T, b Backend) {
	s := b.New(t)(t)
	img := MakeImage(t, 1, 2)
	if err := s.PutImage(t.Context(), img.Manifest, img.Map); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("PutImage without chunks: %v", err)
	}
	Put(t, s, "x", img)
	other := MakeImage(t, 2, 1)
	if err := s.PutImage(t.Context(), other.Manifest, img.Map); !errors.Is(err, image.ErrFormat) {
		t.Errorf("PutImage with another's map: %v", err)
	}
	if err := s.PutImage(t.Context(), img.Manifest, img.Map); err != nil {
		t.Errorf("PutImage again: %v", err)
	}
}

func tags(t *testing.T, b Backend) {
	open := b.New(t)
	s, ctx := open(t), t.Context()
	one, two := MakeImage(t, 1), MakeImage(t, 2)
	Put(t, s, "x", one)
	Put(t, s, "x", two)
	Put(t, s, "x.y", one)
	resolve := func(ref image.Ref, want uint64) {
		t.Helper()
		tag, err := open(t).Resolve(ctx, ref)
		switch {
		case want == 0 && !errors.Is(err, store.ErrNotFound):
			t.Errorf("%s: %v, want ErrNotFound", ref, err)
		case want != 0 && (err != nil || tag.Version != want):
			t.Errorf("%s: version %d, %v; want %d", ref, tag.Version, err, want)
		}
	}
	resolve(image.Ref{Name: "x"}, 2)
	resolve(image.Ref{Name: "x", Version: 1}, 1)
	resolve(image.Ref{Name: "x", Version: 3}, 0)
	resolve(image.Ref{Name: "x", Digest: one.Digest}, 1)
	resolve(image.Ref{Name: "x", Version: 2, Digest: one.Digest}, 0)
	resolve(image.Ref{Name: "x.y", Digest: two.Digest}, 0)
	if err := s.RemoveTag(ctx, "x", 2); err != nil {
		t.Fatal(err)
	}
	resolve(image.Ref{Name: "x"}, 1)
	resolve(image.Ref{Name: "x", Version: 2}, 0)
	if err := s.RemoveTag(ctx, "x", 2); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("second removal: %v", err)
	}
	if tag, _ := Put(t, s, "x", two); tag.Version != 3 {
		t.Errorf("version %d after the removal of 2, want 3", tag.Version)
	}
	all, err := open(t).Tags(ctx)
	var refs []string
	for _, tag := range all {
		refs = append(refs, fmt.Sprintf("%s:%d", tag.Name, tag.Version))
	}
	if want := []string{"x:1", "x:3", "x.y:1"}; err != nil || !slices.Equal(refs, want) {
		t.Errorf("tags %v, %v; want %v", refs, err, want)
	}
	if _, err := s.CreateTag(ctx, "../x", one.Digest, "", nil); err == nil {
		t.Error("a name that climbs is taken")
	}
}

func racingTags(t *testing.T, b Backend) {
	open := b.New(t)
	img := MakeImage(t, 1)
	Put(t, open(t), "x", img)
	const writers, each = 4, 5
	got := make(chan uint64, writers*each)
	var wg sync.WaitGroup
	for range writers {
		s := open(t)
		wg.Go(func() {
			for range each {
				tag, err := s.CreateTag(t.Context(), "x", img.Digest, "", nil)
				if err != nil {
					t.Error(err)
					return
				}
				got <- tag.Version
			}
		})
	}
	wg.Wait()
	close(got)
	var versions []uint64
	for v := range got {
		versions = append(versions, v)
	}
	slices.Sort(versions)
	for i, v := range versions {
		if v != uint64(i)+2 {
			t.Fatalf("versions %v, want 2 to %d, each once", versions, writers*each+1)
		}
	}
}

func twoWriters(t *testing.T, b Backend) {
	open := b.New(t)
	imgs := []Image{MakeImage(t, 1, 2, 3, 4, 5), MakeImage(t, 4, 5, 6, 7, 8)}
	var wg sync.WaitGroup
	for i, img := range imgs {
		s := open(t)
		wg.Go(func() { Put(t, s, fmt.Sprintf("w%d", i), img) })
	}
	wg.Wait()
	s := open(t)
	wantChunks(t, s, imgs[0].Chunks)
	wantChunks(t, s, imgs[1].Chunks)
	check(t, s, false)
}

// readWhileWriting has one writer used by many goroutines, while a reader that
// opened the store before reads what was flushed.
func readWhileWriting(t *testing.T, b Backend) {
	open := b.New(t)
	reader := open(t)
	s := open(t)
	w, err := s.NewWriter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeWriter(t, w)
	const rounds, workers = 4, 4
	for r := range uint64(rounds) {
		var chunks [][]byte
		for i := range uint64(16) {
			chunks = append(chunks, Chunk(r*100+i, 20000))
		}
		var wg sync.WaitGroup
		for range workers { // all put the same chunks
			wg.Go(func() { putChunks(t, w, chunks) })
		}
		wg.Wait()
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantChunks(t, reader, chunks)
	}
	check(t, s, false)
}

func bitFlip(t *testing.T, b Backend) {
	open := b.New(t)
	s := open(t)
	img := MakeImage(t, 1, 2, 3)
	Put(t, s, "x", img)
	id := image.Sum(img.Chunks[1])
	b.Damage(t, s, id)
	for _, s := range []store.PruneStore{s, open(t)} {
		var bad *image.ChunkError
		if _, err := s.Chunk(t.Context(), id); !errors.As(err, &bad) || bad.ID != id {
			t.Errorf("damaged chunk: %v", err)
		}
		wantChunks(t, s, [][]byte{img.Chunks[0], img.Chunks[2]})
		check(t, s, true)
	}
}

func crash(t *testing.T, b Backend) {
	open := b.New(t)
	s := open(t)
	img := MakeImage(t, 1, 2)
	Put(t, s, "x", img)
	b.Crash(t, s)
	s = open(t)
	wantChunks(t, s, img.Chunks)
	check(t, s, false)
	Put(t, s, "x", MakeImage(t, 1, 5))
	if _, err := s.GC(t.Context(), store.GCOptions{}); err != nil {
		t.Fatal(err)
	}
	if found := check(t, s, false); len(found) > 0 {
		t.Errorf("leftovers after gc: %+v", found)
	}
	wantChunks(t, s, img.Chunks)
}

func full(t *testing.T, b Backend) {
	s := b.Full(t)
	img := MakeImage(t, 1, 2)
	Put(t, s, "x", img)
	w, err := s.NewWriter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	enc := image.NewEncoder()
	for seed := uint64(100); seed < 130 && err == nil; seed++ {
		c := Chunk(seed, image.RegionSize)
		_, err = w.Put(t.Context(), image.Sum(c), len(c), enc.Encode(nil, c))
	}
	if ferr := w.Flush(t.Context()); ferr == nil {
		t.Error("Flush onto a full disk succeeds")
	}
	t.Logf("on a full disk: %v", err)
	if _, err := w.Put(t.Context(), image.ID{1}, 1, []byte{1}); err == nil {
		t.Error("Put succeeds after a failure")
	}
	closeWriter(t, w)
	wantChunks(t, s, img.Chunks)
	if found := check(t, s, false); len(found) > 0 {
		t.Errorf("leftovers: %+v", found)
	}
}

func cancelled(t *testing.T, b Backend) {
	s := b.New(t)(t)
	img := MakeImage(t, 1)
	Put(t, s, "x", img)
	w, err := s.NewWriter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeWriter(t, w)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err1 := s.Chunk(ctx, image.Sum(img.Chunks[0]))
	_, err2 := w.Put(ctx, image.ID{1}, 1, []byte{1})
	_, err3 := s.GC(ctx, store.GCOptions{}) // a writer is at work
	for i, err := range []error{err1, err2, err3} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %d is %v", i+1, err)
		}
	}
}
