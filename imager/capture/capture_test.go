package capture_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"huck/imager/capture"
	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/store"
)

const gptTable = `label: gpt
label-id: 7f3f4c66-1a0b-4c52-9b62-0e2f5f1d2a10
start=1MiB, size=8MiB, type=U, name=esp
start=9MiB, size=32MiB, type=L, name=root
start=41MiB, size=4MiB, type=S
start=46MiB, size=2MiB, type=L, name=data
`

// gptDisk makes the disk that most tests capture, of 52 MiB.
func gptDisk(t testing.TB, tree string) string {
	return makeDisk(t, 52, gptTable,
		part{1, 8, vfat(tree)}, part{9, 32, ext4(tree)}, part{41, 4, swap}, part{46, 2, unknown})
}

func openDisk(t testing.TB, path string) disk.Device {
	t.Helper()
	dev, err := disk.Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

func newStore(t testing.TB) *store.Dir {
	t.Helper()
	s, err := store.Open(t.TempDir(), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func run(t testing.TB, cfg capture.Config) capture.Result {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "test"
	}
	r, err := capture.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantSound(t testing.TB, s *store.Dir) {
	t.Helper()
	res, err := s.Check(t.Context(), store.CheckOptions{ReadData: true, Found: func(f store.Finding) { t.Errorf("store check: %+v", f) }})
	if err != nil || res.Damaged > 0 {
		t.Errorf("store check: %+v, %v", res, err)
	}
}

func TestGPT(t *testing.T) {
	tree := makeTree(t, 1)
	path := gptDisk(t, tree)
	s := newStore(t)
	var last, total int64
	r := run(t, capture.Config{Device: openDisk(t, path), Store: s, Progress: func(d, n int64) {
		if d < last {
			t.Errorf("progress goes back from %d to %d", last, d)
		}
		last, total = d, n
	}})
	if r.Ref != "test:1" || last != r.ImageBytes || total != r.ImageBytes || r.NewBytes != r.EncodedBytes || r.EncodedBytes >= r.ImageBytes {
		t.Errorf("result %+v, progress %d of %d", r, last, total)
	}
	if r.ImageBytes > 18*mib {
		t.Errorf("%d bytes used of a disk with 6 MiB of files and 2 MiB unknown", r.ImageBytes)
	}
	restored, img := restore(t, s, r.Digest)
	tool(t, "sgdisk", "-v", restored)
	if out := tool(t, "sgdisk", "-v", restored); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk: %s", out)
	}
	wantTree(t, extract(t, restored, 9, 32), tree)
	tool(t, "fsck.vfat", "-n", extract(t, restored, 1, 8))
	if out := tool(t, "blkid", "-p", "-o", "value", "-s", "UUID", extract(t, restored, 41, 4)); out != "11111111-2222-3333-4444-555555555555\n" {
		t.Errorf("swap's UUID is %q", out)
	}
	sameBytes(t, path, restored, 46*mib, 2*mib)
	wantSound(t, s)

	want := []struct {
		content, label string
		whole          bool
	}{{"vfat", "ESP", false}, {"ext4", "root", false}, {"swap", "", false}, {"unknown", "", true}}
	for i, p := range img.Manifest.Partitions {
		w := want[i]
		if p.Number != i+1 || p.Content != w.content || p.FSLabel != w.label || (p.Whole != "") != w.whole || p.UsedBytes == 0 {
			t.Errorf("partition %+v, want %+v", p, w)
		}
	}
	// The backup GPT and what lies between the partitions' end and it are out.
	for off := int64(48 * mib); off < 52*mib; off += 4096 {
		if used(img, off) {
			t.Fatalf("block at %d, after the last partition, is in the image", off)
		}
	}
	// The gap of 1 MiB before partition 4 is garbage, so it is in; the one at
	// the disk's start is zeros, and in too.
	if !used(img, 45*mib) || !used(img, 512*1024) {
		t.Error("gaps are not in the image")
	}
}

func TestResultJSON(t *testing.T) {
	b, err := json.Marshal(capture.Result{Ref: "a:1", ImageBytes: 3, Seconds: 1.5})
	want := fmt.Sprintf(`{"event":"done","ref":"a:1","digest":"@%064d","image_bytes":3,"encoded_bytes":0,"new_bytes":0,"surplus_bytes":0,"bad_bytes":0,"seconds":1.5}`, 0)
	if err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
}

// TestSameDiskSameDigest captures one disk in several ways, then with a change.
func TestSameDiskSameDigest(t *testing.T) {
	tree := makeTree(t, 1)
	path := gptDisk(t, tree)
	s := newStore(t)
	first := run(t, capture.Config{Device: openDisk(t, path), Store: s, Workers: 1})
	again := run(t, capture.Config{Device: openDisk(t, path), Store: s, Workers: 8, Parent: "test:1@" + first.Digest.String()})
	other := run(t, capture.Config{Device: openDisk(t, path), Store: newStore(t), Workers: 3, Name: "other"})
	if again.Digest != first.Digest || other.Digest != first.Digest {
		t.Errorf("digests %s with 1 worker, %s with 8, %s in another store", first.Digest, again.Digest, other.Digest)
	}
	if again.NewBytes != 0 || again.Ref != "test:2" || again.EncodedBytes != first.EncodedBytes || other.NewBytes != first.NewBytes {
		t.Errorf("first %+v, again %+v, other %+v", first, again, other)
	}
	tag, err := s.Resolve(t.Context(), image.Ref{Name: "test"})
	if err != nil || tag.Parent != "test:1@"+first.Digest.String() {
		t.Errorf("tag %+v, %v", tag, err)
	}
	// One file more, in the filesystem as it stands.
	part := extract(t, path, 9, 32)
	small := t.TempDir() + "/small"
	if err := os.WriteFile(small, []byte("small change"), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "debugfs", "-w", "-R", "write "+small+" small", part)
	b, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	patch(t, path, 9*mib, b)
	changed := run(t, capture.Config{Device: openDisk(t, path), Store: s})
	if changed.Digest == first.Digest || changed.NewBytes == 0 || changed.NewBytes > first.NewBytes/4 {
		t.Errorf("after a small change %+v, before %+v", changed, first)
	}
	wantSound(t, s)
}

func TestMBRWithLogicalPartitions(t *testing.T) {
	tree := makeTree(t, 2)
	path := makeDisk(t, 64, "label: dos\nlabel-id: 0x12345678\nstart=1MiB, size=4MiB, type=c, bootable\nstart=6MiB, size=50MiB, type=5\nstart=7MiB, size=8MiB, type=82\nstart=16MiB, size=40MiB, type=83\n",
		part{1, 4, func(t testing.TB, f string) { tool(t, "mkfs.vfat", f) }}, part{7, 8, swap}, part{16, 40, ext4(tree)})
	s := newStore(t)
	r := run(t, capture.Config{Device: openDisk(t, path), Store: s})
	restored, img := restore(t, s, r.Digest)
	if got, want := tool(t, "sfdisk", "-d", restored), tool(t, "sfdisk", "-d", path); strings.ReplaceAll(got, restored, path) != want {
		t.Errorf("table %s, want %s", got, want)
	}
	wantTree(t, extract(t, restored, 16, 40), tree)
	var numbers []int
	for _, p := range img.Manifest.Partitions {
		numbers = append(numbers, p.Number)
	}
	if fmt.Sprint(numbers) != "[1 5 6]" || img.Manifest.Table != "mbr" {
		t.Errorf("partitions %v of a table %s", numbers, img.Manifest.Table)
	}
}

func TestWholeDiskFilesystem(t *testing.T) {
	tree := makeTree(t, 3)
	path := makeDisk(t, 40, "", part{0, 40, ext4(tree)})
	s := newStore(t)
	r := run(t, capture.Config{Device: openDisk(t, path), Store: s})
	restored, img := restore(t, s, r.Digest)
	wantTree(t, restored, tree)
	if p := img.Manifest.Partitions; len(p) != 1 || p[0].Number != 0 || p[0].Content != "ext4" || img.Manifest.Table != "none" {
		t.Errorf("manifest %+v", img.Manifest)
	}
}

func TestUnknownDiskIsWhole(t *testing.T) {
	path := makeDisk(t, 3, "")
	if err := os.Truncate(path, 3*mib-512); err != nil { // a short last block
		t.Fatal(err)
	}
	s := newStore(t)
	r := run(t, capture.Config{Device: openDisk(t, path), Store: s})
	if r.ImageBytes != 3*mib-512 {
		t.Errorf("%d bytes", r.ImageBytes)
	}
	restored, img := restore(t, s, r.Digest)
	sameBytes(t, path, restored, 0, 3*mib-512)
	if img.Manifest.Partitions[0].Whole == "" {
		t.Error("the manifest does not say that the disk was taken whole")
	}
}

func TestRaw(t *testing.T) {
	path := gptDisk(t, makeTree(t, 1))
	s := newStore(t)
	r := run(t, capture.Config{Device: openDisk(t, path), Store: s, Raw: []int{3}})
	restored, img := restore(t, s, r.Digest)
	sameBytes(t, path, restored, 41*mib, 4*mib)
	if p := img.Manifest.Partitions; p[2].Whole == "" || p[2].Content != "swap" || p[1].Whole != "" {
		t.Errorf("partitions %+v", p)
	}
	r = run(t, capture.Config{Device: openDisk(t, path), Store: s, RawAll: true})
	restored, _ = restore(t, s, r.Digest)
	sameBytes(t, path, restored, 0, 48*mib)
	var refused *capture.Refused
	if _, err := capture.Run(t.Context(), capture.Config{Device: openDisk(t, path), Store: s, Name: "x", Raw: []int{9}}); !errors.As(err, &refused) {
		t.Errorf("raw of a partition that is not there: %v", err)
	}
}

// TestBackupGPTCountsAsZero has a partition whose last block holds the first
// sectors of the backup GPT too.
func TestBackupGPTCountsAsZero(t *testing.T) {
	path := makeDisk(t, 4, "label: gpt\nstart=2048, size=6111, type=L\n") // up to the last usable sector but one
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	backup := int64(len(b) - 33*512)
	if backup%image.BlockSize == 0 || string(b[len(b)-512:][:8]) != "EFI PART" {
		t.Fatalf("backup GPT at %d", backup)
	}
	end := int64(2048+6111) * 512
	s := newStore(t)
	r := run(t, capture.Config{Device: openDisk(t, path), Store: s})
	restored, img := restore(t, s, r.Digest)
	if !used(img, end-1) || used(img, backup+image.BlockSize) {
		t.Fatal("the shared block is not in the image, or the backup is")
	}
	sameBytes(t, path, restored, mib, end-mib)
	patched := strings.Repeat("backup", 100)[:512]
	patch(t, path, backup, []byte(patched)) // breaks the backup, which must not matter
	if again := run(t, capture.Config{Device: openDisk(t, path), Store: s}); again.NewBytes != 0 || again.Digest != r.Digest {
		t.Errorf("the backup GPT is in the image: %+v", again)
	}
}

func TestRefused(t *testing.T) {
	tree := makeTree(t, 1)
	dirty := gptDisk(t, tree)
	part := extract(t, dirty, 9, 32)
	tool(t, "debugfs", "-w", "-R", "set_super_value state 0", part) // as while it is mounted
	b, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	patch(t, dirty, 9*mib, b)
	broken := gptDisk(t, tree)
	patch(t, broken, 512, make([]byte, 512)) // both GPT headers
	patch(t, broken, 52*mib-512, make([]byte, 512))
	short := gptDisk(t, tree) // as left by a copy that was interrupted
	if err := os.Truncate(short, 52*mib-100); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path, says string
		force            bool // makes it go
	}{
		{"dirty", dirty, "partition 2", true},
		{"GPT lost", broken, "GPT", false},
		{"half a sector", short, "54525852 bytes are no whole number of sectors", false},
		{"empty", empty, "it is empty", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			var refused *capture.Refused
			_, err := capture.Run(t.Context(), capture.Config{Device: openDisk(t, c.path), Store: s, Name: "x"})
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("error %v", err)
			}
			if tags, err := s.Tags(t.Context()); len(tags) > 0 || err != nil {
				t.Errorf("tags %v, %v", tags, err)
			}
			r, err := capture.Run(t.Context(), capture.Config{Device: openDisk(t, c.path), Store: s, Name: "x", Force: true})
			if (err == nil) != c.force {
				t.Fatalf("forced: %v", err)
			}
			if err != nil {
				return
			}
			restored, img := restore(t, s, r.Digest)
			sameBytes(t, c.path, restored, 9*mib, 32*mib)
			if img.Manifest.Partitions[1].Whole == "" {
				t.Error("forced, and not taken whole")
			}
		})
	}
}

