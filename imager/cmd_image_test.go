package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/disk/disktest"
)

// exportDone is the line that export ends with.
type exportDone struct {
	Event, Ref, Digest, Parent, File, Format string
	FileBytes                                int64 `json:"file_bytes"`
	ImageBytes                               int64 `json:"image_bytes"`
	Chunks                                   int
}

func TestExportImport(t *testing.T) {
	dir := t.TempDir()
	a, b, st, other := ext4Disk(t, 1), ext4Disk(t, 2), filepath.Join(dir, "store"), filepath.Join(dir, "other")
	var golden, child, got captured
	want(t, 0, &golden, "--json", "capture", a, "--store", st, "--name", "golden")
	want(t, 0, &child, "--json", "capture", b, "--store", st, "--name", "golden", "--parent", "golden:1")
	whole, delta := filepath.Join(dir, "whole.huck"), filepath.Join(dir, "delta.huck")
	var e exportDone
	want(t, 0, &e, "--json", "export", "golden:1", whole, "--store", st)
	if st, err := os.Stat(whole); err != nil || e.Event != "done" || e.Ref != "golden:1" || e.Digest != golden.Digest || e.FileBytes != st.Size() || e.Format != "huck" {
		t.Errorf("exported %+v, %v", e, err)
	}
	want(t, 0, &e, "--json", "export", "golden:2", delta, "--store", st, "--delta-from", "golden:1")
	if e.Parent != golden.Digest || e.Digest != child.Digest {
		t.Errorf("exported %+v, want a delta against %s", e, golden.Digest)
	}
	if out := want(t, exitRefused, nil, "import", delta, "--store", other, "--name", "copy"); !strings.Contains(out, golden.Digest[1:]) {
		t.Errorf("the refusal does not name the parent: %s", out)
	}
	want(t, 0, &got, "--json", "import", whole, "--store", other, "--name", "copy")
	if got.Ref != "copy:1" || got.Digest != golden.Digest {
		t.Errorf("imported %+v, want %+v", got, golden)
	}
	want(t, 0, &got, "--json", "import", delta, "--store", other, "--name", "copy")
	if got.Ref != "copy:2" || got.Digest != child.Digest {
		t.Errorf("imported %+v, want %+v", got, child)
	}
	want(t, 0, nil, "check", "--read-data", "--store", other)
	want(t, 0, nil, "verify", "copy:2", "--store", other, "--against", b)

	want(t, exitRefused, nil, "export", "golden:1", whole, "--store", st)
	want(t, 0, nil, "export", "golden:1", whole, "--store", st, "--force")
	want(t, exitNotFound, nil, "export", "golden:9", filepath.Join(dir, "x"), "--store", st)
	want(t, exitNotFound, nil, "export", "golden:1", filepath.Join(dir, "x"), "--store", st, "--delta-from", "golden:9")
	want(t, exitUsage, nil, "export", "golden:1", filepath.Join(dir, "x"), "--store", st, "--format", "raw", "--delta-from", "golden:2")
	want(t, exitUsage, nil, "export", "golden:1", "-", "--store", st, "--format", "qcow2")
	want(t, exitUsage, nil, "export", "golden:1", filepath.Join(dir, "x"), "--store", st, "--format", "vdi")
	want(t, exitUsage, nil, "import", whole, "--store", st, "--name", "No Name")
	if err := os.Truncate(whole, 100000); err != nil {
		t.Fatal(err)
	}
	if out := want(t, exitFailed, nil, "import", whole, "--store", other, "--name", "cut"); !strings.Contains(out, "cut short") {
		t.Errorf("a file cut short: %s", out)
	}
	want(t, exitNotFound, nil, "show", "cut", "--store", other)
}

func TestExportImportDisks(t *testing.T) {
	dir := t.TempDir()
	disk, st := ext4Disk(t, 1), filepath.Join(dir, "store")
	var golden, got captured
	want(t, 0, &golden, "--json", "capture", disk, "--store", st, "--name", "golden")
	for _, format := range []string{"raw", "qcow2"} {
		file := filepath.Join(dir, "disk") // its name says nothing
		want(t, 0, nil, "export", "golden", file, "--store", st, "--format", format, "--force")
		tool(t, "qemu-img", "compare", "-f", "raw", "-F", format, disk, file)
		want(t, 0, &got, "--json", "import", file, "--store", st, "--name", "back")
		if got.Digest != golden.Digest || got.NewBytes != 0 {
			t.Errorf("by way of %s: %+v, want %+v", format, got, golden)
		}
	}
}

