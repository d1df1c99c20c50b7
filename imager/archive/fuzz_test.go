package archive_test

import (
	"bytes"
	"testing"

	"huck/imager/archive"
)

// FuzzRead reads files as they are and with their hashes made right, so that
// the fuzzer gets past those. What is imported must be exported as what it was.
func FuzzRead(f *testing.F) {
	s := newMemStore()
	parent, tag := putImage(f, s, "Huck"), putImage(f, s, "Huck", "z", "Huck", "y")
	for _, cfg := range []archive.ExportConfig{{Store: s, Tag: tag}, {Store: s, Tag: tag, Parent: parent.Digest}} {
		b := write(f, cfg)
		f.Add(b, false)
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, right bool) {
		if right {
			b = bytes.Clone(b)
			rehash(b)
		}
		to := newMemStore()
		putImage(t, to, "Huck")
		before := len(to.images)
		if err := read(t, to, bytes.NewReader(b)); err != nil {
			if len(to.tags) != 0 || len(to.images) != before {
				t.Fatalf("refused with %v, and imported", err)
			}
			return
		}
		again := write(t, archive.ExportConfig{Store: to, Tag: to.tags[0]})
		if err := read(t, newMemStore(), bytes.NewReader(again)); err != nil {
			t.Fatalf("imported, but its export is refused: %v", err)
		}
	})
}
