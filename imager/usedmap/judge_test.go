package usedmap_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"huck/imager/image"
	"huck/imager/usedmap"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// tool returns the path of a program a test needs as its judge.
func tool(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p
		}
	}
	if os.Getenv("REQUIRE_TOOLS") == "1" {
		t.Fatalf("%s is not installed (REQUIRE_TOOLS=1)", name)
	}
	t.Skipf("%s is not installed (REQUIRE_TOOLS=1 makes this a failure)", name)
	return ""
}

// needRoot is for tests that mount something or make a block device.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("REQUIRE_TOOLS") == "1" {
		t.Fatal("not root")
	}
	t.Skip("not root")
}

// try runs a tool and returns all it says and its exit code.
func try(t testing.TB, name string, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(tool(t, name), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "MTOOLS_SKIP_CHECK=1")
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, code := try(t, name, args...)
	if code != 0 {
		t.Fatalf("%s %v: exit code %d\n%s", name, args, code, out)
	}
	return out
}

// tempDir returns a folder in memory where there is one: the tools sync what
// they write, and the rest of the machine's work with it.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "usedmap-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// newFile makes a sparse file.
func newFile(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(tempDir(t), "fs")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// tree makes a folder of files of many sizes, holes and links among them.
// Files named gone-… are there to be removed again.
func tree(t testing.TB, total int64) string {
	t.Helper()
	dir := tempDir(t)
	rng := rand.New(rand.NewPCG(3, 4))
	for i := 0; total > 0; i++ {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i%7))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("f%d", i)
		if i%3 == 0 {
			name = fmt.Sprintf("gone-%d", i)
		}
		b := make([]byte, rng.Int64N(min(total, 256*kib)+1))
		for j := range b {
			b[j] = byte(rng.Uint32())
		}
		if err := os.WriteFile(filepath.Join(sub, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
		total -= int64(len(b)) + 4096
	}
	return dir
}

func probe(t testing.TB, path string) (usedmap.Result, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return usedmap.Probe(f, st.Size())
}

// mustProbe wants a set of used bytes without any remark.
func mustProbe(t testing.TB, path, content string) *usedmap.Set {
	t.Helper()
	res, err := probe(t, path)
	if err != nil {
		t.Fatal(err)
	}
	if res.Content != content || res.Used == nil || res.Whole != "" || res.Dirty != "" || len(res.Warnings) != 0 {
		t.Fatalf("probe: %+v", res)
	}
	return res.Used
}

// garbageFill is how much of a hole at most gets garbage at each end.
const garbageFill = 2 * mib

// garbageCopy copies the blocks that hold used bytes to a new file in which
// all else is garbage.
func garbageCopy(t testing.TB, path string, used *usedmap.Set) string {
	t.Helper()
	src, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		t.Fatal(err)
	}
	to := newFile(t, st.Size())
	dst, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	write := func(b []byte, at int64) {
		if _, err := dst.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	var at int64
	spoil := func(end int64) {
		junk := bytes.Repeat([]byte{0xa5}, int(min(garbageFill, max(0, end-at))))
		write(junk, at)
		write(junk, end-int64(len(junk)))
	}
	for off, n := range used.All() {
		from := max(at, off&^(image.BlockSize-1))
		end := min((off+n+image.BlockSize-1)&^(image.BlockSize-1), st.Size())
		if end <= from {
			continue
		}
		if from > at {
			spoil(from)
		}
		b := make([]byte, end-from)
		if _, err := src.ReadAt(b, from); err != nil {
			t.Fatal(err)
		}
		write(b, from)
		at = end
	}
	if st.Size() > at {
		spoil(st.Size())
	}
	return to
}

// sameTree compares two folders, name by name and byte by byte.
func sameTree(t testing.TB, a, b string) {
	t.Helper()
	if out, code := try(t, "diff", "-r", "--no-dereference", a, b); code != 0 {
		t.Errorf("files differ:\n%.2000s", out)
	}
}

func patch(t testing.TB, path string, at int64, edit func(b []byte)) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 64)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	edit(b)
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}
