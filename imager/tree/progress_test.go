package tree_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"huck/imager/tree"
)

// TestProgress wants every step told, from first to last, to its end.
func TestProgress(t *testing.T) {
	_ = judge(t, "mkfs.ext4", "-V")
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "boot"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "boot/vmlinuz-6"), []byte("kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	plain := archive(t)
	oci, top := newOCI(t), zipped(t, archiveOf(t, header("opt/x", tar.TypeReg, 0o644, 0)))
	oci.image(oci.blob(plain), oci.blob(top))
	packed := zipped(t, plain)
	for _, tt := range []struct {
		tree   string
		unpack int // bytes
	}{{folder, 0}, {writeFile(t, "tree", packed), len(packed)}, {oci.dir, len(plain) + len(top)}} {
		var steps []string
		var last, whole int64
		tell := func(step string, done, total int64) {
			switch n := len(steps); {
			case n == 0 || steps[n-1] != step:
				if last != whole {
					t.Errorf("%q is told after %d of %d bytes", step, last, whole)
				}
				steps = append(steps, step)
			case done < last || done > total || total != whole:
				t.Errorf("%q is told as %d of %d bytes after %d of %d", step, done, total, last, whole)
			}
			last, whole = done, total
			if step == tree.StepUnpack && total != int64(tt.unpack) {
				t.Errorf("%d bytes are to be unpacked, want %d", total, tt.unpack)
			}
		}
		want := []string{tree.StepUnpack, tree.StepFill, tree.StepAttributes}
		if tt.unpack == 0 {
			want = want[1:]
		}
		out := filepath.Join(t.TempDir(), "disk")
		if err := tree.Make(t.Context(), tree.Config{Tree: tt.tree, Layout: layout(t), Progress: tell}, out); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(steps, want) || last != whole {
			t.Errorf("told of %q and then %d of %d bytes, want all of %q", steps, last, whole, want)
		}
	}
}

// TestFilling fills a disk by hand.
func TestFilling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, disk := t.TempDir(), filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(filepath.Join(dir, "a"), bytes.Repeat([]byte("x"), 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "same")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(disk, bytes.Repeat([]byte("t"), 64<<10), 0o644); err != nil {
			t.Fatal(err)
		}
		var got []string
		end := tree.Filling(disk, dir, func(step string, done, total int64) {
			got = append(got, fmt.Sprintf("%s %d/%d", step, done>>16, total>>16)) // the filesystem's own may be more
		})
		for _, n := range []int64{9, 3, 40} { // units of 64 KiB
			if err := os.WriteFile(disk, bytes.Repeat([]byte("x"), int(n)<<16), 0o644); err != nil {
				t.Fatal(err)
			}
			time.Sleep(600 * time.Millisecond)
		}
		end(true)
		want := []string{"fill 8/16", "fill 8/16", "fill 16/16", "fill 16/16"}
		if !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	})
}
