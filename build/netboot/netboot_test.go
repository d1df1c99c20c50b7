package netboot_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/build/netboot"
)

type index struct {
	Version int
	Files   map[string]struct {
		Size   int64
		SHA256 string
	}
}

func source(t *testing.T, name, text string) netboot.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return netboot.File{Name: name, Source: path}
}

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "netboot")
	files := []netboot.File{source(t, "vmlinuz", "abc"), source(t, "initramfs.cpio.zst", "")}
	if err := netboot.Write(dir, files, t.Logf); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, netboot.Index))
	if err != nil {
		t.Fatal(err)
	}
	var got index
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.Version != 1 || len(got.Files) != 2 {
		t.Errorf("boot.json holds %s", text)
	}
	// From FIPS 180-2, appendix B.1, and of no bytes.
	want := map[string]string{
		"vmlinuz":            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		"initramfs.cpio.zst": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
	}
	for name, sum := range want {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != 0o644 {
			t.Errorf("%s: %v, %v", name, info, err)
			continue
		}
		if f := got.Files[name]; f.SHA256 != sum || f.Size != info.Size() {
			t.Errorf("%s: got %+v, want %s of %d bytes", name, f, sum, info.Size())
		}
	}
}

func TestWriteAgain(t *testing.T) {
	dir := t.TempDir()
	if err := netboot.Write(dir, []netboot.File{source(t, "a", "1"), source(t, "b", "2")}, t.Logf); err != nil {
		t.Fatal(err)
	}
	if err := netboot.Write(dir, []netboot.File{source(t, "a", "three")}, t.Logf); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, netboot.Index))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), `"b"`) || !strings.Contains(string(text), `"size": 5`) {
		t.Errorf("boot.json describes an earlier build: %s", text)
	}
}

func TestMissing(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	err := netboot.Write(t.TempDir(), netboot.IPXE(gone), t.Logf)
	if !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{gone, "bootstrap.sh netboot", "--no-ipxe"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	dir := t.TempDir()
	if err := netboot.Write(dir, []netboot.File{{Name: "vmlinuz", Source: gone}}, t.Logf); err == nil {
		t.Error("no error without a kernel")
	}
	if _, err := os.Stat(filepath.Join(dir, netboot.Index)); err == nil {
		t.Error("boot.json was written without what it describes")
	}
}
