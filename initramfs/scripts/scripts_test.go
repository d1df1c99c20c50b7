package scripts_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"huck/imager/disk/disktest"
	"huck/imager/personal"
	"huck/initramfs/installed"
	"huck/initramfs/rescue"
	"huck/initramfs/scripts"
)

// TestMain lets this program be the appliance's own shell, and its commands, as
// init is.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); rescue.Has(name) {
		os.Exit(rescue.Run(context.Background(), rescue.Std(), name, os.Args[1:]))
	}
	disktest.OwnMounts()
	os.Exit(m.Run())
}

// collect returns a configuration and what its scripts say.
func collect(env ...string) (scripts.Config, *[]string) {
	said := new([]string)
	return scripts.Config{Env: env, Line: func(s string) { *said = append(*said, s) }}, said
}

func here(t *testing.T, ctx context.Context, text, timeout string, env ...string) ([]string, error) {
	t.Helper()
	cfg, said := collect(env...)
	err := scripts.Here(ctx, "/proc/self/exe", personal.Script{Name: "raid", Text: text, Timeout: timeout}, cfg)
	return *said, err
}

func TestHere(t *testing.T) {
	said, err := here(t, t.Context(), "echo one $HUCK_NODE; echo two >&2\nif true; then printf three; fi", "", "HUCK_NODE=n1")
	if err != nil || !slices.Equal(said, []string{"one n1", "two", "three"}) {
		t.Errorf("%q, %v", said, err)
	}
}

func TestHereFails(t *testing.T) {
	for text, how := range map[string]string{
		"echo before; exit 3; echo after": "script raid ended with exit status 3",
		"nonsense-command":                "script raid ended with exit status 127",
		"if":                              "script raid ended with exit status",
	} {
		said, err := here(t, t.Context(), text, "")
		var failed *scripts.Failed
		if !errors.As(err, &failed) || !strings.HasPrefix(err.Error(), how) || slices.Contains(said, "after") {
			t.Errorf("%q: %q, %v; want %q", text, said, err, how)
		}
	}
}

func TestTimeout(t *testing.T) {
	start := time.Now()
	if _, err := here(t, t.Context(), "sleep 60", "300ms"); err == nil || !strings.Contains(err.Error(), "script raid took longer than 300ms") {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cfg, said := collect()
	collected := cfg.Line
	cfg.Line = func(s string) { collected(s); cancel() }
	err := scripts.Here(ctx, "/proc/self/exe", personal.Script{Name: "raid", Text: "echo begun; sleep 60"}, cfg)
	if !errors.Is(err, context.Canceled) || !slices.Equal(*said, []string{"begun"}) {
		t.Errorf("cancelled: %q, %v", *said, err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestLines: what a script says cannot steer the console, nor flood the server.
func TestLines(t *testing.T) {
	said, err := here(t, t.Context(), "printf 'a\\033[2Jb\\r\\n10%%\\r20%%\\n\\n'", "")
	if err != nil || !slices.Equal(said, []string{"a[2Jb", "20%"}) {
		t.Errorf("%q, %v", said, err)
	}
	said, err = here(t, t.Context(), "i=0; while [ $i -lt 1003 ]; do echo $i; i=$((i+1)); done", "")
	if err != nil || len(said) != 1001 || said[999] != "999" || said[1000] != "(3 more lines are left out)" {
		t.Errorf("%d lines, the last %q, %v", len(said), said[len(said)-1], err)
	}
	said, err = here(t, t.Context(), fmt.Sprintf("echo %s", strings.Repeat("é", 1000)), "")
	if err != nil || len(said) != 2 || strings.Join(said, "") != strings.Repeat("é", 1000) {
		t.Errorf("%d lines, %v", len(said), err)
	}
}

// shellTree copies the host's shell and what it is linked with.
func shellTree(t *testing.T, dir string) {
	t.Helper()
	files := []string{"/bin/sh", "/bin/sleep", "/bin/cat"}
	for _, f := range slices.Clone(files) {
		out, err := exec.CommandContext(t.Context(), "ldd", f).Output()
		if err != nil {
			t.Fatalf("ldd %s: %v", f, err)
		}
		files = append(files, regexp.MustCompile(`/\S+`).FindAllString(string(out), -1)...)
	}
	for _, f := range files {
		to := filepath.Join(dir, f)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		in, err := os.Open(f)
		if err != nil {
			t.Fatal(err)
		}
		out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(out, in); err != nil {
			t.Fatal(err)
		}
		in.Close()
		out.Close()
	}
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil && os.Getenv("REQUIRE_TOOLS") != "1" {
		t.Skipf("%s: %v: %s", name, err, out)
	}
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestIn runs scripts in a system on a loop device: as its root, with what the
// kernel offers, and nothing left when they have ended.
func TestIn(t *testing.T) {
	dir := t.TempDir()
	tree, img := filepath.Join(dir, "tree"), filepath.Join(dir, "img")
	for _, d := range []string{"etc", "sbin", "run"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	shellTree(t, tree)
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, 64<<20); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", "-d", tree, img)
	dev := command(t, "losetup", "-f", "--show", img)
	defer func() { _ = exec.Command("losetup", "-d", dev).Run() }()
	where := filepath.Join(dir, "mnt")
	if err := os.Mkdir(where, 0o755); err != nil {
		t.Fatal(err)
	}
	sys, err := installed.Mount(dev, where, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			_ = sys.Close()
		}
	}()
	if err := scripts.Prepare(sys); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ text, said, fails string }{
		{"echo $HUCK_ROOT; [ -e /proc/self/stat ] && [ -c /dev/null ] && [ -d /sys/class ] && echo all >/etc/made && cat /etc/made", "/ all", ""},
		{"#!/bin/cat\n", "#!/bin/cat", ""},
		{"(sleep 300 & ); sleep 300 & echo left behind", "left behind", ""},
		{"exit 7", "", "script after ended with exit status 7"},
		{"#!/bin/nothing\n", "", "script after cannot be started"},
	} {
		cfg, said := collect("HUCK_ROOT=/")
		err := scripts.In(t.Context(), sys, personal.Script{Name: "after", Text: tt.text}, cfg)
		if got := strings.Join(*said, " "); got != tt.said || (err == nil) != (tt.fails == "") || err != nil && !strings.HasPrefix(err.Error(), tt.fails) {
			t.Errorf("%q: said %q, %v; want %q, %q", tt.text, got, err, tt.said, tt.fails)
		}
	}
	closed = true
	if err := sys.Close(); err != nil { // busy, if anything still ran
		t.Fatal(err)
	}
	for _, d := range []string{"/proc/self/stat", "/dev/null"} {
		if _, err := os.Stat(d); err != nil {
			t.Errorf("the host's own is gone: %v", err)
		}
	}
	if out := command(t, "debugfs", "-R", "cat /etc/made", img); !strings.HasSuffix(out, "all") {
		t.Errorf("/etc/made is %q", out)
	}
	if out := command(t, "debugfs", "-R", "ls /run", img); strings.Contains(out, "huck") {
		t.Errorf("/run has %q", out)
	}
}
