package install_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"huck/imager/api"
	"huck/imager/capture"
	"huck/imager/disk"
	"huck/imager/disk/disktest"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/store"
)

const (
	mib = 1 << 20
	// targetSize ends within a mebibyte, with just enough room for a backup GPT.
	targetSize = 700*mib + 5*4096
)

// needKernel skips the test without a filesystem in this kernel.
func needKernel(t testing.TB, kind string) {
	t.Helper()
	_ = exec.Command("modprobe", kind).Run() // it is listed only once it is loaded, and may be built in
	b, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.TrimSpace(line) == kind {
			return
		}
	}
	if os.Getenv("REQUIRE_TOOLS") == "1" {
		t.Fatalf("this kernel has no %s", kind)
	}
	t.Skipf("this kernel has no %s", kind)
}

// attach makes a block device of n bytes at off of file, until the test or the
// returned function ends.
func attach(t testing.TB, file string, off, n int64, sector int) (dev string, detach func()) {
	t.Helper()
	dev = strings.TrimSpace(tool(t, "losetup", "-f", "--show", "-b", fmt.Sprint(sector), "-o", fmt.Sprint(off), "--sizelimit", fmt.Sprint(n), file))
	gone := false
	detach = func() {
		if !gone {
			tool(t, "losetup", "-d", dev)
		}
		gone = true
	}
	t.Cleanup(detach)
	return dev, detach
}

// mounted calls f with the folder on which dev is mounted.
func mounted(t testing.TB, dev, kind, options string, f func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	tool(t, "mount", "-t", kind, "-o", options, dev, dir)
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
	}()
	f(dir)
}

// fill makes a few hundred files, some of them long.
func fill(t testing.TB, dir string, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 3))
	for i := range 200 {
		at := filepath.Join(dir, fmt.Sprint("d", i%7), fmt.Sprint("e", i%3))
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, r.IntN(1<<(8+i%10)))
		for j := range b {
			b[j] = byte(r.Uint32())
		}
		if err := os.WriteFile(filepath.Join(at, fmt.Sprint("f", seed, "-", i)), b, fs.FileMode(0o600+i%64)); err != nil {
			t.Fatal(err)
		}
	}
}

// treeHash is of names, modes and contents.
func treeHash(t testing.TB, dir string) string {
	t.Helper()
	h := sha256.New()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(h, path, info.Mode())
		if !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(filepath.Join(dir, path))
		fmt.Fprintln(h, len(b))
		h.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// growing is a disk whose last partition holds a filesystem.
type growing struct {
	table  string
	sector int
	kind   string
	mkfs   []string
	size   int64 // the last partition's; 0 is what mkfs.xfs wants at least, and a bit

	file   string // what the image was made of
	source int64  // its size
	start  int64  // where the last partition begins
	hash   string // its files'
	img    *image.Image
	store  *store.Dir
}

// make makes the disk and captures it.
func (g *growing) make(t testing.TB) {
	t.Helper()
	disktest.NeedRoot(t)
	needKernel(t, g.kind)
	if g.size == 0 {
		g.size = 318 * mib
	}
	g.start, g.source = 2*mib, g.size+4*mib
	g.file = filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(g.file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(g.file, g.source); err != nil {
		t.Fatal(err)
	}
	whole, detach := attach(t, g.file, 0, g.source, g.sector)
	switch per := int64(mib / g.sector); g.table {
	case "gpt":
		tool(t, "sgdisk", "-n", fmt.Sprintf("1:%d:%d", per, 2*per-1), "-n", fmt.Sprintf("2:%d:%d", 2*per, g.size/int64(g.sector)+2*per-1), whole)
	case "mbr":
		toolInput(t, fmt.Sprintf("label: dos\n%d,%d,c\n%d,%d,83\n", per, per, 2*per, g.size/int64(g.sector)), "sfdisk", whole)
	case "none":
		g.start, g.size = 0, g.source
	}
	detach()
	dev, detach := attach(t, g.file, g.start, g.size, g.sector)
	tool(t, "mkfs."+g.kind, append(g.mkfs, dev)...)
	mounted(t, dev, g.kind, "rw", func(dir string) {
		fill(t, dir, 1)
		g.hash = treeHash(t, dir)
	})
	detach()
	g.capture(t)
}

func (g *growing) capture(t testing.TB) {
	t.Helper()
	var err error
	if g.store, err = store.Open(t.TempDir(), store.Options{Create: true}); err != nil {
		t.Fatal(err)
	}
	path, detach := attach(t, g.file, 0, g.source, g.sector)
	dev, err := disk.Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	r, err := capture.Run(t.Context(), capture.Config{Device: dev, Store: g.store, Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	detach()
	if g.img, err = store.OpenImage(t.Context(), g.store, r.Digest); err != nil {
		t.Fatal(err)
	}
	for _, p := range g.img.Manifest.Partitions {
		if p.Start == g.start && (p.Content != g.kind || p.Whole != "") {
			t.Fatalf("captured %+v", p)
		}
	}
}

// install puts the image on what path names.
func (g *growing) install(t testing.TB, path string, opt install.Options) (api.Result, error) {
	t.Helper()
	dev, err := disk.Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	}()
	j, err := install.New(g.img, dev, opt)
	if err != nil {
		return api.Result{}, err
	}
	return j.Run(t.Context(), install.FromStore(g.store))
}

// check tells whether what stands at off of file is the filesystem, sound, and
// as long as n bytes allow.
func (g *growing) check(t testing.TB, file string, off, n int64) {
	t.Helper()
	dev, detach := attach(t, file, off, n, g.sector)
	defer detach()
	g.sound(t, dev)
	mounted(t, dev, g.kind, "ro", func(dir string) {
		if got := treeHash(t, dir); got != g.hash {
			t.Error("the files differ from those captured")
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		// All show less than there is: what they need themselves, logs of up to 64 MiB.
		if have := int64(st.Blocks) * st.Bsize; have > n || have < n-n/10-80*mib {
			t.Errorf("%d bytes of %d", have, n)
		}
	})
}

// sound asks the filesystem's own checker.
func (g *growing) sound(t testing.TB, dev string) {
	t.Helper()
	switch g.kind {
	case "xfs":
		tool(t, "xfs_repair", "-n", dev)
	case "btrfs":
		tool(t, "btrfs", "check", "--readonly", dev)
	default:
		tool(t, "e2fsck", "-fn", dev)
	}
}

// messy makes a file of size bytes with garbage here and there.
func messy(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "target")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, mib)
	random(b, 5)
	for at := int64(0); at+mib <= size; at += 8 * mib {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// use changes the files as a system that runs from the disk would.
func (g *growing) use(t testing.TB, file string, off, n int64) {
	t.Helper()
	dev, detach := attach(t, file, off, n, g.sector)
	defer detach()
	mounted(t, dev, g.kind, "rw", func(dir string) {
		fill(t, dir, 2)
		if err := os.RemoveAll(filepath.Join(dir, "d1")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, 40*mib), 0o600); err != nil {
			t.Fatal(err)
		}
	})
}
