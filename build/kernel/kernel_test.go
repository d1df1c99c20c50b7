package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// fakeMake stands in for make and for all that the kernel's own build would call: it answers allnoconfig with the
// fragments it was given (without lines that say LOST), and bzImage with a file that holds them. What the file `plan`
// beside it says is done first.
const fakeMake = `#!/bin/sh
set -eu
plan=$(dirname "$0")/plan
[ ! -e "$plan" ] || . "$plan"
objects= config= target=
for arg; do
	case $arg in
	O=*) objects=${arg#O=} ;;
	KCONFIG_ALLCONFIG=*) config=${arg#KCONFIG_ALLCONFIG=} ;;
	esac
	target=$arg
done
echo "  MAKE $target"
case $target in
allnoconfig) grep -v LOST "$config" >"$objects/.config" ;;
bzImage)
	mkdir -p "$objects/arch/x86/boot"
	cat "$objects/.config" >"$objects/arch/x86/boot/bzImage" ;;
esac
`

// workshop is a kernel's build with everything but this package's part of it faked.
type workshop struct {
	bin  string
	opts Options

	mu   sync.Mutex
	said []string
	seen chan string // every message, for tests that wait for one
}

func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	w := &workshop{bin: t.TempDir(), seen: make(chan string, 100)}
	for _, tool := range tools {
		if tool != "make" && tool != "tar" {
			w.script(t, tool, "#!/bin/sh\necho "+tool+" 1.0\n")
		}
	}
	w.script(t, "make", fakeMake)
	t.Setenv("PATH", w.bin+":"+os.Getenv("PATH"))
	fragments, home := t.TempDir(), t.TempDir()
	w.opts = Options{
		Source: filepath.Join(home, "source.tar"), Fragments: fragments, Cache: filepath.Join(home, "cache"), Jobs: 1,
		Log: func(format string, args ...any) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.said = append(w.said, fmt.Sprintf(format, args...))
			w.seen <- w.said[len(w.said)-1]
		},
	}
	w.fragment(t, "CONFIG_A=y\n")
	w.source(t, "1")
	return w
}

