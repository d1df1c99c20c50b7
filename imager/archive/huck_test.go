package archive_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/zeebo/blake3"

	"huck/imager/archive"
	"huck/imager/image"
	"huck/imager/store"
	"huck/imager/store/storetest"
)

// read imports a .huck file into a store under the name "copy".
func read(t testing.TB, s store.WriteStore, r io.Reader) error {
	t.Helper()
	_, err := archive.Read(t.Context(), "test.huck", r, archive.ImportConfig{Store: s, Name: "copy", Workers: 2})
	return err
}

func newDir(t *testing.T) *store.Dir {
	t.Helper()
	s, err := store.Open(t.TempDir(), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRoundTrip(t *testing.T) {
	from, to := newDir(t), newDir(t)
	img := storetest.MakeImage(t, 1, 2, 3, 1, 4)
	tag, _ := storetest.Put(t, from, "golden", img)
	parent := "base:2@" + strings.Repeat("ab", 32)
	tag, err := from.CreateTag(t.Context(), tag.Name, tag.Digest, parent, map[string]string{"built-by": "ci"})
	if err != nil {
		t.Fatal(err)
	}
	b := write(t, archive.ExportConfig{Store: from, Tag: tag})
	var done, total int64
	r, err := archive.Read(t.Context(), "x", iotest.HalfReader(bytes.NewReader(b)), archive.ImportConfig{Store: to, Name: "copy",
		Progress: func(d, n int64) { done, total = d, n }})
	if err != nil {
		t.Fatal(err)
	}
	if r.Digest != img.Digest || r.Ref != "copy:1" || r.ImageBytes != 5*image.RegionSize || r.NewBytes != r.EncodedBytes || r.NewBytes == 0 {
		t.Errorf("imported %+v", r)
	}
	if done != 4*image.RegionSize || done != total {
		t.Errorf("progress ended at %d of %d", done, total)
	}
	got, err := to.Resolve(t.Context(), image.Ref{Name: "copy"})
	if err != nil || got.Digest != img.Digest || got.Parent != parent || !reflect.DeepEqual(got.Labels, tag.Labels) {
		t.Errorf("tag %+v, %v; want parent and labels of %+v", got, err, tag)
	}
	if res, err := to.Check(t.Context(), store.CheckOptions{ReadData: true, Found: func(f store.Finding) { t.Errorf("%+v", f) }}); err != nil || res.Images != 1 {
		t.Errorf("check: %+v, %v", res, err)
	}
	if again := write(t, archive.ExportConfig{Store: to, Tag: tag}); !bytes.Equal(again, b) {
		t.Error("exported from the copy, the file is another")
	}
	r, err = archive.Read(t.Context(), "x", bytes.NewReader(b), archive.ImportConfig{Store: to, Name: "copy"})
	if err != nil || r.NewBytes != 0 || r.Ref != "copy:2" {
		t.Errorf("imported again: %+v, %v", r, err)
	}
}

func TestWithoutTag(t *testing.T) {
	from, to := newMemStore(), newMemStore()
	tag := putImage(t, from, "a", "b", "a")
	if err := read(t, to, bytes.NewReader(write(t, archive.ExportConfig{Store: from, Tag: image.TagInfo{Digest: tag.Digest}}))); err != nil {
		t.Fatal(err)
	}
	if len(to.tags) != 1 || to.tags[0].Digest != tag.Digest || to.tags[0].Parent != "" {
		t.Errorf("tags %+v", to.tags)
	}
}

func TestDelta(t *testing.T) {
	from := newMemStore()
	parent, child := putImage(t, from, "a", "b", "c"), putImage(t, from, "b", "x", "c", "x", "y", "a", "b", "b", "b", "z")
	delta := archive.ExportConfig{Store: from, Tag: child, Parent: parent.Digest}
	b := write(t, delta)
	if n := binary.LittleEndian.Uint32(b[36:]); n != 3 {
		t.Errorf("the delta has %d chunks, want x, y and z", n)
	}
	to := newMemStore()
	err := read(t, to, bytes.NewReader(b))
	var refused *archive.Refused
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), parent.Digest.String()) || len(to.chunks) != 0 {
		t.Errorf("without its parent: %v, and %d chunks were stored", err, len(to.chunks))
	}
	putImage(t, to, "a", "b") // a part of the parent will not do
	if err := read(t, to, bytes.NewReader(b)); !errors.As(err, &refused) || len(to.chunks) != 2 {
		t.Errorf("with another parent: %v, and the store has %d chunks", err, len(to.chunks))
	}
	if err := read(t, to, bytes.NewReader(write(t, archive.ExportConfig{Store: from, Tag: parent}))); err != nil {
		t.Fatal(err)
	}
	if err := read(t, to, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenImage(t.Context(), to, child.Digest); err != nil {
		t.Error(err)
	}
	// All that the parent has is nothing at all.
	delta.Parent = child.Digest
	if b := write(t, delta); binary.LittleEndian.Uint32(b[36:]) != 0 {
		t.Error("a delta against itself has chunks")
	} else if err := read(t, to, bytes.NewReader(b)); err != nil {
		t.Error(err)
	}
	delta.Parent = image.Sum(nil)
	if _, err := archive.Write(t.Context(), io.Discard, delta); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("delta against an image that is not there: %v", err)
	}
}

