package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/store"
)

// invoke runs the program as main does and returns what it printed and the
// exit code it would end with.
func invoke(ctx context.Context, args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	err := run(ctx, Env{Stdout: &out, Stderr: &errs}, args)
	if err != nil {
		fmt.Fprintln(&errs, err)
	}
	return out.String(), errs.String(), exitCode(err)
}

// want runs the program, insists on the exit code and decodes the last line
// of its standard output into v unless that is nil.
func want(t *testing.T, code int, v any, args ...string) string {
	t.Helper()
	out, errs, got := invoke(t.Context(), args...)
	if got != code {
		t.Fatalf("imager %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, out, errs)
	}
	if v != nil {
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), v); err != nil {
			t.Fatalf("imager %s: last line %q: %v", strings.Join(args, " "), lines[len(lines)-1], err)
		}
	}
	return out + errs
}

func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatalf("%s is required: %v", name, err)
		}
		t.Skipf("%s is not here: %v", name, err)
	}
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// ext4Disk makes a disk without a partition table: an ext4 of 48 MiB with
// files of 8 MiB in all, the same for the same seed.
func ext4Disk(t *testing.T, seed uint64) string {
	t.Helper()
	tree := t.TempDir()
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range 8 {
		b := make([]byte, 1<<20)
		for j := range b {
			b[j] = byte(r.Uint32())
		}
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprintf("file%d", i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	disk := filepath.Join(t.TempDir(), "disk")
	tool(t, "mkfs.ext4", "-q", "-d", tree, "-E", "hash_seed=6ba7b810-9dad-11d1-80b4-00c04fd430c8,root_owner=0:0",
		"-U", "6ba7b811-9dad-11d1-80b4-00c04fd430c8", disk, "48M")
	return disk
}

type captured struct {
	Ref      string `json:"ref"`
	Digest   string `json:"digest"`
	NewBytes int64  `json:"new_bytes"`
}

func TestCaptureInstallVerify(t *testing.T) {
	disk, st := ext4Disk(t, 1), filepath.Join(t.TempDir(), "store")
	var first, again captured
	want(t, 0, &first, "--json", "capture", disk, "--store", st, "--name", "golden")
	if first.Ref != "golden:1" || first.NewBytes < 8<<20 {
		t.Errorf("captured %+v", first)
	}
	want(t, 0, &again, "--json", "capture", disk, "--store", st, "--name", "golden")
	if again.Ref != "golden:2" || again.NewBytes != 0 || again.Digest != first.Digest {
		t.Errorf("captured again %+v, want golden:2 of the same image and nothing new", again)
	}

	target := filepath.Join(t.TempDir(), "target")
	var done api.Result
	want(t, 0, &done, "--json", "install", "golden", "--store", st, "--to", target, "--verify")
	// The file is new: what is zeros in the image is there already.
	if done.Event != "done" || done.ChunksInPlace > 2 || done.WrittenBytes < 8<<20 || done.EncodedBytes == 0 {
		t.Errorf("installed %+v", done)
	}
	tool(t, "e2fsck", "-fn", target)
	want(t, 0, nil, "verify", "golden", "--store", st, "--against", target)
	var second api.Result
	want(t, 0, &second, "--json", "install", "golden", "--store", st, "--to", target)
	if second.WrittenBytes != 0 || second.ChunksInPlace == 0 {
		t.Errorf("installed again %+v, want nothing written", second)
	}

	f, err := os.OpenFile(target, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("scribble"), 1024); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var v verifyResult
	want(t, exitDiffers, &v, "--json", "verify", "golden", "--store", st, "--against", target)
	if v.Differ != 1 || !slices.Equal(v.Places, []install.Place{{Content: "ext4", Differ: 1}}) || v.EncodedBytes == 0 {
		t.Errorf("verify found %+v, want 1 region of the filesystem", v)
	}
	var third api.Result
	want(t, 0, &third, "--json", "install", "golden", "--store", st, "--to", target, "--verify")
	if got := third.Received["store"]; got != v.EncodedBytes {
		t.Errorf("mending took %d bytes from the store, verify foretold %d", got, v.EncodedBytes)
	}
}

func TestStoreCommands(t *testing.T) {
	a, b, st := ext4Disk(t, 1), ext4Disk(t, 2), filepath.Join(t.TempDir(), "store")
	want(t, 0, nil, "capture", a, "--store", st, "--name", "golden")
	want(t, 0, nil, "capture", b, "--store", st, "--name", "golden", "--parent", "golden:1")
	var tag struct{ Name, Parent string }
	if want(t, 0, &tag, "--json", "images", "--store", st); !strings.HasPrefix(tag.Parent, "golden:1@") {
		t.Errorf("parent %q", tag.Parent)
	}
	if out := want(t, 0, nil, "show", "golden:1", "--store", st); !strings.Contains(out, "ext4") {
		t.Errorf("show says nothing of ext4:\n%s", out)
	}
	var d imageDiff
	want(t, 0, &d, "--json", "diff", "golden:1", "golden:2", "--store", st)
	if d.Bytes < 8<<20 || d.EncodedBytes < 8<<20 || d.Chunks == 0 {
		t.Errorf("diff %+v, want at least the files' 8 MiB", d)
	}
	want(t, 0, nil, "check", "--read-data", "--store", st)
	want(t, 0, nil, "remove", "golden:2", "--store", st)
	var gc struct{ Bytes int64 }
	want(t, 0, &gc, "--json", "gc", "--store", st)
	if gc.Bytes < 8<<20 {
		t.Errorf("gc freed %d bytes", gc.Bytes)
	}
	want(t, 0, nil, "check", "--read-data", "--store", st)
	want(t, 0, nil, "install", "golden:1", "--store", st, "--to", "discard")
	want(t, exitNotFound, nil, "show", "golden:2", "--store", st)

	packs, err := filepath.Glob(filepath.Join(st, "packs", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatalf("no packs: %v", err)
	}
	damage(t, packs[0])
	want(t, exitDiffers, nil, "check", "--read-data", "--store", st)
	if out := want(t, exitFailed, nil, "install", "golden:1", "--store", st, "--to", "discard"); !strings.Contains(out, "chunk") {
		t.Errorf("install from a damaged store says: %s", out)
	}
	// A capture believes what the store says it has, unless it is asked.
	sound, file := filepath.Join(t.TempDir(), "sound"), filepath.Join(t.TempDir(), "a.huck")
	want(t, 0, nil, "capture", a, "--store", sound, "--name", "golden", "--verify")
	want(t, 0, nil, "export", "golden", file, "--store", sound)
	for _, args := range [][]string{{"capture", a}, {"import", file}} {
		args = append(args, "--name", "again", "--store")
		want(t, 0, nil, append(args, st)...)
		if out := want(t, exitFailed, nil, append(args, st, "--verify")...); !strings.Contains(out, "chunk") || !strings.Contains(out, "does not give it back") {
			t.Errorf("%v: %s", args, out)
		}
		want(t, 0, nil, append(args, sound, "--verify")...)
	}
}

// TestVerifyZeros damages the chunk of zeros, which a new file would not need.
func TestVerifyZeros(t *testing.T) {
	file, st := filepath.Join(t.TempDir(), "disk"), filepath.Join(t.TempDir(), "store")
	if err := os.WriteFile(file, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, 0, nil, "capture", file, "--raw", "--name", "zeros", "--store", st, "--verify")
	packs, err := filepath.Glob(filepath.Join(st, "packs", "*"))
	if err != nil || len(packs) != 1 {
		t.Fatalf("packs %v: %v", packs, err)
	}
	b, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	b[30] ^= 1 // in the chunk, which begins at byte 16 (store/FORMAT.md)
	if err := errors.Join(os.Chmod(packs[0], 0o600), os.WriteFile(packs[0], b, 0o600)); err != nil {
		t.Fatal(err)
	}
	want(t, exitFailed, nil, "capture", file, "--raw", "--name", "zeros", "--store", st, "--verify")
}

// TestVerifyInterrupted: whoever ends --verify learns that the image is there.
func TestVerifyInterrupted(t *testing.T) {
	file, dir := filepath.Join(t.TempDir(), "disk"), filepath.Join(t.TempDir(), "store")
	if err := os.WriteFile(file, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	var made struct{ Digest string }
	want(t, 0, &made, "capture", file, "--name", "zeros", "--store", dir, "--json")
	st, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	digest, err := image.ParseID(strings.TrimPrefix(made.Digest, "@"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var said bytes.Buffer
	a := &app{ctx: ctx, log: slog.New(slog.NewTextHandler(&said, nil))}
	err = verifyFlag{Verify: true}.readBack(a, st, digest, func(int64, int64) {})
	if !errors.Is(err, context.Canceled) || !strings.Contains(said.String(), "the image is in the store") {
		t.Errorf("%v, %s", err, &said)
	}
}

// damage changes bytes in the middle of a file.
func damage(t *testing.T, file string) {
	t.Helper()
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("damage, not data"), fi.Size()/2); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRefusals(t *testing.T) {
	disk, st := ext4Disk(t, 1), filepath.Join(t.TempDir(), "store")
	want(t, 0, nil, "capture", disk, "--store", st, "--name", "golden")
	small := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(small, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := want(t, exitRefused, nil, "install", "golden", "--store", st, "--to", small); !strings.Contains(out, small) {
		t.Errorf("the refusal does not name the disk: %s", out)
	}
	if b, err := os.ReadFile(small); err != nil || !bytes.Equal(b, make([]byte, 1<<20)) {
		t.Errorf("a refused install wrote (%v)", err)
	}
	for _, args := range [][]string{
		{"bogus"}, {"capture"}, {"capture", disk, "--store", st, "--name", "Bad Name"}, {"capture", disk, "--store", "s3://x", "--name", "n"},
		{"show", "a:b", "--store", st}, {"receive", "ftp://x/y", "--to", "discard"}, {"receive", "http://x/", "--to", "discard"},
		{"remove", "golden", "--store", st}, {"install", "golden", "--store", st, "--to", small, "--unused", "burn"},
		{"capture", disk, "--store", st, "--name", "n", "--raw=x"},
	} {
		want(t, exitUsage, nil, args...)
	}
	for _, flags := range [][]string{
		{"--rate", "0"}, {"--rate", "fast"}, {"--floor", "1"}, {"--floor", "-1"}, {"--floor", "some"}, {"--dscp", "64"}, {"--ttl", "0"}, {"--ttl", "256"},
		{"--group", "10.0.0.1:8481"}, {"--group", "239.1.1.1"}, {"--group", "[ff15::1]:8481"},
	} {
		args := []string{"send", "golden", "--store", st, "--listen", "127.0.0.1:0", "--interface", "lo", flags[0] + "=" + flags[1]}
		if out := want(t, exitUsage, nil, args...); !strings.Contains(out, flags[0]) {
			t.Errorf("%q: the error does not name the flag: %s", flags, out)
		}
	}
	if out := want(t, exitNotFound, nil, "show", "nothing", "--store", st); !strings.Contains(out, "imager images --store "+st) {
		t.Errorf("the error does not say where to look: %s", out)
	}
}

// TestAdvice installs from a damaged store, and without the rights to.
func TestAdvice(t *testing.T) {
	disk, st := ext4Disk(t, 1), filepath.Join(t.TempDir(), "store")
	want(t, 0, nil, "capture", disk, "--store", st, "--name", "golden")
	packs, err := filepath.Glob(filepath.Join(st, "packs", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatal(packs, err)
	}
	b, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(packs[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "target")
	out := want(t, exitFailed, nil, "install", "golden", "--store", st, "--to", target)
	for _, s := range []string{"check --read-data --store " + st, target, "is not complete"} {
		if !strings.Contains(out, s) {
			t.Errorf("no %q in: %s", s, out)
		}
	}
	denied := &fs.PathError{Op: "open", Path: "/dev/sdb", Err: fs.ErrPermission}
	for user, advised := range map[int]bool{0: false, 1000: true} {
		err := (&app{env: Env{User: user}}).advise(denied)
		if !errors.Is(err, denied) || strings.Contains(err.Error(), "as root") != advised {
			t.Errorf("user %d: %v", user, err)
		}
	}
}

func TestHelp(t *testing.T) {
	out := want(t, 0, nil, "--help")
	for _, s := range []string{"capture", "receive", "Exit codes", "130 interrupted"} {
		if !strings.Contains(out, s) {
			t.Errorf("--help does not mention %q", s)
		}
	}
	want(t, 0, nil, "install", "--help")
	if out := want(t, 0, nil, "--version"); !strings.HasPrefix(out, api.Version()+"\n") {
		t.Errorf("--version prints %q", out)
	}
}

func TestInterrupted(t *testing.T) {
	disk, st := ext4Disk(t, 1), filepath.Join(t.TempDir(), "store")
	want(t, 0, nil, "capture", disk, "--store", st, "--name", "golden")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, code := invoke(ctx, "install", "golden", "--store", st, "--to", filepath.Join(t.TempDir(), "target")); code != exitInterrupted {
		t.Errorf("exit code %d, want %d", code, exitInterrupted)
	}
}

// TestSendReceive serves an image on the loopback interface and receives it
// over HTTP; multicast on real links is TestMulticast's.
func TestSendReceive(t *testing.T) {
	disk, st := ext4Disk(t, 1), filepath.Join(t.TempDir(), "store")
	want(t, 0, nil, "capture", disk, "--store", st, "--name", "golden")
	ctx, cancel := context.WithCancel(t.Context())
	ready, w := newLineReader()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, Env{Stdout: w, Stderr: t.Output()}, []string{"--json", "send", "golden", "--store", st, "--listen", "127.0.0.1:0", "--interface", "lo"})
	}()
	var r struct{ Event, HTTP string }
	select {
	case line := <-ready:
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Event != "ready" {
			t.Fatalf("ready line %q: %v", line, err)
		}
	case err := <-ended:
		t.Fatalf("send ended: %v", err)
	}
	target := filepath.Join(t.TempDir(), "target")
	var done api.Result
	want(t, 0, &done, "--json", "receive", "http://"+r.HTTP+"/golden", "--to", target, "--no-multicast", "--verify")
	// All but two chunks of zeros, which a new file has.
	if rest := done.EncodedBytes - done.Received["http"]; done.EncodedBytes == 0 || rest < 0 || rest > 100 {
		t.Errorf("received %+v, want all by HTTP", done)
	}
	tool(t, "e2fsck", "-fn", target)
	want(t, exitNotFound, nil, "receive", "http://"+r.HTTP+"/other", "--to", "discard")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("send ended with %v", err)
	}
}

// lineReader hands out the first line written to it.
type lineReader struct {
	buf  []byte
	line chan string
}

func newLineReader() (<-chan string, *lineReader) {
	l := &lineReader{line: make(chan string, 1)}
	return l.line, l
}

// Write implements io.Writer.
func (l *lineReader) Write(b []byte) (int, error) {
	if l.line == nil {
		return 0, errors.New("more than one line")
	}
	l.buf = append(l.buf, b...)
	if line, _, ok := bytes.Cut(l.buf, []byte("\n")); ok {
		l.line <- string(line)
		l.line = nil
	}
	return len(b), nil
}