func (w *workshop) script(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.bin, name), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (w *workshop) fragment(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.opts.Fragments, "a.config"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (w *workshop) source(t *testing.T, version string) {
	t.Helper()
	var b bytes.Buffer
	archive := tar.NewWriter(&b)
	if err := archive.WriteHeader(&tar.Header{Name: "linux/VERSION", Mode: 0o644, Size: int64(len(version))}); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Write([]byte(version)); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.opts.Source, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (w *workshop) build(t *testing.T) string {
	t.Helper()
	path, err := Build(t.Context(), w.opts)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (w *workshop) log() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.said, "\n")
}

func (w *workshop) trees(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(w.opts.Cache, "tree-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestBuildKeepsTheResultOnly(t *testing.T) {
	w := newWorkshop(t)
	path := w.build(t)
	text, err := os.ReadFile(path)
	if err != nil || string(text) != "CONFIG_A=y\n" {
		t.Errorf("the kernel holds %q, %v", text, err)
	}
	if left := w.trees(t); len(left) > 0 {
		t.Errorf("%v was left behind", left)
	}
	for _, name := range []string{"inputs", "config"} {
		if _, err := os.Stat(filepath.Join(filepath.Dir(path), name)); err != nil {
			t.Error(err)
		}
	}
}

func TestBuildAgain(t *testing.T) {
	change := map[string]func(*testing.T, *workshop){
		"nothing":         func(*testing.T, *workshop) {},
		"the fragments":   func(t *testing.T, w *workshop) { w.fragment(t, "CONFIG_A=y\nCONFIG_B=y\n") },
		"the source":      func(t *testing.T, w *workshop) { w.source(t, "2") },
		"the compiler":    func(t *testing.T, w *workshop) { w.script(t, "gcc", "#!/bin/sh\necho gcc 2.0\n") },
		"a comment":       func(t *testing.T, w *workshop) { w.fragment(t, "# why\nCONFIG_A=y\n") },
		"the job's count": func(_ *testing.T, w *workshop) { w.opts.Jobs = 9 },
	}
	cached := map[string]bool{"nothing": true, "a comment": true, "the job's count": true}
	for name, f := range change {
		t.Run(name, func(t *testing.T) {
			w := newWorkshop(t)
			first := w.build(t)
			f(t, w)
			second := w.build(t)
			if (first == second) != cached[name] {
				t.Errorf("%s and %s: from the cache is %t, want %t", first, second, first == second, cached[name])
			}
			if strings.Contains(w.log(), "in the cache") != cached[name] {
				t.Errorf("it said:\n%s", w.log())
			}
		})
	}
}

func TestBuildFails(t *testing.T) {
	tests := []struct {
		name   string
		change func(*testing.T, *workshop)
		want   []string
	}{
		{"lost settings", func(t *testing.T, w *workshop) { w.fragment(t, "CONFIG_LOST1=y\nCONFIG_A=y\nCONFIG_LOST2=y\n") },
			[]string{"2 settings", "a.config:1: want CONFIG_LOST1=y", "a.config:3: want CONFIG_LOST2=y"}},
		{"no source", func(_ *testing.T, w *workshop) { w.opts.Source += ".gone" },
			[]string{"source.tar.gone", "bootstrap.sh kernel", "KERNEL=FILE"}},
		{"no tarball", func(t *testing.T, w *workshop) { writeFile(t, w.opts.Source, "rubbish") }, []string{"unpacking", "tar:"}},
		{"compiler error", func(t *testing.T, w *workshop) {
			w.script(t, "plan", `case "$*" in *bzImage) for i in $(seq 100); do echo "line $i"; done; echo "error: no" >&2; exit 2;; esac`)
		}, []string{"compiling: exit status 2", "build.log", "line 100", "error: no"}},
		{"no fragments", func(t *testing.T, w *workshop) { w.opts.Fragments = t.TempDir() }, []string{"no *.config"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorkshop(t)
			tt.change(t, w)
			path, err := Build(t.Context(), w.opts)
			if err == nil {
				t.Fatalf("built %s", path)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q in it", err, want)
				}
			}
			if strings.Contains(err.Error(), "line 1\n") {
				t.Errorf("the whole log is in the error: %v", err)
			}
		})
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestBuildGoesOnAfterAFailure(t *testing.T) {
	w := newWorkshop(t)
	w.script(t, "plan", `case "$*" in *bzImage) exit 2;; esac`)
	if _, err := Build(t.Context(), w.opts); err == nil {
		t.Fatal("no error")
	}
	if left := w.trees(t); len(left) != 1 {
		t.Fatalf("trees after a failure: %v, want one", left)
	}
	if err := os.Remove(filepath.Join(w.bin, "plan")); err != nil {
		t.Fatal(err)
	}
	w.build(t)
	if !strings.Contains(w.log(), "going on in") || strings.Count(w.log(), "unpacking") != 1 {
		t.Errorf("it said:\n%s", w.log())
	}
	if left := w.trees(t); len(left) != 0 {
		t.Errorf("%v was left behind", left)
	}
}

func TestCacheHitTidiesUp(t *testing.T) {
	w := newWorkshop(t)
	first := w.build(t)
	w.fragment(t, "CONFIG_B=y\n")
	w.script(t, "plan", `case "$*" in *bzImage) exit 2;; esac`)
	if _, err := Build(t.Context(), w.opts); err == nil || len(w.trees(t)) != 1 {
		t.Fatalf("got %v and trees %v, want a failure that leaves one", err, w.trees(t))
	}
	w.fragment(t, "CONFIG_A=y\n")
	unlock, err := tryLock(w.opts.Cache)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.build(t); got != first || len(w.trees(t)) != 1 {
		t.Errorf("beside a running build: got %s and trees %v, want %s and one", got, w.trees(t), first)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if got := w.build(t); got != first || len(w.trees(t)) != 0 {
		t.Errorf("got %s and trees %v, want %s and none", got, w.trees(t), first)
	}
}

// An interrupted build leaves no process behind, not even one that make started and forgot.
func TestInterrupt(t *testing.T) {
	w := newWorkshop(t)
	pidFile := filepath.Join(w.bin, "pid")
	w.script(t, "plan", `case "$*" in *bzImage) sh -c 'trap "" TERM; echo $$ >`+pidFile+`.new; mv `+pidFile+`.new `+pidFile+`; while :; do read x </dev/zero || :; done' & wait;; esac`)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := Build(ctx, w.opts)
		ended <- err
	}()
	pid := waitForPid(t, pidFile)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	waitUntil(t, func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || isZombie(pid) })
}

func waitForPid(t *testing.T, path string) (pid int) {
	t.Helper()
	waitUntil(t, func() bool {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return false
		}
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	})
	return pid
}

// waitUntil asks again and again, for a time no working machine needs.
func waitUntil(t *testing.T, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatal("still not so after a minute")
		}
	}
}

// isZombie says whether the process has ended and only waits for its parent to notice.
func isZombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(text), ") Z ")
}

func TestSecondBuildWaits(t *testing.T) {
	w := newWorkshop(t)
	if err := os.MkdirAll(w.opts.Cache, 0o755); err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(t.Context(), w.opts.Cache, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := Build(t.Context(), w.opts)
		ended <- err
	}()
	if first := <-w.seen; !strings.Contains(first, "waiting for another build") {
		t.Errorf("it said %q", first)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
