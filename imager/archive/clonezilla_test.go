package archive_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/archive"
	"huck/imager/image"
	"huck/imager/store"
)

// output returns what a program that tests judge by prints.
func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	need(t, name)
	cmd := exec.CommandContext(t.Context(), name, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, said.Bytes())
	}
	return string(b)
}

// sparse makes a file of zeros.
func sparse(t testing.TB, path string, size int64) string {
	t.Helper()
	put(t, path, nil)
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func put(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// files makes a folder of files that do not compress.
func files(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	r := rand.NewChaCha8([32]byte{1})
	for i, n := range []int{1 << 20, 700, 300_000, 0} {
		b := make([]byte, n)
		_, _ = r.Read(b)
		put(t, filepath.Join(dir, fmt.Sprint("file", i)), b)
	}
	return dir
}

// makeExt4 makes a filesystem of which a file was deleted.
func makeExt4(t testing.TB, path, from string) {
	t.Helper()
	tool(t, "mkfs.ext4", "-q", "-F", "-b", "4096", "-d", from, path)
	tool(t, "debugfs", "-w", "-R", "rm /file2", path)
}

func makeFAT(t testing.TB, path, from string) {
	t.Helper()
	tool(t, "mkfs.vfat", "-F", "16", "-s", "1", path)
	tool(t, "mcopy", "-i", path, filepath.Join(from, "file0"), filepath.Join(from, "file1"), "::")
}

// partclone saves a filesystem as partclone does.
func partclone(t testing.TB, kind, from, to string, options ...string) {
	t.Helper()
	args := []string{"-c", "-s", from, "-o", to, "-L", filepath.Join(t.TempDir(), "log"), "-q"}
	if kind == "dd" {
		args = args[1:]
	}
	tool(t, "partclone."+kind, append(args, options...)...)
}

// pack compresses a file and splits it into pieces as Clonezilla does.
func pack(t testing.TB, file, program, suffix string, pieces int) {
	t.Helper()
	if program != "" {
		packed := output(t, program, "-c", file)
		remove(t, file)
		file += suffix
		put(t, file, []byte(packed))
	}
	if pieces > 1 {
		size := len(get(t, file))/pieces + 1
		tool(t, "split", "-a", "2", "-b", fmt.Sprint(size), file, file+".")
		remove(t, file)
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// importInto imports a file and insists that there are no warnings about
// the table, and that nothing is left of the way there.
func importInto(t *testing.T, s store.WriteStore, file string) (image.ID, error) {
	t.Helper()
	temp := t.TempDir()
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn}))
	r, err := archive.Import(t.Context(), file, archive.ImportConfig{Store: s, Name: "imported", TempDir: temp, Log: log})
	leftovers(t, temp)
	for w := range strings.Lines(said.String()) {
		if err == nil && !strings.Contains(w, "partition taken whole") { // that which dd saved
			t.Errorf("a warning: %s", w)
		}
	}
	return r.Digest, err
}

// export makes a raw disk of an image.
func export(t *testing.T, s store.Store, digest image.ID) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	if _, err := archive.Export(t.Context(), out, archive.ExportConfig{Store: s, Tag: image.TagInfo{Digest: digest}, Format: archive.Raw}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestImportPartclone(t *testing.T) {
	from := files(t)
	for _, c := range []struct {
		fs, program, suffix string
		pieces              int
		options             []string
	}{
		{"ext4", "", "", 1, []string{"-a0"}},
		{"ext4", "", "", 4, nil},
		{"ext4", "gzip", ".gz", 3, []string{"-a1"}},
		{"ext4", "zstd", ".zst", 3, []string{"-a1", "-k", "3"}},
		{"ext4", "xz", ".xz", 1, []string{"-a1", "-k", "7", "-K"}},
		{"ext4", "bzip2", ".bz2", 2, nil},
		{"ext4", "lz4", ".lz4", 2, nil},
		{"ext4", "lzop", ".lzo", 2, nil},
		{"vfat", "gzip", ".gz", 30, nil},
		{"xfs", "zstd", ".zst", 1, nil},
		{"btrfs", "zstd", ".zst", 1, nil},
	} {
		t.Run(strings.Join(append([]string{c.fs, c.program}, c.options...), "_"), func(t *testing.T) {
			t.Parallel() // each partclone sleeps for two seconds
			dir := t.TempDir()
			fs := sparse(t, filepath.Join(dir, "fs"), 16<<20)
			switch c.fs {
			case "ext4":
				makeExt4(t, fs, from)
			case "vfat":
				makeFAT(t, fs, from)
			case "xfs":
				sparse(t, fs, 320<<20)
				tool(t, "mkfs.xfs", "-q", fs)
			case "btrfs":
				sparse(t, fs, 128<<20)
				tool(t, "mkfs.btrfs", "-q", "-r", from, fs)
			}
			img := filepath.Join(dir, "sda1."+c.fs+"-ptcl-img")
			partclone(t, c.fs, fs, img, c.options...)
			pack(t, img, c.program, c.suffix, c.pieces)
			if img += c.suffix; c.pieces > 1 {
				img += ".aa"
			}
			s := newDir(t)
			want := captureDisk(t, s, fs).Digest
			got, err := importInto(t, s, img)
			switch {
			case err != nil:
				t.Fatal(err)
			case c.fs == "btrfs": // there are blocks that partclone leaves out and capture takes
				tool(t, "btrfs", "check", "--check-data-csum", export(t, s, got))
			case got != want:
				t.Errorf("@%s, want @%s", got.Short(), want.Short())
			}
			if c.fs == "ext4" {
				total := sizes(t, filepath.Join(dir, "sda1.*"))
				checkUnpacking(t, s, img, total, total)
			}
		})
	}
}

// TestImportPartcloneNTFS: partclone saves whole clusters, and so not the copy
// of the boot sector behind them.
func TestImportPartcloneNTFS(t *testing.T) {
	t.Parallel()
	dir, s := t.TempDir(), newDir(t)
	fs, img := sparse(t, filepath.Join(dir, "fs"), 16<<20), filepath.Join(dir, "img")
	tool(t, "mkfs.ntfs", "-F", "-q", "-Q", fs)
	tool(t, "ntfscp", fs, filepath.Join(files(t), "file0"), "file0")
	partclone(t, "ntfs", fs, img)
	digest, err := importInto(t, s, img)
	if err != nil {
		t.Fatal(err)
	}
	if got := output(t, "ntfscat", export(t, s, digest), "file0"); got != string(get(t, filepath.Join(files(t), "file0"))) {
		t.Error("a file is not as it was")
	}
}

// saver writes what Clonezilla's ocs-sr savedisk writes of a disk, by the same
// programs (ocs-functions).
type saver struct {
	t         *testing.T
	disk, dir string
	parts     []string
}

func newSaver(t *testing.T, disk string) *saver {
	t.Helper()
	s := &saver{t: t, disk: disk, dir: t.TempDir()}
	put(t, s.path("disk"), []byte("sda\n"))
	s.table("sda-pt.sf")
	s.bytes("sda-mbr", 0, 512)
	put(t, s.path("sda-pt.parted"), fmt.Appendf(nil,
		"Model: ATA disk (scsi)\nDisk /dev/sda: %ds\nSector size (logical/physical): 512B/512B\nPartition Table: x\n", s.size()/512))
	return s
}

func (s *saver) path(name string) string { return filepath.Join(s.dir, name) }

func (s *saver) size() int64 {
	st, err := os.Stat(s.disk)
	if err != nil {
		s.t.Fatal(err)
	}
	return st.Size()
}

// table saves sfdisk's dump, of a disk called sda.
func (s *saver) table(name string) {
	put(s.t, s.path(name), []byte(strings.ReplaceAll(output(s.t, "sfdisk", "--dump", s.disk), s.disk, "/dev/sda")))
}

// bytes saves a part of the disk as dd does.
func (s *saver) bytes(name string, at, n int64) {
	f, err := os.Open(s.disk)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, at, n))
	if err != nil {
		s.t.Fatal(err)
	}
	put(s.t, s.path(name), b)
}