// TestStreams exports to standard output and imports from standard input.
func TestStreams(t *testing.T) {
	dir := t.TempDir()
	st, other := filepath.Join(dir, "store"), filepath.Join(dir, "other")
	var golden, got captured
	want(t, 0, &golden, "--json", "capture", ext4Disk(t, 1), "--store", st, "--name", "golden")
	var file, said, out bytes.Buffer
	if err := run(t.Context(), Env{Stdout: &file, Stderr: &said}, []string{"--quiet", "--json", "export", "golden", "-", "--store", st}); err != nil {
		t.Fatal(err)
	}
	var e exportDone
	if err := json.Unmarshal(said.Bytes(), &e); err != nil || e.File != "-" || e.FileBytes != int64(file.Len()) {
		t.Errorf("exported %+v, %v: %s", e, err, &said)
	}
	if err := run(t.Context(), Env{Stdin: &file, Stdout: &out, Stderr: t.Output()}, []string{"--json", "import", "-", "--store", other, "--name", "copy"}); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Digest != golden.Digest {
		t.Errorf("imported %+v, %v", got, err)
	}
}

// smallTree makes a tree and the layout of a disk for it.
func smallTree(t *testing.T) (root, layout string) {
	t.Helper()
	root, layout = t.TempDir(), filepath.Join(t.TempDir(), "layout.json")
	if err := os.MkdirAll(filepath.Join(root, "boot"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{filepath.Join(root, "boot/vmlinuz-6"): "kernel", layout: `{"disk_size":67108864,"esp_size":16777216}`} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root, layout
}

func TestImportTree(t *testing.T) {
	dir := t.TempDir()
	root, layout := smallTree(t)
	st := filepath.Join(dir, "store")
	tool(t, "mkfs.ext4", "-V") // the test needs it
	var got captured
	want(t, 0, &got, "--json", "import", "--tree", root, "--layout", layout, "--store", st, "--name", "golden")
	if got.Ref != "golden:1" {
		t.Errorf("imported %+v", got)
	}
	if out := want(t, 0, nil, "show", "golden", "--store", st); !strings.Contains(out, "ext4") || !strings.Contains(out, "vfat") || strings.Contains(out, "whole") {
		t.Errorf("the image:\n%s", out)
	}
	want(t, 0, nil, "install", "golden", "--store", st, "--to", filepath.Join(dir, "disk"), "--verify")
	tool(t, "sfdisk", "--verify", filepath.Join(dir, "disk"))
	for _, args := range [][]string{{"--tree", root}, {"--layout", layout}, {"x", "--tree", root, "--layout", layout}, {"--tree", root, "--layout", root}, {}} {
		want(t, exitUsage, nil, append([]string{"import", "--store", st, "--name", "n"}, args...)...)
	}
	want(t, exitRefused, nil, "import", "--tree", dir, "--layout", layout, "--store", st, "--name", "n")
}

// TestImportTreeParent: of a tree with one file more, an image that has a parent
// shares all but that file with it.
func TestImportTreeParent(t *testing.T) {
	disktest.NeedRoot(t)
	root, layout := smallTree(t)
	st := filepath.Join(t.TempDir(), "store")
	tool(t, "mkfs.ext4", "-V") // the test needs it
	random := func(name string, n int) {
		t.Helper()
		b := make([]byte, n)
		_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b) // never fails
		if err := os.WriteFile(filepath.Join(root, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	random("much", 16<<20)
	args := []string{"--json", "import", "--tree", root, "--layout", layout, "--store", st, "--name", "golden"}
	var first, second captured
	want(t, 0, &first, args...)
	random("a little", 1<<20)
	want(t, 0, &second, append(args, "--parent", "golden:1")...)
	if first.NewBytes < 16<<20 || second.Ref != "golden:2" || second.NewBytes < 1<<20 || second.NewBytes > 3<<20 {
		t.Errorf("imported %+v, then %+v", first, second)
	}
	if out := want(t, 0, nil, "images", "--store", st); !strings.Contains(out, "golden:1"+first.Digest) {
		t.Errorf("the parent is not told:\n%s", out)
	}
	target := filepath.Join(t.TempDir(), "disk")
	want(t, 0, nil, "install", "golden", "--store", st, "--to", target, "--verify")
	tool(t, "e2fsck", "-fn", target+"?offset="+fmt.Sprint(17<<20))
	want(t, exitNotFound, nil, append(args, "--parent", "none")...)
	want(t, exitUsage, nil, "import", target, "--store", st, "--name", "golden", "--parent", "golden")
	if err := os.WriteFile(layout, []byte(`{"disk_size":134217728,"esp_size":16777216}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := want(t, exitRefused, nil, append(args, "--parent", "golden")...); !strings.Contains(out, "disk_size is 67108864 there") {
		t.Errorf("refused: %s", out)
	}
}