// refuse insists that a broken file is refused and no image made of it.
func refuse(t testing.TB, what string, b []byte) error {
	t.Helper()
	s := newMemStore()
	err := read(t, s, bytes.NewReader(b))
	if err == nil || len(s.tags)+len(s.images) != 0 {
		t.Errorf("%s: error %v, tags %v, %d images", what, err, s.tags, len(s.images))
	}
	return err
}

func TestTruncated(t *testing.T) {
	s := newDir(t)
	tag, _ := storetest.Put(t, s, "golden", storetest.MakeImage(t, 1, 2, 3))
	b := write(t, archive.ExportConfig{Store: s, Tag: tag})
	cuts := []int{0, 1, 71, 72, len(b) - 1, len(b) - 32, len(b) - 40, len(b) - 41}
	for i := range 37 {
		cuts = append(cuts, len(b)*i/37)
	}
	for _, n := range cuts {
		err := refuse(t, fmt.Sprintf("cut to %d of %d bytes", n, len(b)), b[:n])
		if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), fmt.Sprintf("after %d bytes", n)) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestBitFlips(t *testing.T) {
	s := newMemStore()
	parent := putImage(t, s, "Huck")
	for _, cfg := range []archive.ExportConfig{
		{Store: s, Tag: putImage(t, s, "Huck", "z", "Huck", "y")},
		{Store: s, Tag: putImage(t, s, "Huck", "z", "Huck", "y"), Parent: parent.Digest},
	} {
		b := write(t, cfg)
		for i := range 8 * len(b) {
			b[i/8] ^= 1 << (i % 8)
			refuse(t, fmt.Sprintf("bit %d of byte %d flipped", i%8, i/8), b)
			b[i/8] ^= 1 << (i % 8)
		}
	}
}

// TestForeignPrologue makes files whose hashes are right and whose words are not.
func TestForeignPrologue(t *testing.T) {
	s := newMemStore()
	parent, tag := putImage(t, s, "Huck"), putImage(t, s, "Huck", "z")
	whole := write(t, archive.ExportConfig{Store: s, Tag: tag})
	delta := write(t, archive.ExportConfig{Store: s, Tag: tag, Parent: parent.Digest})
	bitmap := len(delta) - 40 - 15 - 32 - 1
	put := func(at int, v uint32) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint32(b[at:], v) }
	}
	tests := []struct {
		name string
		file []byte
		edit func(b []byte)
		want string // in the error; empty if the file is good
	}{
		{"unchanged", whole, func([]byte) {}, ""},
		{"a feature to ignore", whole, put(12, 1<<31), ""},
		{"no magic", whole, put(0, 0), "no .huck file"},
		{"version 2", whole, func(b []byte) { b[7] = 2 }, "version 2"},
		{"unknown feature", whole, put(8, 2), "features"},
		{"long tag", whole, put(16, 1<<31), "header"},
		{"long manifest", whole, put(20, 1<<31), "header"},
		{"long map", whole, put(28, 1), "header"},
		{"long bitmap", delta, put(32, 1<<30), "header"},
		{"bitmap without delta", whole, put(32, 1), "header"},
		{"delta without parent", whole, put(8, 1), "header"},
		{"parent without delta", delta, put(8, 0), "header"},
		{"more chunks", whole, put(36, 3), "3 chunks"},
		{"fewer chunks", delta, put(36, 0), "0 chunks"},
		{"spare bit", delta, func(b []byte) { b[bitmap] |= 4 }, "does not have"},
		{"another bitmap", delta, func(b []byte) { b[bitmap] = 3 }, "lists 2"},
		{"another tag", whole, func(b []byte) { b[72+bytes.IndexByte(b[72:], '3')] = '0' }, "version"},
		{"tag of another image", whole, func(b []byte) {
			i := bytes.Index(b, []byte(tag.Digest.String()))
			copy(b[i:], parent.Digest.String())
		}, "its tag is of image"},
		{"no chunk", whole, func(b []byte) { copy(b[len(b)-40-15:], make([]byte, 4)) }, "encoded as 0"},
		{"large chunk", whole, func(b []byte) { b[len(b)-40-15+1] = 0x11 }, "encoded as"},
		{"another chunk", whole, func(b []byte) { b[len(b)-41] ^= 1 }, "chunk 1 is damaged"},
		{"no trailer", whole, func(b []byte) { b[len(b)-40] = 'h' }, "no trailer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := bytes.Clone(tt.file)
			tt.edit(b)
			rehash(b)
			to := newMemStore()
			putImage(t, to, "Huck")
			err := read(t, to, bytes.NewReader(b))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if tt.want != "" && len(to.tags) != 0 {
				t.Errorf("tagged: %+v", to.tags)
			}
		})
	}
	refuse(t, "with something behind it", append(bytes.Clone(whole), 0))
}