// part makes a filesystem and saves it by partclone, which only reads
// partitions; it is put on the disk at the same place.
func (s *saver) part(name, kind string, at, size int64, fill func(path string)) {
	s.t.Helper()
	fs := sparse(s.t, filepath.Join(s.t.TempDir(), name), size)
	fill(fs)
	f, err := os.OpenFile(s.disk, os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(get(s.t, fs), at); err != nil {
		s.t.Fatal(err)
	}
	switch kind {
	case "swap":
		id := output(s.t, "blkid", "-p", "-o", "value", "-s", "UUID", fs)
		put(s.t, s.path("swappt-"+name+".info"), []byte("UUID=\""+strings.TrimSpace(id)+"\"\nLABEL=\"zram\"\n"))
		return
	case "dd":
		partclone(s.t, "dd", fs, s.path(name+".dd-img"))
		pack(s.t, s.path(name+".dd-img"), "gzip", "", 2)
	default:
		partclone(s.t, kind, fs, s.path(name+"."+kind+"-ptcl-img"), "-a0")
		pack(s.t, s.path(name+"."+kind+"-ptcl-img"), "gzip", ".gz", 3)
	}
	s.parts = append(s.parts, name)
	put(s.t, s.path("parts"), []byte(strings.Join(s.parts, " ")+"\n"))
}

const mib = 1 << 20

// gptFolder saves a disk of 64 MiB: an ESP, an ext4, swap, and something that
// is only known to dd.
func gptFolder(t *testing.T) *saver {
	t.Helper()
	disk := sparse(t, filepath.Join(t.TempDir(), "disk"), 64*mib)
	tool(t, "sgdisk", "-n1:2048:+8M", "-t1:ef00", "-n2:0:+24M", "-n3:0:+8M", "-t3:8200", "-n5:0:+1M", "-c2:a name", disk)
	s := newSaver(t, disk)
	s.bytes("sda-gpt-1st", 0, 34*512)
	s.bytes("sda-gpt-2nd", s.size()-32*512, 32*512) // as many as Clonezilla gets
	s.bytes("sda-hidden-data-after-mbr", 512, 2047*512)
	from := files(t)
	s.part("sda1", "vfat", mib, 8*mib, func(p string) { makeFAT(t, p, from) })
	s.part("sda2", "ext4", 9*mib, 24*mib, func(p string) { makeExt4(t, p, from) })
	s.part("sda3", "swap", 33*mib, 8*mib, func(p string) { tool(t, "mkswap", "-L", "zram", p) })
	s.part("sda5", "dd", 41*mib, mib, func(p string) { put(t, p, bytes.Repeat([]byte("firmware"), mib/8)) })
	return s
}

func TestImportClonezillaGPT(t *testing.T) {
	t.Parallel()
	folder, s := gptFolder(t), newDir(t)
	want := captureDisk(t, s, folder.disk).Digest
	got, err := importInto(t, s, folder.dir)
	if err != nil || got != want {
		t.Fatalf("@%s, %v; want @%s", got.Short(), err, want.Short())
	}
	out := export(t, s, got)
	tool(t, "sfdisk", "--verify", out)
	tool(t, "sgdisk", "--verify", out)
	tool(t, "e2fsck", "-fn", out+"?offset="+fmt.Sprint(9*mib))
	total := sizes(t, folder.path("sda[125].*-img*"))
	checkUnpacking(t, s, folder.dir, total, total)
}

// TestImportClonezillaMBR: of the chain of logical partitions only the first
// record is saved.
func TestImportClonezillaMBR(t *testing.T) {
	t.Parallel()
	disk := sparse(t, filepath.Join(t.TempDir(), "disk"), 96*mib)
	script := filepath.Join(t.TempDir(), "script")
	put(t, script, []byte("label: dos\nlabel-id: 0x12345678\nstart=2048,size=16384,type=c,bootable\nstart=20480,size=160000,type=5\n"+
		"start=22528,size=16384,type=83\nstart=43008,size=20480,type=83\nstart=65536,size=16384,type=82\n"))
	tool(t, "sh", "-c", `sfdisk -q "$1" < "$2"`, "sh", disk, script)
	put(t, script, bytes.Repeat([]byte("boot"), 110)) // code of 440 bytes
	tool(t, "dd", "if="+script, "of="+disk, "conv=notrunc", "status=none")
	folder, from := newSaver(t, disk), files(t)
	folder.bytes("sda2-ebr", 20480*512, 512)
	folder.part("sda1", "vfat", mib, 8*mib, func(p string) { makeFAT(t, p, from) })
	folder.part("sda5", "ext4", 11*mib, 8*mib, func(p string) { makeExt4(t, p, from) })
	folder.part("sda6", "ext4", 21*mib, 10*mib, func(p string) { makeExt4(t, p, from) })
	folder.part("sda7", "swap", 32*mib, 8*mib, func(p string) { tool(t, "mkswap", "-L", "zram", p) })

	s := newDir(t)
	digest, err := importInto(t, s, folder.dir)
	if err != nil {
		t.Fatal(err)
	}
	out := export(t, s, digest)
	tool(t, "sfdisk", "--verify", out)
	if got, want := strings.ReplaceAll(output(t, "sfdisk", "--dump", out), out, disk), output(t, "sfdisk", "--dump", disk); got != want {
		t.Errorf("the table is\n%s\nwas\n%s", got, want)
	}
	a, b := get(t, disk), get(t, out)
	if len(a) != len(b) || !bytes.Equal(a[:20480*512+512], b[:20480*512+512]) {
		t.Error("the disk's size, boot code, first partition or first record is not as it was")
	}
	// The records made anew are as they were, but for the cylinders of their slots.
	for _, slot := range []int64{20*mib + 446, 20*mib + 462, 31*mib + 446, 31*mib + 462} {
		got, want := b[slot:][:16], a[slot:][:16]
		if got[0] != want[0] || got[4] != want[4] || !bytes.Equal(got[8:], want[8:]) {
			t.Errorf("slot at %d: %x, was %x", slot, got, want)
		}
	}
	for _, at := range []int64{11 * mib, 21 * mib} {
		tool(t, "e2fsck", "-fn", out+"?offset="+fmt.Sprint(at))
		tool(t, "debugfs", "-R", "dump /file0 "+script, out+"?offset="+fmt.Sprint(at))
		if !bytes.Equal(get(t, script), get(t, filepath.Join(from, "file0"))) {
			t.Error("a file is not as it was")
		}
	}
	if !bytes.Equal(a[32*mib:32*mib+4096], b[32*mib:32*mib+4096]) {
		t.Error("the swap area is not as it was")
	}
}
