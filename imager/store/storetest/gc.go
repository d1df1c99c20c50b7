package storetest

import (
	"context"
	"errors"
	"testing"

	"huck/imager/image"
	"huck/imager/store"
)

func gc(t *testing.T, b Backend) {
	open := b.New(t)
	s, ctx := open(t), t.Context()
	keep, half, drop := MakeImage(t, 1, 2, 3), MakeImage(t, 10, 11, 12, 13), MakeImage(t, 20, 21)
	Put(t, s, "keep", keep)
	Put(t, s, "half", half)
	Put(t, s, "drop", drop)
	rest := MakeImage(t, 11, 3)
	Put(t, s, "rest", rest)
	reader := open(t)
	for _, name := range []string{"half", "drop"} {
		if err := s.RemoveTag(ctx, name, 1); err != nil {
			t.Fatal(err)
		}
	}
	wantChunks(t, reader, half.Chunks) // nothing goes before GC
	dry, err := open(t).GC(ctx, store.GCOptions{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	wantChunks(t, open(t), drop.Chunks)
	var way progress
	got, err := open(t).GC(ctx, store.GCOptions{Progress: way.step})
	if err != nil {
		t.Fatal(err)
	}
	way.check(t, true)
	if got.Images != 2 || got.Packs == 0 || got.Bytes <= 0 || dry.Images != got.Images || dry.Packs != got.Packs || dry.Repacked != got.Repacked {
		t.Errorf("gc says %+v, the dry run said %+v", got, dry)
	}
	for _, s := range []store.PruneStore{reader, s, open(t)} {
		wantChunks(t, s, keep.Chunks)
		wantChunks(t, s, rest.Chunks)
		if _, err := s.Chunk(ctx, image.Sum(drop.Chunks[0])); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("chunk of a removed image: %v", err)
		}
		if _, err := s.Manifest(ctx, drop.Digest); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("manifest of a removed image: %v", err)
		}
	}
	if found := check(t, s, false); len(found) > 0 {
		t.Errorf("check after gc: %+v", found)
	}
	if again, err := s.GC(ctx, store.GCOptions{}); err != nil || again != (store.GCResult{}) {
		t.Errorf("second gc: %+v, %v", again, err)
	}
}

// gcBesideWriter lets a writer count on a chunk that nothing else needs.
func gcBesideWriter(t *testing.T, b Backend) {
	open := b.New(t)
	s := open(t)
	img := MakeImage(t, 1, 2)
	Put(t, s, "x", img)
	if err := s.RemoveTag(t.Context(), "x", 1); err != nil {
		t.Fatal(err)
	}
	w, err := s.NewWriter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeWriter(t, w)
	if added := putChunks(t, w, img.Chunks); added != 0 {
		t.Fatalf("%d chunks added", added)
	}
	ctx, cancel := context.WithCancel(t.Context())
	collected := make(chan error, 1)
	other := open(t)
	go func() {
		_, err := other.GC(ctx, store.GCOptions{})
		collected <- err
	}()
	// GC waits, or leaves alone what the writer counts on, whatever it does.
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.PutImage(t.Context(), img.Manifest, img.Map); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateTag(t.Context(), "y", img.Digest, "", nil); err != nil {
		t.Fatal(err)
	}
	closeWriter(t, w)
	if err := <-collected; err != nil {
		t.Error(err)
	}
	cancel()
	wantChunks(t, open(t), img.Chunks)
	check(t, open(t), false)
}

func gcRefusesDamage(t *testing.T, b Backend) {
	open := b.New(t)
	s := open(t)
	half := MakeImage(t, 10, 11, 12, 13)
	Put(t, s, "half", half)
	rest := MakeImage(t, 11, 12)
	Put(t, s, "rest", rest)
	if err := s.RemoveTag(t.Context(), "half", 1); err != nil {
		t.Fatal(err)
	}
	b.Damage(t, s, image.Sum(half.Chunks[2]))
	if _, err := s.GC(t.Context(), store.GCOptions{}); err != nil {
		t.Fatal(err)
	}
	// A pack with a damaged chunk that is needed is not rewritten without it.
	wantChunks(t, open(t), rest.Chunks[:1])
	var bad *image.ChunkError
	if _, err := open(t).Chunk(t.Context(), image.Sum(rest.Chunks[1])); !errors.As(err, &bad) {
		t.Errorf("damaged chunk after gc: %v", err)
	}
}
