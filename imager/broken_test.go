package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// brokenMemory is what the program may take at most, whatever it is fed.
const brokenMemory = 256 << 20

// TestMain is the program itself where a test runs it as a process of its own,
// to see what memory it took.
func TestMain(m *testing.M) {
	if os.Getenv("HUCK_TEST_AS_IMAGER") == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	err := run(ctx, Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "imager:", err)
	}
	// VmHWM is the most that was resident. What wait4 tells begins with what the
	// parent had.
	status, serr := os.ReadFile("/proc/self/status")
	if serr = errors.Join(serr, os.WriteFile(os.Getenv("HUCK_TEST_AS_IMAGER"), status, 0o600)); serr != nil {
		panic(serr)
	}
	os.Exit(exitCode(err))
}

// resident reads the most memory of a run, in bytes, from its status.
func resident(t *testing.T, status string) int64 {
	t.Helper()
	b, err := os.ReadFile(status)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	return kib << 10
}

// outcome is how a run of the program ended.
type outcome struct {
	out, err string
	code     int
}

// peak is the most memory that a run took, in bytes.
var peak atomic.Int64

// imagerProcess runs the program as a process. It must not panic, nor take more
// than brokenMemory.
func imagerProcess(t *testing.T, args ...string) outcome {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, args...)
	status := filepath.Join(t.TempDir(), "status")
	cmd.Env = append(os.Environ(), "HUCK_TEST_AS_IMAGER="+status)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() < 0 {
		t.Fatalf("imager %s: %v\n%s", strings.Join(args, " "), err, &errs)
	}
	if strings.Contains(errs.String(), "goroutine ") {
		t.Errorf("imager %s panics: %s", strings.Join(args, " "), &errs)
	}
	rss := resident(t, status)
	for old := peak.Load(); rss > old && !peak.CompareAndSwap(old, rss); old = peak.Load() {
	}
	if rss > brokenMemory {
		t.Errorf("imager %s took %d MiB", strings.Join(args, " "), rss>>20)
	}
	return outcome{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// breakage is a way to break a disk, and what is to become of it.
type breakage struct {
	name string
	base string // which disk, of bases
	edit func(b []byte) []byte
	// refused is part of the error, if the disk must not be captured; whole is
	// part of the reason why it, or one of its partitions, is taken whole. With
	// neither the disk is captured with the warning warns.
	refused, whole, warns string
}

// bases makes sound disks, once each.
type bases struct {
	t    *testing.T
	made map[string][]byte
}

func (s *bases) disk(name string) []byte {
	s.t.Helper()
	if b, ok := s.made[name]; ok {
		return bytes.Clone(b)
	}
	path := filepath.Join(s.t.TempDir(), "disk")
	size := map[string]string{"gpt": "24M", "mbr": "24M", "ext4": "16M", "xfs": "16M", "btrfs": "110M", "ntfs": "4M", "fat": "34M", "exfat": "8M", "f2fs": "52M", "swap": "1M", "lvm": "16M"}[name]
	tool(s.t, "truncate", "-s", size, path)
	switch name {
	case "gpt":
		script(s.t, "label: gpt\nstart=1MiB,size=16MiB\nstart=17MiB,size=4MiB\n", path)
		s.put(path, 1<<20, s.disk("ext4"))
		s.put(path, 17<<20, noise(4<<20))
	case "mbr":
		script(s.t, "label: dos\nstart=1MiB,size=2MiB,type=83\nstart=4MiB,size=19MiB,type=5\nstart=5MiB,size=1MiB,type=83\nstart=7MiB,size=16MiB,type=83\n", path)
		s.put(path, 1<<20, noise(2<<20))
		s.put(path, 5<<20, noise(1<<20))
		s.put(path, 7<<20, s.disk("ext4"))
	case "ext4":
		tool(s.t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^uninit_bg", path)
	case "xfs":
		tool(s.t, "mkfs.xfs", "-q", "-f", "--unsupported", "-m", "crc=0", path)
	case "btrfs":
		tool(s.t, "mkfs.btrfs", "-q", "-f", "-m", "single", path)
	case "ntfs":
		tool(s.t, "mkntfs", "-q", "-F", "-Q", "-p", "0", "-H", "255", "-S", "63", path)
	case "fat":
		tool(s.t, "mkfs.vfat", "-F", "32", "-s", "1", path)
	case "exfat":
		tool(s.t, "mkfs.exfat", path)
	case "f2fs":
		tool(s.t, "mkfs.f2fs", "-q", "-f", path)
	case "swap":
		tool(s.t, "mkswap", path)
	case "lvm":
		tool(s.t, "sh", "-ec", `gzip -dc usedmap/lvm/testdata/linear.img.gz >"$1"`, "sh", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.made[name] = b
	return bytes.Clone(b)
}

func (s *bases) put(path string, at int64, b []byte) {
	s.t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = f.WriteAt(b, at)
	if err = errors.Join(err, f.Close()); err != nil {
		s.t.Fatal(err)
	}
}

func script(t *testing.T, text, path string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sfdisk", "-q", "--no-reread", "--no-tell-kernel", path)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
}

// noise is bytes that are no filesystem.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}

// flip flips a bit in each of some bytes.
func flip(at ...int) func([]byte) []byte {
	return func(b []byte) []byte {
		for _, i := range at {
			b[i] ^= 0x10
		}
		return b
	}
}

// poke writes a little-endian number of n bytes.
func poke(at, n int, v uint64) func([]byte) []byte {
	return func(b []byte) []byte {
		copy(b[at:at+n], binary.LittleEndian.AppendUint64(nil, v))
		return b
	}
}

// pokeBE writes a big-endian number of n bytes.
func pokeBE(at, n int, v uint64) func([]byte) []byte {
	return func(b []byte) []byte {
		copy(b[at:at+n], binary.BigEndian.AppendUint64(nil, v)[8-n:])
		return b
	}
}

func cut(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }

// all applies edits one after another.
func all(edits ...func([]byte) []byte) func([]byte) []byte {
	return func(b []byte) []byte {
		for _, e := range edits {
			b = e(b)
		}
		return b
	}
}

// inGPT edits both GPT headers and gives them sound checksums.
func inGPT(edit func(h []byte)) func([]byte) []byte {
	return func(b []byte) []byte {
		for _, at := range []int{512, len(b) - 512} {
			h := b[at : at+512]
			edit(h)
			clear(h[16:20])
			binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		}
		return b
	}
}

// inEntries edits the entries of both GPTs and gives all sound checksums.
func inEntries(edit func(e []byte)) func([]byte) []byte {
	return func(b []byte) []byte {
		var sum uint32
		for _, at := range []int{1024, len(b) - 33*512} {
			e := b[at : at+128*128]
			edit(e)
			sum = crc32.ChecksumIEEE(e)
		}
		return inGPT(func(h []byte) { binary.LittleEndian.PutUint32(h[88:], sum) })(b)
	}
}

// TestBrokenDisks captures damaged disks. Each is refused with an error that
// says why, or captured; then it is installed, and on the target every
// partition taken whole has all bytes that it had, and every other one is as
// sound, or unsound, as it was.
func TestBrokenDisks(t *testing.T) {
	s := &bases{t: t, made: make(map[string][]byte)}
	list := append(brokenTables(), brokenFilesystems()...)
	for _, c := range list {
		t.Run(c.base+" "+c.name, func(t *testing.T) { c.run(t, s) })
	}
	t.Logf("%d disks; the program took %d MiB at most", len(list), peak.Load()>>20)
}

func (c breakage) run(t *testing.T, s *bases) {
	dir := t.TempDir()
	disk, st, target := filepath.Join(dir, "disk"), filepath.Join(dir, "store"), filepath.Join(dir, "target")
	b := c.edit(s.disk(c.base))
	if err := os.WriteFile(disk, b, 0o600); err != nil {
		t.Fatal(err)
	}
	o := imagerProcess(t, "--json", "capture", disk, "--store", st, "--name", "x")
	if c.refused != "" {
		if o.code != exitRefused || !strings.Contains(o.err, c.refused) {
			t.Fatalf("exit code %d, want %q: %s", o.code, c.refused, o.err)
		}
		if again := imagerProcess(t, "capture", disk, "--store", st, "--name", "x", "--raw", "--force"); again.code != 0 {
			t.Fatalf("--raw: exit code %d: %s", again.code, again.err)
		}
	} else if o.code != 0 || !strings.Contains(o.err, c.warns) {
		t.Fatalf("exit code %d, want %q: %s", o.code, c.warns, o.err)
	}
	var shown struct {
		Manifest struct {
			Partitions []struct {
				Start, Size    int64
				Content, Whole string
			}
		}
	}
	out := imagerProcess(t, "--json", "show", "x", "--store", st)
	if err := json.Unmarshal([]byte(out.out), &shown); err != nil {
		t.Fatalf("%s: %v", out.out, err)
	}
	if err := os.WriteFile(target, noise(len(b)), 0o600); err != nil {
		t.Fatal(err)
	}
	if o := imagerProcess(t, "install", "x", "--store", st, "--to", target, "--verify"); o.code != 0 {
		t.Fatalf("install: exit code %d: %s", o.code, o.err)
	}
	if len(shown.Manifest.Partitions) == 0 && len(b) > 512 {
		t.Errorf("no partition is left: %s", out.out)
	}
	whole := ""
	for _, p := range shown.Manifest.Partitions {
		whole += p.Whole + "\n"
		if p.Whole != "" {
			sameRange(t, disk, target, p.Start, p.Size)
		} else if p.Content == "ext4" {
			was, is := e2fsck(t, disk, p.Start, p.Size), e2fsck(t, target, p.Start, p.Size)
			if was != is {
				t.Errorf("e2fsck ends with %d, on the original with %d", is, was)
			}
		}
	}
	if c.whole != "" && !strings.Contains(whole, c.whole) {
		t.Errorf("taken whole: %q, want %q", whole, c.whole)
	}
}

func sameRange(t *testing.T, a, b string, at, n int64) {
	t.Helper()
	var got [2][]byte
	for i, path := range []string{a, b} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if got[i], err = io.ReadAll(io.NewSectionReader(f, at, n)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got[0], got[1]) {
		t.Errorf("%d bytes at %d differ", n, at)
	}
}

// e2fsck judges a filesystem in a part of a file.
func e2fsck(t *testing.T, path string, at, n int64) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, at, n))
	if err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(t.TempDir(), "part")
	if err := os.WriteFile(part, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "e2fsck", "-fn", part)
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}
