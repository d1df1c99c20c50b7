package store_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"huck/imager/image"
	"huck/imager/store"
	"huck/imager/store/storetest"
)

func openDir(t *testing.T, path string) *store.Dir {
	t.Helper()
	d, err := store.Open(path, store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDir(t *testing.T) {
	storetest.Run(t, storetest.Backend{
		New: func(t *testing.T) func(*testing.T) store.PruneStore {
			path := filepath.Join(t.TempDir(), "store")
			return func(t *testing.T) store.PruneStore { return openDir(t, path) }
		},
		Damage: func(t *testing.T, s store.PruneStore, id image.ID) {
			encoded, err := s.Chunk(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			edit(t, packs(t, s.(*store.Dir)), func(b []byte) []byte {
				if i := bytes.Index(b, encoded); i >= 0 {
					b[i+len(encoded)/2] ^= 4
				}
				return b
			})
		},
		Crash: func(t *testing.T, s store.PruneStore) {
			dir := s.(*store.Dir).Path()
			whole, err := os.ReadFile(packs(t, s.(*store.Dir))[0])
			if err != nil {
				t.Fatal(err)
			}
			img := storetest.MakeImage(t, 77)
			for name, b := range map[string][]byte{
				"tmp/half-a-pack":                        whole[:len(whole)/2],
				"tmp/pack-before-rename":                 whole,
				"tmp/empty":                              nil,
				"images/" + img.Digest.String() + ".map": img.Map,
			} {
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		},
		Full: fullDir,
	})
}

// fullDir returns a store on a filesystem of 1.5 MB.
func fullDir(t *testing.T) store.PruneStore {
	dir := t.TempDir()
	err := unix.Mount("huck-test", dir, "tmpfs", 0, "size=1536k")
	if err != nil {
		skip(t, "mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return openDir(t, filepath.Join(dir, "store"))
}

func skip(t *testing.T, format string, a ...any) {
	t.Helper()
	if os.Getenv("REQUIRE_TOOLS") == "1" {
		t.Fatalf(format, a...)
	}
	t.Skipf(format, a...)
}

func packs(t *testing.T, d *store.Dir) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(d.Path(), "packs", "*.pack"))
	if err != nil || len(files) == 0 {
		t.Fatalf("packs %v, %v", files, err)
	}
	return files
}

func edit(t *testing.T, files []string, f func([]byte) []byte) {
	t.Helper()
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f(b), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamagedFiles damages one file of a store at a time.
func TestDamagedFiles(t *testing.T) {
	for _, c := range []struct {
		name, glob string
		edit       func([]byte) []byte
		says       string // in a finding
	}{
		{"pack cut", "packs/*", func(b []byte) []byte { return b[:len(b)-1] }, "all its chunks are lost: no trailer"},
		{"pack empty", "packs/*", func([]byte) []byte { return nil }, "0 bytes long"},
		{"pack table", "packs/*", func(b []byte) []byte { b[len(b)-60] ^= 1; return b }, "table hashes to"},
		{"pack of the future", "packs/*", func(b []byte) []byte { b[8] = 1; return b }, "unknown required features 0x1"},
		{"pack of nothing", "packs/*", func(b []byte) []byte { b[0] = 0; return b }, "no magic of version 1"},
		{"pack removed", "packs/*", nil, "lacks 2 of its 2 chunks"},
		{"manifest", "images/*.json", func(b []byte) []byte { b[5] ^= 1; return b }, "hashes to"},
		{"map", "images/*.map", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "cannot be opened"},
		{"map removed", "images/*.map", nil, "not found"},
		{"manifest removed", "images/*.json", nil, "is missing"},
		{"tag", "tags/x/1.json", func([]byte) []byte { return []byte("{}") }, "bad image format"},
		{"tag elsewhere", "tags/x/1.json", func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"version":1`), []byte(`"version":2`), 1)
		}, "holds the tag x:2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := openDir(t, t.TempDir())
			storetest.Put(t, d, "x", storetest.MakeImage(t, 1, 2))
			files, err := filepath.Glob(filepath.Join(d.Path(), c.glob))
			if err != nil || len(files) != 1 {
				t.Fatalf("files %v, %v", files, err)
			}
			if c.edit != nil {
				edit(t, files, c.edit)
			} else if err := os.Remove(files[0]); err != nil {
				t.Fatal(err)
			}
			wantDamage(t, openDir(t, d.Path()), c.says)
			// What can be needed stays, whatever the damage.
			before := tree(t, d.Path())
			d2 := openDir(t, d.Path())
			if _, err := d2.GC(t.Context(), store.GCOptions{}); err == nil && c.name != "pack removed" {
				t.Error("gc goes on over the damage")
			}
			if after := tree(t, d.Path()); after != before {
				t.Errorf("gc changed a damaged store from\n%s to\n%s", before, after)
			}
		})
	}
}

func wantDamage(t *testing.T, d *store.Dir, says string) {
	t.Helper()
	var found []string
	res, err := d.Check(t.Context(), store.CheckOptions{Found: func(f store.Finding) {
		if f.Damage {
			found = append(found, f.Path+": "+f.What)
		}
	}})
	if err != nil || res.Damaged == 0 || res.Damaged != len(found) {
		t.Fatalf("check says %+v, %v: %v", res, err, found)
	}
	if !strings.Contains(strings.Join(found, "\n"), says) {
		t.Errorf("check says %q, nothing of %q", found, says)
	}
}

// tree lists the files of a store, but for the lock.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var s strings.Builder
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && e.Name() != "lock" {
			fmt.Fprintln(&s, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.String()
}

// TestRecapture mends a store by hand: a pack with damage is deleted, and what
// it had is put again.
func TestRecapture(t *testing.T) {
	d := openDir(t, t.TempDir())
	img := storetest.MakeImage(t, 1, 2, 3)
	storetest.Put(t, d, "x", img)
	if err := os.Remove(packs(t, d)[0]); err != nil {
		t.Fatal(err)
	}
	if _, added := storetest.Put(t, d, "x", img); added != 3 {
		t.Errorf("added %d chunks, want 3", added)
	}
	if res, err := d.Check(t.Context(), store.CheckOptions{ReadData: true}); err != nil || res.Damaged > 0 {
		t.Errorf("check says %+v, %v", res, err)
	}
}

// TestManyPacks fills more than one pack with incompressible chunks.
func TestManyPacks(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 140 MB")
	}
	d := openDir(t, t.TempDir())
	w, err := d.NewWriter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	b := storetest.Chunk(1, 2*image.RegionSize)[:image.RegionSize]
	var ids []image.ID
	for i := range 540 {
		b[0], b[1] = byte(i), byte(i>>8)
		ids = append(ids, image.Sum(b))
		if _, err := w.Put(t.Context(), ids[i], len(b), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(packs(t, d)); n != 3 {
		t.Errorf("%d packs, want 3", n)
	}
	d = openDir(t, d.Path())
	for _, id := range ids {
		if _, err := d.Chunk(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
}

// TestInterruptedGC has a store as a GC leaves it that died between writing a
// new pack and deleting the old one.
func TestInterruptedGC(t *testing.T) {
	d := openDir(t, t.TempDir())
	storetest.Put(t, d, "half", storetest.MakeImage(t, 1, 2, 3, 4, 5))
	rest := storetest.MakeImage(t, 2, 3)
	storetest.Put(t, d, "rest", rest)
	if err := d.RemoveTag(t.Context(), "half", 1); err != nil {
		t.Fatal(err)
	}
	old := packs(t, d)[0]
	b, err := os.ReadFile(old)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.GC(t.Context(), store.GCOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(old, b, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		d = openDir(t, d.Path())
		if _, err := d.GC(t.Context(), store.GCOptions{}); err != nil {
			t.Fatal(err)
		}
		if res, err := d.Check(t.Context(), store.CheckOptions{ReadData: true}); err != nil || res.Damaged > 0 || res.Packs != 1 || res.Chunks != 2 {
			t.Errorf("after gc check says %+v, %v", res, err)
		}
	}
}

func TestStrays(t *testing.T) {
	d := openDir(t, t.TempDir())
	storetest.Put(t, d, "x", storetest.MakeImage(t, 1))
	want := []string{"images/notes.txt", "packs/01.pack.old", "tags/README", "tags/x/1.json.orig", "tmp/core"}
	for _, name := range want {
		if err := os.WriteFile(filepath.Join(d.Path(), name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	res, err := d.Check(t.Context(), store.CheckOptions{ReadData: true, Found: func(f store.Finding) { got = append(got, f.Path) }})
	slices.Sort(got)
	if err != nil || res.Damaged > 0 || !slices.Equal(got, want) {
		t.Errorf("check finds %v, want %v; %+v, %v", got, want, res, err)
	}
	if tags, err := d.Tags(t.Context()); err != nil || len(tags) != 1 {
		t.Errorf("tags %v, %v", tags, err)
	}
}

func TestOpen(t *testing.T) {
	if _, err := store.Open(filepath.Join(t.TempDir(), "none"), store.Options{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no store: %v", err)
	}
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "letter.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(home, store.Options{Create: true}); err == nil {
		t.Error("a folder of letters becomes a store")
	}
	d := openDir(t, filepath.Join(t.TempDir(), "a", "b"))
	if err := os.WriteFile(filepath.Join(d.Path(), "store.json"), []byte(`{"format":2}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(d.Path(), store.Options{}); err == nil || !strings.Contains(err.Error(), "format version 2, this program knows 1: a newer one") {
		t.Errorf("store of the future: %v", err)
	}
}

// TestKilled kills a program in mid-write, again and again: what it had
// acknowledged is there, and the store is sound.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("HUCK_TEST_STORE"); dir != "" {
		writeForever(t, dir)
		return
	}
	dir := t.TempDir()
	d := openDir(t, dir)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var acked []image.ID
	for round := range 6 {
		cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "HUCK_TEST_STORE="+dir, fmt.Sprintf("HUCK_TEST_SEED=%d", round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; n < 20+7*round && lines.Scan(); n++ {
			id, err := image.ParseID(lines.Text())
			if err != nil {
				t.Fatalf("child says %q", lines.Text())
			}
			acked = append(acked, id)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		cmd.Wait() // it was killed: that is its error
		res, err := openDir(t, dir).Check(t.Context(), store.CheckOptions{ReadData: true})
		if err != nil || res.Damaged > 0 {
			t.Fatalf("round %d: check says %+v, %v", round, res, err)
		}
	}
	for _, id := range acked {
		if _, err := d.Chunk(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if len(acked) < 6*20 {
		t.Errorf("only %d chunks were acknowledged", len(acked))
	}
	if _, err := d.NewWriter(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("a new writer leaves %v, %v", left, err)
	}
}

// writeForever is the program that is killed. It prints each chunk's ID once
// it is acknowledged.
func writeForever(t *testing.T, dir string) {
	var base uint64
	if _, err := fmt.Sscan(os.Getenv("HUCK_TEST_SEED"), &base); err != nil {
		t.Fatal(err)
	}
	d := openDir(t, dir)
	w, err := d.NewWriter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	enc := image.NewEncoder()
	for i := uint64(0); i < 100000; i++ {
		c := storetest.Chunk(base<<32|i, 30000)
		if _, err := w.Put(t.Context(), image.Sum(c), len(c), enc.Encode(nil, c)); err != nil {
			t.Fatal(err)
		}
		if i%3 == 2 {
			if err := w.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			fmt.Println(image.Sum(c))
		}
	}
}

func BenchmarkPut(b *testing.B) {
	d, err := store.Open(b.TempDir(), store.Options{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	w, err := d.NewWriter(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	c := storetest.Chunk(1, image.RegionSize)
	b.SetBytes(image.RegionSize)
	b.ReportAllocs()
	var id image.ID
	for i := 0; b.Loop(); i++ {
		id[0], id[1], id[2] = byte(i), byte(i>>8), byte(i>>16)
		if _, err := w.Put(b.Context(), id, len(c), c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChunk(b *testing.B) {
	d, err := store.Open(b.TempDir(), store.Options{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	w, err := d.NewWriter(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	c := storetest.Chunk(1, image.RegionSize)
	if _, err := w.Put(b.Context(), image.Sum(c), len(c), image.NewEncoder().Encode(nil, c)); err != nil {
		b.Fatal(err)
	}
	if err := w.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(image.RegionSize)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Chunk(b.Context(), image.Sum(c)); err != nil {
			b.Fatal(err)
		}
	}
}
