package capture_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/disk/disktest"
	"huck/imager/image"
	"huck/imager/ptable"
	"huck/imager/store"
)

// TestMain lets the mounts of the tests be nobody else's.
func TestMain(m *testing.M) {
	disktest.OwnMounts()
	os.Exit(m.Run())
}

// tool runs a program, which is an outside judge or maker of disks. Without it
// the test is skipped, unless REQUIRE_TOOLS=1.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	return toolInput(t, "", name, args...)
}

func toolInput(t testing.TB, input, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			if os.Getenv("REQUIRE_TOOLS") == "1" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	cmd := exec.Command(path, args...) // also run in cleanups, when t.Context() is over
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1", "LC_ALL=C")
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// garbage fills b with bytes that hold no filesystem.
func garbage(b []byte, seed uint64) {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 0xa5})
	n := min(len(b), 1<<20)
	r.Read(b[:n]) // never fails
	for n < len(b) {
		n += copy(b[n:], b[:n])
	}
}

// makeTree makes a tree of files in a new folder.
func makeTree(t testing.TB, seed uint64) string {
	t.Helper()
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(seed, 7))
	for i := range 60 {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i%7), fmt.Sprintf("e%d", i%3))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, r.IntN(200000))
		garbage(b[:len(b)/2], seed<<8+uint64(i))
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%d", i)), b, os.FileMode(0o600+i%2*0o044)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("d0/e0/file0", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// treeHash lists a tree's files, modes and content hashes.
func treeHash(t testing.TB, dir string) string {
	t.Helper()
	var s strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir || e.Name() == "lost+found" {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		what := ""
		switch {
		case e.Type()&fs.ModeSymlink != 0:
			what, err = os.Readlink(path)
		case !e.IsDir():
			var b []byte
			b, err = os.ReadFile(path)
			what = fmt.Sprintf("%d %x", len(b), sha256.Sum256(b))
		}
		fmt.Fprintln(&s, path[len(dir):], info.Mode(), what)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.String()
}

// part is a partition of a test disk, in MiB.
type part struct {
	start, size int64
	make        func(t testing.TB, file string)
}

const mib = 1 << 20

func ext4(tree string, options ...string) func(testing.TB, string) {
	return func(t testing.TB, file string) {
		args := append([]string{"-q", "-F", "-L", "root", "-U", "0f5a8a6e-6dc8-4b25-9a8f-1f3f0a1b2c3d", "-E", "nodiscard,hash_seed=0f5a8a6e-6dc8-4b25-9a8f-1f3f0a1b2c3d", "-d", tree}, options...)
		tool(t, "mkfs.ext4", append(args, file)...)
	}
}

func vfat(tree string) func(testing.TB, string) {
	return func(t testing.TB, file string) {
		tool(t, "mkfs.vfat", "-n", "ESP", file)
		tool(t, "mcopy", "-s", "-i", file, filepath.Join(tree, "d0"), "::/")
	}
}

func swap(t testing.TB, file string) {
	tool(t, "mkswap", "-U", "11111111-2222-3333-4444-555555555555", file)
}

func unknown(testing.TB, string) {}

// makeDisk makes a disk of size MiB in a file: garbage everywhere, then the
// table, then the partitions.
func makeDisk(t testing.TB, size int64, table string, parts ...part) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	b := make([]byte, size*mib)
	garbage(b, 1)
	clear(b[:mib])
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if table != "" {
		toolInput(t, table, "sfdisk", "-q", "--wipe", "never", "--no-tell-kernel", "--no-reread", path)
	}
	for _, p := range parts {
		file := filepath.Join(t.TempDir(), "part")
		if err := os.WriteFile(file, b[p.start*mib:(p.start+p.size)*mib], 0o600); err != nil {
			t.Fatal(err)
		}
		p.make(t, file)
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		patch(t, path, p.start*mib, content)
	}
	return path
}

func patch(t testing.TB, path string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// extract copies size MiB at start MiB of a disk to a file of its own.
func extract(t testing.TB, path string, start, size int64) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "part")
	if err := os.WriteFile(file, b[start*mib:(start+size)*mib], 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// restore puts an image on a disk full of other garbage, as an installer does.
func restore(t testing.TB, s store.Store, digest image.ID) (string, *image.Image) {
	t.Helper()
	img, err := store.OpenImage(t.Context(), s, digest)
	if err != nil {
		t.Fatal(err)
	}
	size := img.Manifest.DiskSize
	b := make([]byte, size)
	garbage(b, 99)
	dec, buf := image.NewDecoder(), make([]byte, image.RegionSize)
	for _, e := range img.Layout.Entries() {
		encoded, err := s.Chunk(t.Context(), e.ID)
		if err != nil {
			t.Fatal(err)
		}
		chunk, err := dec.Decode(buf, encoded, e.ID, e.Size(size))
		if err != nil {
			t.Fatal(err)
		}
		for r := range e.Runs(size) {
			copy(b[r.Offset:], chunk[r.At:r.At+r.Len])
		}
	}
	if img.Manifest.Table == "gpt" {
		n, err := ptable.HeadSize(b[:2*img.Manifest.SectorSize], img.Manifest.SectorSize)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ptable.Fit(b[:n], img.Manifest.SectorSize, size)
		if err != nil {
			t.Fatal(err)
		}
		copy(b, f.Head)
		copy(b[f.BackupAt:], f.Backup)
	}
	path := filepath.Join(t.TempDir(), "restored")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, img
}

// wantTree fails unless the ext4 filesystem in file is sound and holds the
// files of tree.
func wantTree(t testing.TB, file, tree string) {
	t.Helper()
	tool(t, "e2fsck", "-fn", file)
	out := t.TempDir()
	tool(t, "debugfs", "-R", "rdump / "+out, file)
	if got, want := treeHash(t, out), treeHash(t, tree); got != want {
		t.Errorf("files differ:\n%s\nwant\n%s", got, want)
	}
}

// used reports whether byte off of the disk is in the image.
func used(img *image.Image, off int64) bool {
	for _, e := range img.Layout.Entries() {
		if e.Region == uint64(off/image.RegionSize) {
			return e.Used>>(off%image.RegionSize/image.BlockSize)&1 == 1
		}
	}
	return false
}

// sameBytes fails unless two files have the same bytes at off.
func sameBytes(t testing.TB, a, b string, off, n int64) {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x[off:off+n], y[off:off+n]) {
		t.Errorf("%d bytes at %d differ", n, off)
	}
}
