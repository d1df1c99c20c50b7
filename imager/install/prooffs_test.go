package install_test

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"huck/imager/disk/disktest"
)

// populate makes files of all kinds in dir: many small ones, deep folders, a
// long one, sparse ones, hard links, attributes. A third of the bytes is in
// files called gone-…, to be removed.
func populate(t *testing.T, dir string) {
	t.Helper()
	plainFiles(t, dir)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	deep := dir
	for i := range 40 {
		deep = filepath.Join(deep, fmt.Sprint("deep-", i))
	}
	must(os.MkdirAll(deep, 0o750))
	must(os.WriteFile(filepath.Join(deep, "bottom"), []byte("of it all"), 0o4711))
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	must(err)
	for _, at := range []int64{0, 3 * mib, 7*mib + 123} {
		_, err := sparse.WriteAt([]byte(strings.Repeat("data ", 3000)), at)
		must(err)
	}
	must(sparse.Truncate(20 * mib))
	must(sparse.Close())
	must(os.Link(filepath.Join(dir, "huge"), filepath.Join(dir, "d1", "link")))
	must(os.Symlink(strings.Repeat("a/long/link/", 10), filepath.Join(dir, "symlink")))
	for i := range 20 {
		name := filepath.Join(dir, "d2", fmt.Sprint("small-", 2+7*i))
		must(unix.Setxattr(name, "user.huck", bytes.Repeat([]byte{byte(i)}, 1+i*40), 0))
	}
	must(os.Chown(filepath.Join(dir, "d3"), 1234, 4321))
}

