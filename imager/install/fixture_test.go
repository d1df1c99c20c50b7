package install_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/ptable"
	"huck/imager/store"
)

const (
	region = image.RegionSize
	block  = image.BlockSize
)

// source is an image made by hand and its encoded chunks.
type source struct {
	*image.Image
	chunks map[image.ID][]byte
	disk   []byte // what the image was made of

	mu    sync.Mutex
	asked []image.ID
}

// Chunk implements install.ChunkSource.
func (s *source) Chunk(ctx context.Context, id image.ID) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.chunks[id]
	if !ok {
		return nil, errors.New("no such chunk")
	}
	s.asked = append(s.asked, id)
	return bytes.Clone(b), nil
}

// NewReader implements install.ChunkSource.
func (s *source) NewReader() store.Reader { return readerFunc(s.Chunk) }

// readerFunc is a store.Reader of chunks that stand elsewhere.
type readerFunc func(context.Context, image.ID) ([]byte, error)

func (f readerFunc) Encoded(ctx context.Context, id image.ID, _ []byte) ([]byte, error) {
	return f(ctx, id)
}
func (readerFunc) Close() error { return nil }

// fetched returns how many chunks were asked for since the last call.
func (s *source) fetched() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.asked)
	s.asked = nil
	return n
}

func (s *source) encoded(n uint32) []byte { return s.chunks[s.Layout.ID(n)] }

// captureUsed makes an image of the blocks of b that used names, with man filled in
// but for size and map. The backup GPT counts as zeros, as in real captures.
func captureUsed(t testing.TB, b []byte, man image.Manifest, used func(block int) bool) *source {
	t.Helper()
	size := int64(len(b))
	content := bytes.Clone(b)
	if g := man.GPT; g != nil {
		clear(content[int64(g.LastUsableLBA+1)*int64(man.SectorSize) : int64(g.AlternateLBA+1)*int64(man.SectorSize)])
	}
	var m image.Map
	enc := image.NewEncoder()
	chunks := make(map[image.ID][]byte)
	for r := range (size + region - 1) / region {
		e := image.Entry{Region: uint64(r)}
		for i := range image.RegionBlocks {
			at := int(r)*image.RegionBlocks + i
			if int64(at)*block < size && used(at) {
				e.Used |= 1 << i
			}
		}
		if e.Used == 0 {
			continue
		}
		var chunk []byte
		for run := range e.Runs(size) {
			chunk = append(chunk, content[run.Offset:][:run.Len]...)
		}
		e.ID = image.Sum(chunk)
		chunks[e.ID] = enc.Encode(nil, chunk)
		m.Entries = append(m.Entries, e)
	}
	return &source{Image: finishImage(t, &m, man, size), chunks: chunks, disk: content}
}

// finishImage makes an opened image of a map.
func finishImage(t testing.TB, m *image.Map, man image.Manifest, size int64) *image.Image {
	t.Helper()
	l, err := image.NewLayout(m, size)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	man.Format, man.DiskSize = image.ManifestVersion, size
	man.Map = image.MapInfo{Digest: image.Sum(raw), Regions: len(m.Entries), Chunks: l.Chunks(), UsedBytes: l.UsedBytes()}
	b, digest, err := man.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	z, err := image.CompressMap(raw)
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.Open(digest, b, bytes.NewReader(z))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// random fills b, reproducibly; every second KiB compresses well.
func random(b []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		if i&1024 == 0 {
			b[i] = byte(r.Uint32())
		}
	}
}

// plainImage is an image without a partition table of size bytes, with two
// blocks of three used, or what used says.
func plainImage(t testing.TB, size int, used func(int) bool) *source {
	b := make([]byte, size)
	random(b, uint64(size))
	if used == nil {
		used = func(i int) bool { return i == 0 || i%3 != 2 }
	}
	return captureUsed(t, b, image.Manifest{SectorSize: 512, Table: "none"}, used)
}

// tool runs a program that judges our work, or skips the test without it.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	return toolInput(t, "", name, args...)
}

// toolInput is tool with something on the program's standard input.
func toolInput(t testing.TB, input, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// gptDisks keeps the disks that gptImage has made: sgdisk takes a second.
var gptDisks sync.Map // size → func() ([]byte, error)

// gptImage is an image of a disk of size bytes that sgdisk partitioned: 1 MiB
// of EFI system partition at 1 MiB, the rest another, all filled with data but
// for gaps in the second.
func gptImage(t testing.TB, size int64) *source {
	t.Helper()
	tool(t, "sgdisk", "--version")
	f, _ := gptDisks.LoadOrStore(size, sync.OnceValues(func() ([]byte, error) {
		b := make([]byte, size)
		random(b, 7)
		clear(b[:1<<20])
		clear(b[size-64<<10:])
		file := filepath.Join(t.TempDir(), "gpt")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			return nil, err
		}
		tool(t, "sgdisk", "-n", "1:2048:4095", "-t", "1:ef00", "-n", fmt.Sprintf("2:4096:%d", size/512-34), file)
		return os.ReadFile(file)
	}))
	b, err := f.(func() ([]byte, error))()
	if err != nil {
		t.Fatal(err)
	}
	table, err := ptable.Read(bytes.NewReader(b), size, 512)
	if err != nil {
		t.Fatal(err)
	}
	man := image.Manifest{SectorSize: 512, Table: table.Kind, GPT: table.GPT}
	for _, p := range table.Parts {
		man.Partitions = append(man.Partitions, image.Partition{Number: p.Number, Start: p.Start, Size: p.Size, Content: "unknown"})
	}
	lastBlock := int((int64(table.GPT.LastUsableLBA)*512 + 511) / block) // shared with the backup GPT
	return captureUsed(t, b, man, func(i int) bool {
		at := int64(i) * block
		return at < 34*512 || at >= 1<<20 && at < 2<<20 || at >= 2<<20 && i%24 != 4 && i <= lastBlock
	})
}

// run installs src on dev from src's chunks.
func run(t testing.TB, src *source, dev *memDisk, opt install.Options) (apiResult, error) {
	t.Helper()
	j, err := install.New(src.Image, dev, opt)
	if err != nil {
		return apiResult{}, err
	}
	return j.Run(t.Context(), install.FromStore(src))
}

// mustRun is run where nothing may fail.
func mustRun(t testing.TB, src *source, dev *memDisk, opt install.Options) apiResult {
	t.Helper()
	r, err := run(t, src, dev, opt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// checkUsed compares the used blocks of b with the image's, GPT apart.
func checkUsed(t testing.TB, src *source, b []byte) {
	t.Helper()
	if err := usedDiffer(src, b); err != nil {
		t.Error(err)
	}
}

func usedDiffer(src *source, b []byte) error {
	end := int64(len(src.disk))
	from := int64(0)
	if g := src.Manifest.GPT; g != nil {
		end = min(end, int64(g.LastUsableLBA+1)*512)
		from = 1024
	}
	for _, e := range src.Layout.Entries() {
		for r := range e.Runs(src.Layout.DiskSize()) {
			lo, hi := max(r.Offset, from), min(r.Offset+int64(r.Len), end)
			if lo < hi && !bytes.Equal(b[lo:hi], src.disk[lo:hi]) {
				return fmt.Errorf("disk differs from the image in %d..%d", lo, hi)
			}
		}
	}
	return nil
}

// verify compares dev with the image by install.Verify.
func verify(t testing.TB, src *source, dev *memDisk) *install.Report {
	t.Helper()
	r, err := install.Verify(t.Context(), src.Image, dev, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
