package initramfs_test

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"huck/build/initramfs"
)

const program = `package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "--list-commands" {
		fmt.Println("ls\ncat")
	}
}
`

// checkout makes a tree with a small init, as old as age says, in a folder of its own.
func checkout(t *testing.T, source string, age time.Duration) string {
	t.Helper()
	root := t.TempDir()
	write(t, filepath.Join(root, "go.mod"), "module huck\n\ngo 1.26\n", 0o644)
	write(t, filepath.Join(root, "initramfs", "init", "main.go"), source, 0o644)
	makeOlder(t, root, age)
	return root
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func makeOlder(t *testing.T, root string, age time.Duration) {
	t.Helper()
	when := time.Now().Add(-age)
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, when, when)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func build(t *testing.T, o initramfs.Options) []byte {
	t.Helper()
	o.Out = filepath.Join(t.TempDir(), "out", "initramfs.cpio.zst")
	o.Log = t.Logf
	if err := initramfs.Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(o.Out)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

func TestBuildIsReproducible(t *testing.T) {
	first := build(t, initramfs.Options{
		Root:     checkout(t, program, 0),
		Overlay:  overlay(t, []string{"etc/ca.pem", "etc/keys/a.pub", "z"}, 0o600, 0),
		Firmware: overlay(t, []string{"tigon/tg3.bin"}, 0o644, 0),
	})
	second := build(t, initramfs.Options{
		Root:     checkout(t, program, 1000*time.Hour),
		Overlay:  overlay(t, []string{"z", "etc/keys/a.pub", "etc/ca.pem"}, 0o644, time.Hour),
		Firmware: overlay(t, []string{"tigon/tg3.bin"}, 0o444, 2*time.Hour),
	})
	if !bytes.Equal(first, second) {
		t.Errorf("two builds of the same files differ (%d and %d bytes)", len(first), len(second))
	}
}

func overlay(t *testing.T, names []string, mode fs.FileMode, age time.Duration) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		write(t, filepath.Join(dir, name), "content of "+name, mode)
	}
	makeOlder(t, dir, age)
	return dir
}

func TestBuildContents(t *testing.T) {
	over := overlay(t, []string{"etc/ca.pem", "usr/share/deep/file"}, 0o600, 0)
	write(t, filepath.Join(over, "etc", "hook"), "#!", 0o700)
	if err := os.Symlink("ca.pem", filepath.Join(over, "etc", "link")); err != nil {
		t.Fatal(err)
	}
	archive := build(t, initramfs.Options{
		Root:     checkout(t, program, 0),
		Overlay:  over,
		Firmware: overlay(t, []string{"bnx2/a.fw"}, 0o644, 0),
	})
	got := map[string]cpio.Record{}
	var names []string
	for _, r := range records(t, archive) {
		got[r.Name] = r
		names = append(names, r.Name)
	}
	if !slices.IsSorted(names) {
		t.Errorf("entries are not in the order of their names: %v", names)
	}
	want := map[string]uint64{
		"init": cpio.S_IFREG | 0o755, "bbin/ls": cpio.S_IFLNK | 0o777, "bbin/cat": cpio.S_IFLNK | 0o777,
		"dev/console": cpio.S_IFCHR | 0o600, "dev/null": cpio.S_IFCHR | 0o666,
		"proc": cpio.S_IFDIR | 0o755, "tmp": cpio.S_IFDIR | 0o1777,
		"etc/ca.pem": cpio.S_IFREG | 0o644, "etc/hook": cpio.S_IFREG | 0o755, "etc/link": cpio.S_IFLNK | 0o777,
		"usr/share/deep": cpio.S_IFDIR | 0o755, "usr/share/deep/file": cpio.S_IFREG | 0o644,
		"lib/firmware/bnx2/a.fw": cpio.S_IFREG | 0o644,
	}
	for name, mode := range want {
		r, ok := got[name]
		switch {
		case !ok:
			t.Errorf("/%s is missing", name)
		case r.Mode != mode:
			t.Errorf("/%s has mode %o, want %o", name, r.Mode, mode)
		case r.MTime != 0 || r.UID != 0 || r.GID != 0 || r.NLink != 1:
			t.Errorf("/%s carries something of this machine: %v", name, r.Info)
		}
	}
	if target := content(t, got["bbin/ls"]); target != "../init" {
		t.Errorf("bbin/ls points to %q", target)
	}
	if text := content(t, got["etc/ca.pem"]); text != "content of etc/ca.pem" {
		t.Errorf("etc/ca.pem holds %q", text)
	}
}

func records(t *testing.T, archive []byte) []cpio.Record {
	t.Helper()
	rs, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(unpack(t, archive))))
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func unpack(t *testing.T, archive []byte) []byte {
	t.Helper()
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	plain, err := z.DecodeAll(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func content(t *testing.T, r cpio.Record) string {
	t.Helper()
	if r.ReaderAt == nil {
		return ""
	}
	text, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// GNU cpio reads the same names: what we wrote is not only what our own reader takes.
func TestCpioReadsIt(t *testing.T) {
	tool, err := exec.LookPath("cpio")
	switch {
	case err == nil:
	case os.Getenv("REQUIRE_TOOLS") == "1":
		t.Fatal(err)
	default:
		t.Skip(err)
	}
	archive := build(t, initramfs.Options{Root: checkout(t, program, 0)})
	cmd := exec.CommandContext(t.Context(), tool, "--list", "--quiet")
	cmd.Stdin = bytes.NewReader(unpack(t, archive))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio --list: %v\n%s", err, out)
	}
	var want []string
	for _, r := range records(t, archive) {
		want = append(want, r.Name)
	}
	if got := strings.Fields(string(out)); !slices.Equal(got, want) {
		t.Errorf("cpio lists %v, want %v", got, want)
	}
}

func TestBuildRefuses(t *testing.T) {
	pipe := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mkfifo", filepath.Join(pipe, "fifo")).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v\n%s", err, out)
	}
	tests := []struct {
		name, program string
		overlay       string
		want          string
	}{
		{"no Go", "package main\nfunc main() { nowhere() }\n", "", "undefined: nowhere"},
		{"no list", "package main\nimport \"os\"\nfunc main() { println(\"what?\"); os.Exit(3) }\n", "", "what?"},
		{"bad name", strings.Replace(program, "ls", "../ls", 1), "", `"../ls" is no name`},
		{"replaces init", program, overlay(t, []string{"init"}, 0o644, 0), "/init is in the initramfs already"},
		{"file over a folder", program, overlay(t, []string{"proc"}, 0o644, 0), "/proc is in the initramfs already"},
		{"folder over a file", program, overlay(t, []string{"init/x"}, 0o644, 0), "/init is in the initramfs already"},
		{"not a file", program, pipe, "neither a file"},
		{"no overlay", program, filepath.Join(pipe, "gone"), "no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "archive")
			err := initramfs.Build(t.Context(), initramfs.Options{
				Root: checkout(t, tt.program, 0), Overlay: tt.overlay, Out: out, Log: t.Logf,
			})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("an archive was written all the same")
			}
		})
	}
}
