package install_test

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"huck/imager/install/prooftest"
)

// must fails the test on the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := cmp.Or(errs...); err != nil {
		t.Fatal(err)
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
	must(t, prooftest.Plain(dir))
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

// fillXFS makes a filesystem of a kind that new kernels mount no more; in
// qemu-tests, TestFilesystems has one that does. Files that lose their mode are
// dropped by xfs_repair.
func fillXFS(t *testing.T, dev string) {
	dir := t.TempDir()
	must(t, prooftest.Plain(dir))
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
	byFUSE(t, "ntfs-3g", dev, "rw", func(dir string) { must(t, prooftest.Populate(dir), prooftest.RemoveGone(dir)) })
}

func sameNTFS(t *testing.T, a, b string) {
	var states [2]string
	for i, dev := range []string{a, b} {
		byFUSE(t, "ntfs-3g", dev, "ro", func(dir string) { states[i] = treeState(t, dir) })
	}
	must(t, prooftest.Same(states[0], states[1]))
}

func fillExFAT(t *testing.T, dev string) {
	byFUSE(t, "mount.exfat-fuse", dev, "rw", func(dir string) { must(t, prooftest.Plain(dir), prooftest.RemoveGone(dir)) })
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
	}()
	f(dir)
}

func fillFAT(t *testing.T, dev string) {
	dir := t.TempDir()
	must(t, prooftest.Plain(dir))
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

// fillF2FS makes files with f2fs-tools, which can remove none: in qemu-tests,
// TestFilesystems has a kernel do it.
func fillF2FS(t *testing.T, dev string) {
	dir := t.TempDir()
	must(t, prooftest.Plain(dir))
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
