package store_test

import (
	"os"
	"testing"

	"huck/imager/image"
	"huck/imager/store"
	"huck/imager/store/storetest"
)

// TestReaderKeepsFewOpen reads chunks of many packs: the reader must not keep
// all of them open, nor any after Close.
func TestReaderKeepsFewOpen(t *testing.T) {
	d := openDir(t, t.TempDir())
	var ids []image.ID
	for i := range uint64(20) {
		img := storetest.MakeImage(t, i+1)
		storetest.Put(t, d, "x", img)
		ids = append(ids, image.Sum(img.Chunks[0]))
	}
	if n := len(packs(t, d)); n != 20 {
		t.Fatalf("%d packs, want 20", n)
	}
	before := openFiles(t)
	r := d.NewReader()
	for _, id := range append(ids, ids...) {
		if _, err := r.Encoded(t.Context(), id, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := openFiles(t) - before; n < 1 || n > 4 {
		t.Errorf("%d files are open, want 1 to 4", n)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if n := openFiles(t) - before; n != 0 {
		t.Errorf("%d files are open after Close", n)
	}
}

// TestReaderAllocatesNothing reads into a buffer that has the room.
func TestReaderAllocatesNothing(t *testing.T) {
	d := openDir(t, t.TempDir())
	img := storetest.MakeImage(t, 1)
	storetest.Put(t, d, "x", img)
	var r store.Reader = d.NewReader()
	defer r.Close()
	id, buf := image.Sum(img.Chunks[0]), make([]byte, image.RegionSize)
	n := testing.AllocsPerRun(100, func() {
		if _, err := r.Encoded(t.Context(), id, buf); err != nil {
			t.Fatal(err)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations a chunk", n)
	}
}

// openFiles counts this process's open files.
func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}
