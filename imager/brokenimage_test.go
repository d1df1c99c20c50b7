package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBrokenImages damages every file of a store, and a .huck file, each in
// several ways. Whoever reads them is told so, and where an install ends well
// all the same the disk is the right one.
func TestBrokenImages(t *testing.T) {
	dir := t.TempDir()
	disk, st := filepath.Join(dir, "disk"), filepath.Join(dir, "store")
	s := &bases{t: t, made: make(map[string][]byte)}
	b := s.disk("gpt")
	if err := os.WriteFile(disk, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"capture", disk, "--store", st, "--name", "x"}, {"export", "x", filepath.Join(dir, "x.huck"), "--store", st},
	} {
		if o := imagerProcess(t, args...); o.code != 0 {
			t.Fatalf("%v: %s", args, o.err)
		}
	}
	rows := 0
	for _, glob := range []string{"packs/*.pack", "images/*.map", "images/*.json", "tags/x/1.json", "store.json"} {
		for name, edit := range damages() {
			rows++
			t.Run(glob+" "+name, func(t *testing.T) { brokenStore(t, disk, st, glob, edit) })
		}
	}
	huck, err := os.ReadFile(filepath.Join(dir, "x.huck"))
	if err != nil {
		t.Fatal(err)
	}
	edits := damages()
	for at, what := range map[int]string{8: "features", 16: "tag's length", 20: "manifest's length", 24: "map's length", 32: "bitmap's length", 36: "number of chunks"} {
		edits["giant "+what] = poke(at, 4, 1<<32-1)
	}
	edits["more behind"] = func(b []byte) []byte { return append(b, 0) }
	for name, edit := range edits {
		rows++
		t.Run("huck "+name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "y.huck")
			if err := os.WriteFile(file, edit(bytes.Clone(huck)), 0o600); err != nil {
				t.Fatal(err)
			}
			to := filepath.Join(t.TempDir(), "store")
			o := imagerProcess(t, "import", file, "--store", to, "--name", "y")
			list := imagerProcess(t, "images", "--store", to)
			if o.code == 0 || strings.Contains(list.out, "y:1") || !strings.Contains(o.err, "imager: ") {
				t.Errorf("exit code %d: %s; images: %s", o.code, o.err, list.out)
			}
		})
	}
	t.Logf("%d images; the program took %d MiB at most", rows, peak.Load()>>20)
}

// damages are what may happen to any file.
func damages() map[string]func([]byte) []byte {
	return map[string]func([]byte) []byte{
		"empty":       func([]byte) []byte { return nil },
		"cut in half": func(b []byte) []byte { return b[:len(b)/2] },
		"cut short":   func(b []byte) []byte { return b[:len(b)-1] },
		"first byte":  flip(0),
		"middle":      func(b []byte) []byte { return flip(len(b) / 2)(b) },
		"end":         func(b []byte) []byte { return flip(len(b) - 2)(b) },
		"zeros":       func(b []byte) []byte { clear(b); return b },
		"garbage":     func(b []byte) []byte { return noise(len(b)) },
	}
}

// brokenStore damages a file of a copy of the store and installs from it.
func brokenStore(t *testing.T, disk, st, glob string, edit func([]byte) []byte) {
	dir := t.TempDir()
	copied, target := filepath.Join(dir, "store"), filepath.Join(dir, "target")
	if err := os.CopyFS(copied, os.DirFS(st)); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(copied, glob))
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s: %v", glob, err)
	}
	b, err := os.ReadFile(files[0])
	if err == nil {
		err = os.WriteFile(files[0], edit(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	o := imagerProcess(t, "install", "x", "--store", copied, "--to", target, "--verify")
	check := imagerProcess(t, "check", "--read-data", "--store", copied)
	if check.code == 0 && o.code != 0 {
		t.Errorf("check finds nothing, install ends with %d: %s", o.code, o.err)
	}
	if o.code != 0 {
		if !strings.Contains(o.err, "imager: ") {
			t.Errorf("exit code %d without a word: %s", o.code, o.err)
		}
		wantUnbootable(t, target)
		return
	}
	sameRange(t, disk, target, 1<<20, 20<<20)
}

// wantUnbootable wants a disk that was not finished to have no partition table.
func wantUnbootable(t *testing.T, target string) {
	t.Helper()
	b, err := os.ReadFile(target)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(b) >= 1024 && (b[510] == 0x55 || string(b[512:520]) == "EFI PART") {
		t.Error("a disk that is not complete has a partition table")
	}
}