// TestMounted captures a loop device that is mounted.
func TestMounted(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	tree := makeTree(t, 1)
	path := makeDisk(t, 24, "", part{0, 24, ext4(tree)})
	loop := strings.TrimSpace(tool(t, "losetup", "-f", "--show", path))
	t.Cleanup(func() { tool(t, "losetup", "-d", loop) })
	dir := t.TempDir()
	if err := unix.Mount(loop, dir, "ext4", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	unmount := func() {
		if err := unix.Unmount(dir, 0); err != nil && err != unix.EINVAL {
			t.Error(err)
		}
	}
	t.Cleanup(unmount)
	s := newStore(t)
	var refused *capture.Refused
	if _, err := capture.Run(t.Context(), capture.Config{Device: openDisk(t, loop), Store: s, Name: "x"}); !errors.As(err, &refused) || !strings.Contains(err.Error(), dir) {
		t.Errorf("mounted on %s: %v", dir, err)
	}
	forced := run(t, capture.Config{Device: openDisk(t, loop), Store: s, Force: true})
	restored, _ := restore(t, s, forced.Digest)
	wantTree(t, restored, tree) // mounted read-only it is at rest
	unmount()
	run(t, capture.Config{Device: openDisk(t, loop), Store: s})
}

func TestCancel(t *testing.T) {
	path := gptDisk(t, makeTree(t, 1))
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := capture.Run(ctx, capture.Config{Device: &flaky{Device: openDisk(t, path), cancel: cancel}, Store: s, Name: "x", RawAll: true})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	if tags, err := s.Tags(t.Context()); len(tags) > 0 || err != nil {
		t.Errorf("tags %v, %v", tags, err)
	}
	if res, err := s.Check(t.Context(), store.CheckOptions{ReadData: true}); err != nil || res.Damaged > 0 || res.Images > 0 {
		t.Errorf("check %+v, %v", res, err)
	}
	if left, err := os.ReadDir(s.Path() + "/tmp"); err != nil || len(left) > 0 {
		t.Errorf("temporary files %v, %v", left, err)
	}
}

// TestGaps has boot code in a long gap, and leftovers after the last partition.
func TestGaps(t *testing.T) {
	path := makeDisk(t, 64, "label: gpt\nstart=30MiB, size=1MiB, type=L\nstart=40MiB, size=1MiB, type=L\n")
	b := make([]byte, 29*mib)
	copy(b[2*mib:], "boot code")
	copy(b[20*mib:], "too far from the start of the gap")
	patch(t, path, mib, b)
	s := newStore(t)
	var log strings.Builder
	r := run(t, capture.Config{Device: openDisk(t, path), Store: s, Log: slog.New(slog.NewTextHandler(&log, nil))})
	_, img := restore(t, s, r.Digest)
	for off, want := range map[int64]bool{0: true, mib - 1: true, mib: false, 3 * mib: true, 3*mib + 4096: false, 21 * mib: false,
		30 * mib: true, 31 * mib: true, 40*mib - 1: true, 41*mib - 1: true, 41 * mib: false, 63 * mib: false} {
		if used(img, off) != want {
			t.Errorf("block at %d used: %v, want %v", off, !want, want)
		}
	}
	if !strings.Contains(log.String(), "left out") {
		t.Errorf("log: %s", log.String())
	}
}

func TestConfig(t *testing.T) {
	dev := openDisk(t, makeDisk(t, 1, ""))
	for _, cfg := range []capture.Config{{Name: "No"}, {Name: "x", Parent: "a b"}} {
		cfg.Device, cfg.Store = dev, newStore(t)
		if _, err := capture.Run(t.Context(), cfg); err == nil {
			t.Errorf("%q, parent %q is taken", cfg.Name, cfg.Parent)
		}
	}
}

var _ io.ReaderAt = (*flaky)(nil)
