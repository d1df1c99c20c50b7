package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/image"
	"huck/imager/store"
)

// needs skips, or fails where tools are required, without these programs.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("REQUIRE_TOOLS") != "" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

// TestMakeDisk wants a sound filesystem with most of the files, and the bytes
// of deleted ones in its free blocks.
func TestMakeDisk(t *testing.T) {
	needs(t, "mkfs.ext4", "debugfs", "e2fsck")
	from := t.TempDir()
	for i := range 40 {
		text := bytes.Repeat(fmt.Appendf(nil, "file number %d\n", i), 5000)
		if err := os.WriteFile(filepath.Join(from, fmt.Sprintf("f %d", i)), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := makeDisk(t.Context(), disk, from, 100<<20); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	list, err := output(t.Context(), "debugfs", "-R", "ls -p "+from, disk)
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for i := range 40 {
		if !bytes.Contains(raw, fmt.Appendf(nil, "file number %d\n", i)) {
			t.Errorf("nothing of file %d is on the disk", i)
		}
		if strings.Contains(string(list), fmt.Sprintf("/f %d/", i)) {
			kept++
		}
	}
	if want := 40 - 40/deletedPart; kept != want {
		t.Errorf("%d files, want %d", kept, want)
	}
	if err := makeDisk(t.Context(), disk, t.TempDir(), 1<<20); err == nil {
		t.Error("a disk was made of no files")
	}
}

func TestSparseImage(t *testing.T) {
	dir := t.TempDir()
	if err := sparseImage(t.Context(), dir, "large", 300); err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tag, err := st.Resolve(t.Context(), image.Ref{Name: "large"})
	if err != nil {
		t.Fatal(err)
	}
	img, err := store.OpenImage(t.Context(), st, tag.Digest)
	if err != nil || img.Layout.Chunks() != 300 || img.Manifest.DiskSize != 300*image.RegionSize {
		t.Errorf("%+v, %v", img, err)
	}
	if r, err := st.Check(t.Context(), store.CheckOptions{ReadData: true}); err != nil || r.Damaged > 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestTimed wants the program's own memory, not this process's.
func TestTimed(t *testing.T) {
	needs(t, "time")
	ballast := bytes.Repeat([]byte{1}, 64<<20)
	u, err := timed(t.Context(), []string{"WORD=said"}, "sh", "-c", `[ "$WORD" = said ] && echo oops >&2`)
	if err != nil || u.memory <= 0 || u.memory > 32<<20 || u.seconds <= 0 {
		t.Errorf("%+v, %v", u, err)
	}
	if ballast[0] != 1 {
		t.Error("ballast is gone")
	}
	if _, err := timed(t.Context(), nil, "sh", "-c", "echo because >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "because") {
		t.Errorf("%v does not say why", err)
	}
}

// TestImageRatio wants the rounds compared one by one: of a machine that was slow
// for a while the medians of the times say something else.
func TestImageRatio(t *testing.T) {
	b := &imageBench{jobs: []*job{{Name: "ours", Seconds: []float64{1, 4, 3}}, {Name: "theirs", Seconds: []float64{2, 8, 1}}, {Name: "other", Seconds: []float64{1, 1, 1}}}}
	if r := b.ratio("ours", "theirs", "other"); r != (summary{Median: 0.5, Min: 0.5, Max: 3}) {
		t.Errorf("%+v", r)
	}
}

// TestImageVerdicts has every figure on the wrong side of its bar, then on the
// right one.
func TestImageVerdicts(t *testing.T) {
	runs := func(name string, seconds float64) *job { return &job{Name: name, Seconds: []float64{seconds}} }
	bad := &imageBench{encoded: 103, peer: 100, memory: 97 << 20, diff: 100, fetched: 106, jobs: []*job{
		runs("capture", 1), runs("partclone | zstd", 1.9), runs("capture on 1 core", 1.6), runs("capture on 2 cores", 1),
		runs("install", 2), runs("dd oflag=direct", 1), runs("decode and hash", 1.5),
		runs("install, all in place", 1), runs("dd of the used bytes", 0.7)}}
	for _, v := range bad.verdicts() {
		if v.Held {
			t.Errorf("%s", v)
		}
	}
	good := &imageBench{encoded: 102, peer: 100, memory: 96 << 20, diff: 100, fetched: 105, jobs: []*job{
		runs("capture", 1), runs("partclone | zstd", 2), runs("capture on 1 core", 1.7), runs("capture on 2 cores", 1),
		runs("install", 1.7), runs("dd oflag=direct", 1), runs("decode and hash", 1.5),
		runs("install, all in place", 1), runs("dd of the used bytes", 0.8)}}
	for _, v := range good.verdicts() {
		if !v.Held {
			t.Errorf("%s", v)
		}
	}
}