// plainFiles makes what every filesystem can hold.
func plainFiles(t *testing.T, dir string) {
	t.Helper()
	r := rand.NewChaCha8([32]byte{5})
	write := func(name string, n int, mode fs.FileMode) {
		t.Helper()
		b := bytes.Repeat([]byte(gone), n/len(gone)+1)[:n]
		if !strings.HasPrefix(filepath.Base(name), "gone-") {
			_, _ = r.Read(b) // never fails
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, mode); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 7 {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprint("d", i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 280 {
		write(fmt.Sprintf("d%d/small-%d", i%7, i), int(r.Uint64()%4000), fs.FileMode(0o600+i%64))
		if i%4 == 0 {
			write(fmt.Sprintf("d%d/gone-%d", i%7, i), 9000+int(r.Uint64()%200_000), 0o644)
			write(fmt.Sprintf("d%d/large-%d", i%7, i), int(r.Uint64()%200_000), 0o644)
		}
	}
	write("huge", 9*mib+17, 0o600)
}

func removeGone(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.Syncfs(int(f.Fd())) // else they were never written
	if err = cmp.Or(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	list, err := filepath.Glob(filepath.Join(dir, "*", "gone-*"))
	if err != nil || len(list) != 70 {
		t.Fatalf("%d files to remove, %v", len(list), err)
	}
	for _, name := range list {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// firstMetaBG has the first group of descriptors where they are without meta_bg,
// with its backups, as the kernel leaves it when it grows a filesystem that has
// no room reserved for more of them. e2fsck then corrects the counts.
const firstMetaBG = `debugfs -w -R "ssv first_meta_bg 1" "$1"; e2fsck -fy "$1" >"/dev/null" || [ $? = 1 ]
dumpe2fs -h "$1" 2>/dev/null | grep -E "First meta block group: +1"`

// fillExt makes a filesystem whose blocks are larger than this machine's pages:
// it cannot be mounted.
func fillExt(t *testing.T, dev string) {
	dir := t.TempDir()
	plainFiles(t, dir)
	var put, remove strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		name := path[len(dir):]
		switch {
		case err != nil || name == "":
			return err
		case d.IsDir():
			fmt.Fprintf(&put, "mkdir %s\n", name)
		default:
			fmt.Fprintf(&put, "write %s %s\nset_inode_field %s mode 0100640\n", path, name, name)
		}
		if strings.HasPrefix(d.Name(), "gone-") {
			fmt.Fprintf(&remove, "rm %s\n", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{put.String(), remove.String()} {
		toolInput(t, script, "debugfs", "-w", "-f", "-", dev)
	}
}

func sameExt(t *testing.T, a, b string) {
	sameCopies(t, a, b, func(dev, to string) { tool(t, "debugfs", "-R", "rdump / "+to, dev) })
}

// sameCopies compares what a tool reads from two devices.
func sameCopies(t *testing.T, a, b string, read func(dev, to string)) {
	t.Helper()
	x, y := t.TempDir(), t.TempDir()
	read(a, x)
	read(b, y)
	tool(t, "diff", "-r", "--no-dereference", x, y)
	files := 0
	err := filepath.WalkDir(x, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files++
		}
		return err
	})
	if err != nil || files < 350 {
		t.Errorf("%d files compared, %v", files, err)
	}
}

// fillXFS makes a filesystem of a kind that new kernels mount no more. Files that
// lose their mode are dropped by xfs_repair.
func fillXFS(t *testing.T, dev string) {
	dir := t.TempDir()
	plainFiles(t, dir)
	var b strings.Builder
	b.WriteString("boot\n0 0\nd--755 0 0\n")
	for i := range 7 {
		fmt.Fprintf(&b, "d%d d--755 0 0\n", i)
		list, err := filepath.Glob(fmt.Sprintf("%s/d%d/*", dir, i))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range list {
			fmt.Fprintf(&b, "%s ---644 0 0 %s\n", filepath.Base(name), name)
		}
		b.WriteString("$\n")
	}
	fmt.Fprintf(&b, "huge ---600 7 8 %s/huge\n$\n", dir)
	list := filepath.Join(dir, "protofile")
	if err := os.WriteFile(list, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkfs.xfs", "-q", "-f", "--unsupported", "-m", "crc=0", "-p", list, dev)
	edits := []string{"-x"}
	for line := range strings.Lines(tool(t, "xfs_db", "-r", "-c", "blockget -n", "-c", "ncheck", dev)) {
		if inode, name, _ := strings.Cut(strings.TrimSpace(line), " "); strings.Contains(name, "gone-") {
			edits = append(edits, "-c", "inode "+inode, "-c", "write core.mode 0")
		}
	}
	if len(edits) != 1+4*70 {
		t.Fatalf("%d edits", len(edits))
	}
	tool(t, "xfs_db", append(edits, dev)...)
	tool(t, "xfs_repair", "-o", "force_geometry", dev)
}

func sameXFS(t *testing.T, a, b string) { sameBlocks(t, "xfs", a, b) }

func fillNTFS(t *testing.T, dev string) {
	byFUSE(t, "ntfs-3g", dev, "rw", func(dir string) { populate(t, dir); removeGone(t, dir) })
}

func sameNTFS(t *testing.T, a, b string) {
	var states [2]string
	for i, dev := range []string{a, b} {
		byFUSE(t, "ntfs-3g", dev, "ro", func(dir string) { states[i] = treeState(t, dir) })
	}
	wantState(t, states[0], states[1])
}

func fillExFAT(t *testing.T, dev string) {
	byFUSE(t, "mount.exfat-fuse", dev, "rw", func(dir string) { plainFiles(t, dir); removeGone(t, dir) })
}

func sameExFAT(t *testing.T, a, b string) {
	sameCopies(t, a, b, func(dev, to string) {
		byFUSE(t, "mount.exfat-fuse", dev, "ro", func(dir string) { tool(t, "cp", "-r", dir+"/.", to) })
	})
}

// byFUSE mounts dev with a program that serves it in the foreground, and waits
// for the program, which writes after the unmounting, to end.
func byFUSE(t *testing.T, program, dev, options string, f func(dir string)) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		tool(t, program) // skips or fails
	}
	dir := t.TempDir()
	foreground := map[string][]string{"ntfs-3g": {"-o", "no_detach"}, "mount.exfat-fuse": {"-d"}}[program]
	var out bytes.Buffer
	cmd := exec.Command(program, append(foreground, "-o", options, dev, dir)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the program
	var before unix.Stat_t
	if err := unix.Stat(filepath.Dir(dir), &before); err != nil {
		t.Fatal(err)
	}
	for tick, deadline := time.NewTicker(5*time.Millisecond), time.After(time.Minute); ; {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err == nil && st.Dev != before.Dev {
			tick.Stop()
			break
		}
		select {
		case <-tick.C:
		case err := <-ended:
			t.Fatalf("%s: %v\n%s", program, err, &out)
		case <-deadline:
			_ = cmd.Process.Kill()
			t.Fatalf("%s does not mount", program)
		}
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(errors.Join(err, cmd.Process.Kill()))
		}
		if err := <-ended; err != nil {
			t.Errorf("%s: %v\n%s", program, err, &out)
		}
		disktest.Settled(t, dev) // the kernel had it, too
	}()
	f(dir)
}

func fillFAT(t *testing.T, dev string) {
	dir := t.TempDir()
	plainFiles(t, dir)
	list, err := filepath.Glob(dir + "/*")
	if err != nil {
		t.Fatal(err)
	}
	tool(t, "mcopy", append(append([]string{"-s", "-i", dev}, list...), "::")...)
	for i := range 7 {
		tool(t, "mdel", "-i", dev, fmt.Sprintf("::d%d/gone-*", i))
	}
}

func sameFAT(t *testing.T, a, b string) {
	sameCopies(t, a, b, func(dev, to string) { tool(t, "mcopy", "-s", "-n", "-i", dev, "::", to) })
}

// fillF2FS makes files with f2fs-tools, which can remove none.
func fillF2FS(t *testing.T, dev string) {
	dir := t.TempDir()
	plainFiles(t, dir)
	list, err := filepath.Glob(filepath.Join(dir, "*", "gone-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range list {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	tool(t, "sload.f2fs", "-f", dir, dev)
}

func sameF2FS(t *testing.T, a, b string) { sameBlocks(t, "f2fs", a, b) }

// sameBlocks compares the blocks that partclone would copy, where no program here
// reads the files.
func sameBlocks(t *testing.T, kind, a, b string) {
	t.Helper()
	var hash [2]string
	for i, dev := range []string{a, b} {
		f, err := os.Open(dev)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		h := sha256.New()
		for _, r := range partclone(t, kind, dev) {
			if _, err := io.Copy(h, io.NewSectionReader(f, r[0], r[1])); err != nil {
				t.Fatal(err)
			}
		}
		hash[i] = fmt.Sprintf("%x", h.Sum(nil))
	}
	if hash[0] != hash[1] {
		t.Error("the used blocks differ")
	}
}