// rehash makes a file's two hashes right, where it has the room for them that
// its header says.
func rehash(b []byte) {
	if len(b) < 72+32+40 {
		return
	}
	le := binary.LittleEndian
	at := 72 + uint64(le.Uint32(b[16:])) + uint64(le.Uint32(b[20:])) + le.Uint64(b[24:]) + uint64(le.Uint32(b[32:]))
	if at < uint64(len(b)-40-32) {
		sum := blake3.Sum256(b[:at])
		copy(b[at:], sum[:])
	}
	sum := blake3.Sum256(b[:len(b)-32])
	copy(b[len(b)-32:], sum[:])
}

// TestLie has a header that promises a gigabyte.
func TestLie(t *testing.T) {
	s := newMemStore()
	b := write(t, archive.ExportConfig{Store: s, Tag: putImage(t, s, "a")})
	binary.LittleEndian.PutUint64(b[24:], 1<<30)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := refuse(t, "a map of a gigabyte", b)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a lie about a length cost %d bytes of memory: %v", n, err)
	}
}

func TestReadErrors(t *testing.T) {
	s := newMemStore()
	b := write(t, archive.ExportConfig{Store: s, Tag: putImage(t, s, "a", "b")})
	broken := errors.New("the cable is out")
	for _, n := range []int{10, 80, len(b) - 45, len(b) - 20, len(b)} {
		r := io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(broken))
		if err := read(t, newMemStore(), r); !errors.Is(err, broken) {
			t.Errorf("broken after %d bytes: %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := archive.Read(ctx, "x", bytes.NewReader(b), archive.ImportConfig{Store: newDir(t), Name: "copy"}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := archive.Read(t.Context(), "x", bytes.NewReader(b), archive.ImportConfig{Store: newMemStore(), Name: "No Name"}); err == nil {
		t.Error("a bad name was taken")
	}
}

// failWriter takes n bytes.
type failWriter struct{ n int }

var errFull = errors.New("disk full")

func (w *failWriter) Write(b []byte) (int, error) {
	if w.n -= len(b); w.n < 0 {
		return 0, errFull
	}
	return len(b), nil
}

func TestWriteErrors(t *testing.T) {
	s := newDir(t)
	img := storetest.MakeImage(t, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
	tag, _ := storetest.Put(t, s, "golden", img)
	cfg := archive.ExportConfig{Store: s, Tag: tag}
	for _, n := range []int{0, 1 << 20} {
		if _, err := archive.Write(t.Context(), &failWriter{n}, cfg); !errors.Is(err, errFull) {
			t.Errorf("room for %d bytes: %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Progress = func(int64, int64) { cancel() }
	if _, err := archive.Write(ctx, io.Discard, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	cfg.Progress = nil
	cfg.Tag.Labels = map[string]string{"story": strings.Repeat("x", 1<<16)}
	if _, err := archive.Write(t.Context(), io.Discard, cfg); err == nil {
		t.Error("a tag that no reader takes was written")
	}
	mem := newMemStore()
	cfg = archive.ExportConfig{Store: mem, Tag: putImage(t, mem, "a", "b")}
	for id := range mem.chunks {
		delete(mem.chunks, id)
		break
	}
	if _, err := archive.Write(t.Context(), io.Discard, cfg); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("with a chunk missing: %v", err)
	}
}

// TestDocument decodes the example of FORMAT.md.
func TestDocument(t *testing.T) {
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```huck\n(.*?)```").FindSubmatch(doc)
	if m == nil {
		t.Fatal("no example")
	}
	var b []byte
	for line := range strings.Lines(string(m[1])) {
		if strings.HasPrefix(line, "{") {
			b = append(b, strings.TrimSuffix(line, "\n")...)
			continue
		}
		digits, _, _ := strings.Cut(line, "#")
		raw, err := hex.DecodeString(strings.Join(strings.Fields(digits), ""))
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		b = append(b, raw...)
	}
	s := newMemStore()
	putImage(t, s, "Huck")
	if err := read(t, s, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	digest := s.tags[0].Digest
	if !bytes.Contains(doc, []byte("`"+digest.String()+"`")) {
		t.Errorf("the example is image @%s", digest)
	}
}
