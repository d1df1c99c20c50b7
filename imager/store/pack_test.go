package store_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"

	"huck/imager/image"
	"huck/imager/store"
)

// examplePack is the pack written out in FORMAT.md.
func examplePack(t testing.TB) []byte {
	t.Helper()
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(doc), "```pack\n")
	text, _, ok2 := strings.Cut(text, "```")
	if !ok || !ok2 {
		t.Fatal("FORMAT.md has no example of a pack")
	}
	text = regexp.MustCompile(`(?m)#.*$`).ReplaceAllString(text, "")
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestExamplePack(t *testing.T) {
	b := examplePack(t)
	n, name, err := store.ReadTable(b)
	if err != nil || n != 2 {
		t.Fatalf("%d chunks, %v", n, err)
	}
	table, err := store.RewriteTable(b)
	if err != nil || !bytes.HasSuffix(b, table) {
		t.Errorf("written again the table is\n%x, %v", table, err)
	}
	// As a store of its own it reads back.
	d := openDir(t, t.TempDir())
	if err := os.WriteFile(d.Path()+"/packs/"+name.String()+".pack", b, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Huck", strings.Repeat("z", 4096)} {
		if _, err := d.Chunk(t.Context(), image.Sum([]byte(want))); err != nil {
			t.Errorf("chunk %.10q: %v", want, err)
		}
	}
}

func TestPackCut(t *testing.T) {
	b := examplePack(t)
	for n := range b {
		if _, _, err := store.ReadTable(b[:n]); err == nil {
			t.Errorf("a pack cut to %d bytes is taken", n)
		}
	}
}

func FuzzReadTable(f *testing.F) {
	f.Add(examplePack(f))
	f.Add([]byte("HUCKPAK\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := store.ReadTable(b); err != nil {
			return
		}
		table, err := store.RewriteTable(b)
		if err != nil || !bytes.Equal(table[:len(table)-16], b[len(b)-len(table):len(b)-16]) {
			t.Errorf("%x is written again as %x, %v", b, table, err)
		}
	})
}
