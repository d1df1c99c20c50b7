package capture

import (
	"encoding/binary"
	"path/filepath"
	"testing"

	"huck/imager/image"
	"huck/imager/store"
)

// hotPath returns what a worker does with one batch of batchSize bytes, every
// other block of it used, with content that is new each time.
func hotPath(t testing.TB) (step func() error, bytes int64) {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	sw, err := st.NewWriter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sw.Close(); err != nil {
			t.Error(err)
		}
	})
	p := &plan{cfg: &Config{Workers: 1}, man: image.Manifest{DiskSize: batchSize}}
	for i := range batchSize / image.RegionSize {
		e := image.Entry{Region: uint64(i), Used: 0x5555_5555_5555_5555}
		p.entries = append(p.entries, e)
		bytes += int64(e.Size(batchSize))
	}
	w := newStream(p, sw).newWorker()
	b := &batch{buf: make([]byte, batchSize), entries: p.entries}
	for i := range b.buf {
		b.buf[i] = byte(i * i >> 7)
	}
	n := uint64(0)
	ctx := t.Context()
	return func() error {
		for i := range p.entries {
			n++
			binary.LittleEndian.PutUint64(b.buf[i*image.RegionSize:], n)
		}
		return w.batch(ctx, b)
	}, bytes
}

// TestHotPathAllocates tells if capturing a chunk costs allocations. Packs and
// the index do, once in many chunks.
func TestHotPathAllocates(t *testing.T) {
	step, _ := hotPath(t)
	n := testing.AllocsPerRun(50, func() {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	})
	if perChunk := n / (batchSize / image.RegionSize); perChunk >= 1 {
		t.Errorf("%v allocations a chunk", perChunk)
	}
}

func BenchmarkHotPath(b *testing.B) {
	step, bytes := hotPath(b)
	b.SetBytes(bytes)
	b.ReportAllocs()
	for b.Loop() {
		if err := step(); err != nil {
			b.Fatal(err)
		}
	}
}
