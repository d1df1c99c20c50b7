package archive_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"huck/imager/archive"
	"huck/imager/image"
	"huck/imager/store"
)

// memStore is a store in memory: what a reader of many broken files needs.
type memStore struct {
	mu     sync.Mutex
	chunks map[image.ID][]byte // encoded
	size   map[image.ID]int
	images map[image.ID][2][]byte // manifest and map
	tags   []image.TagInfo
}

func newMemStore() *memStore {
	return &memStore{chunks: map[image.ID][]byte{}, size: map[image.ID]int{}, images: map[image.ID][2][]byte{}}
}

var _ store.WriteStore = (*memStore)(nil)

func (s *memStore) Chunk(_ context.Context, id image.ID) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.chunks[id]; ok {
		return bytes.Clone(b), nil
	}
	return nil, fmt.Errorf("chunk %s: %w", id.Short(), store.ErrNotFound)
}

func (s *memStore) NewReader() store.Reader { return memReader{s} }

type memReader struct{ s *memStore }

func (r memReader) Encoded(ctx context.Context, id image.ID, _ []byte) ([]byte, error) {
	return r.s.Chunk(ctx, id)
}

func (memReader) Close() error { return nil }

func (s *memStore) Lookup(id image.ID) (encodedLen, size int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.chunks[id]
	return len(b), s.size[id], ok
}

func (s *memStore) Has(_ context.Context, id image.ID) (bool, error) {
	_, _, ok := s.Lookup(id)
	return ok, nil
}

func (s *memStore) file(digest image.ID, i int) ([]byte, error) {
	if f, ok := s.images[digest]; ok {
		return f[i], nil
	}
	return nil, fmt.Errorf("image @%s: %w", digest.Short(), store.ErrNotFound)
}

func (s *memStore) Manifest(_ context.Context, digest image.ID) ([]byte, error) {
	return s.file(digest, 0)
}

func (s *memStore) Map(_ context.Context, digest image.ID) ([]byte, error) { return s.file(digest, 1) }

func (s *memStore) Resolve(context.Context, image.Ref) (image.TagInfo, error) {
	return image.TagInfo{}, store.ErrNotFound
}

func (s *memStore) Tags(context.Context) ([]image.TagInfo, error) { return s.tags, nil }

func (s *memStore) NewWriter(context.Context) (store.Writer, error) { return memWriter{s}, nil }

func (s *memStore) PutImage(_ context.Context, manifest, compressedMap []byte) error {
	img, err := image.Open(image.Sum(manifest), manifest, bytes.NewReader(compressedMap))
	if err != nil {
		return err
	}
	for n := range uint32(img.Layout.Chunks()) {
		if _, size, ok := s.Lookup(img.Layout.ID(n)); !ok || size != img.Layout.Size(n) {
			return fmt.Errorf("chunk %d: %w", n, store.ErrNotFound)
		}
	}
	s.images[img.Digest] = [2][]byte{bytes.Clone(manifest), bytes.Clone(compressedMap)}
	return nil
}

func (s *memStore) CreateTag(_ context.Context, name string, digest image.ID, parent string, labels map[string]string) (image.TagInfo, error) {
	t := image.TagInfo{Name: name, Version: 1, Digest: digest, Parent: parent, Labels: labels}
	s.tags = append(s.tags, t)
	return t, nil
}

func (s *memStore) RemoveTag(context.Context, string, uint64) error { return store.ErrNotFound }

type memWriter struct{ s *memStore }

func (w memWriter) Has(id image.ID) bool { _, _, ok := w.s.Lookup(id); return ok }

func (w memWriter) Put(_ context.Context, id image.ID, size int, encoded []byte) (bool, error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if _, ok := w.s.chunks[id]; ok {
		return false, nil
	}
	w.s.chunks[id], w.s.size[id] = bytes.Clone(encoded), size
	return true, nil
}

func (w memWriter) Flush(context.Context) error { return nil }
func (w memWriter) Close() error                { return nil }

// putImage makes an image whose n-th region has one used block full of the
// n-th letter pattern, and stores it.
func putImage(t testing.TB, s store.WriteStore, patterns ...string) image.TagInfo {
	t.Helper()
	w, err := s.NewWriter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var m image.Map
	enc, ids := image.NewEncoder(), map[image.ID]bool{}
	for i, p := range patterns {
		c := []byte(strings.Repeat(p, image.BlockSize/len(p)))
		m.Entries = append(m.Entries, image.Entry{Region: uint64(i), Used: 1, ID: image.Sum(c)})
		ids[image.Sum(c)] = true
		if _, err := w.Put(t.Context(), image.Sum(c), len(c), enc.Encode(nil, c)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	n := len(patterns)
	man := image.Manifest{Format: image.ManifestVersion, DiskSize: int64(n) * image.RegionSize, SectorSize: 512, Table: "none",
		Map: image.MapInfo{Digest: image.Sum(raw), Regions: n, Chunks: len(ids), UsedBytes: int64(n) * image.BlockSize}}
	manifest, digest, err := man.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	compressed, err := image.CompressMap(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PutImage(t.Context(), manifest, compressed); err != nil {
		t.Fatal(err)
	}
	return image.TagInfo{Name: "golden", Version: 3, Digest: digest, Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
}

// write returns the .huck file of an image.
func write(t testing.TB, cfg archive.ExportConfig) []byte {
	t.Helper()
	var b bytes.Buffer
	r, err := archive.Write(t.Context(), &b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if r.FileBytes != int64(b.Len()) || r.Digest != cfg.Tag.Digest {
		t.Errorf("wrote %d bytes, and says %+v", b.Len(), r)
	}
	return b.Bytes()
}

// need skips a test without a program that it judges by.
func need(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatalf("%s is required: %v", name, err)
		}
		t.Skipf("%s is not here: %v", name, err)
	}
}

// tool runs a program that tests judge by.
func tool(t testing.TB, name string, args ...string) {
	t.Helper()
	need(t, name)
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
