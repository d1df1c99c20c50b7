package rescue_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"huck/initramfs/rescue"
)

// TestMain lets the test program stand for init, as which the shell starts its
// commands.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); rescue.Has(name) {
		os.Exit(rescue.Run(context.Background(), rescue.Std(), name, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// buffer is a bytes.Buffer that all commands of a pipe may write to.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func do(t *testing.T, stdin, name string, args ...string) (int, string, string) {
	t.Helper()
	var out, errs buffer
	code := rescue.Run(t.Context(), rescue.IO{In: strings.NewReader(stdin), Out: &out, Err: &errs}, name, args)
	return code, out.String(), errs.String()
}

func TestCommands(t *testing.T) {
	dir := t.TempDir()
	f := filepath.Join(dir, "f")
	if err := os.WriteFile(f, []byte("one\ntwo\nthree"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		stdin string
		args  []string
		code  int
		out   string
	}{
		{"cat", "", []string{"cat", f}, 0, "one\ntwo\nthree"},
		{"head", "", []string{"head", "-n", "1", f}, 0, "one\n"},
		{"head of input", "a\nb", []string{"head", "-n5"}, 0, "a\nb"},
		{"tail", "", []string{"tail", "-n2", f}, 0, "two\nthree"},
		{"tail none", "a\n", []string{"tail", "-n", "0"}, 0, ""},
		{"grep", "", []string{"grep", "-i", "^T", f}, 0, "two\nthree\n"},
		{"grep -v", "", []string{"grep", "-v", "t", f}, 0, "one\n"},
		{"grep nothing", "", []string{"grep", "x", f}, 1, ""},
		{"wc", "", []string{"wc", f}, 0, "2 3 13 " + f + "\n"},
		{"hexdump", "0123456789abcdefXYZ", []string{"hexdump"}, 0,
			"00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|\n00000010  58 59 5a                                          |XYZ|\n"},
		{"hexdump in between", "", []string{"hexdump", "-s", "4", "-n3", f}, 0, "00000004  74 77 6f                                          |two|\n"},
		{"unknown option", "", []string{"head", "-x"}, 2, ""},
		{"unknown command", "", []string{"frobnicate"}, 127, ""},
		{"missing file", "", []string{"tail", filepath.Join(dir, "none")}, 1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, errs := do(t, tt.stdin, tt.args[0], tt.args[1:]...)
			if code != tt.code || out != tt.out || code != 0 && code != 1 && errs == "" {
				t.Errorf("exit code %d, output %q, errors %q", code, out, errs)
			}
		})
	}
}

func TestGzip(t *testing.T) {
	_, packed, _ := do(t, "hello", "gzip")
	if code, out, errs := do(t, packed, "gunzip"); code != 0 || out != "hello" {
		t.Errorf("exit code %d, output %q, errors %q", code, out, errs)
	}
	if code, _, _ := do(t, packed[:8], "gunzip"); code != 1 {
		t.Errorf("exit code %d for half an archive", code)
	}
}

func TestDD(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	os.WriteFile(in, []byte("0123456789"), 0o644)
	os.WriteFile(out, []byte("abcdefghij"), 0o644)
	if code, _, errs := do(t, "", "dd", "if="+in, "of="+out, "bs=2", "count=2", "skip=1", "seek=3", "conv=fsync"); code != 0 || errs != "4 bytes copied\n" {
		t.Errorf("exit code %d, %q", code, errs)
	}
	// A target is never cut short.
	if b, _ := os.ReadFile(out); string(b) != "abcdef2345" {
		t.Errorf("got %q", b)
	}
	for _, bad := range [][]string{{"bs=0"}, {"bs=1G"}, {"count=x"}, {"conv=swab"}, {"if"}, {"status=none"}} {
		if code, _, _ := do(t, "", "dd", bad...); code == 0 {
			t.Errorf("dd %v works", bad)
		}
	}
}

func TestShell(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name, script, out string
		code              int
	}{
		{"words", `x=a; for i in 1 2; do echo $x$i; done`, "a1\na2\n", 0},
		{"pipe through our commands", `printf 'b\na\n' | grep a | cat`, "a\n", 0},
		{"redirection and cd", `cd ` + dir + ` && echo hi > f && cat f && ls`, "hi\nf\n", 0},
		{"exit code", `grep x /dev/null || echo no; exit 3`, "no\n", 3},
		{"last exit code", `false`, "", 1},
		{"unknown command", `nonesuch 2>/dev/null; echo $?`, "127\n", 0},
		{"environment", `A=1 sh -c 'echo $A'`, "1\n", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, errs := do(t, "", "sh", "-c", tt.script)
			if code != tt.code || out != tt.out {
				t.Errorf("exit code %d, output %q, errors %q", code, out, errs)
			}
		})
	}
	t.Run("script", func(t *testing.T) {
		f := filepath.Join(dir, "s.sh")
		os.WriteFile(f, []byte("echo $1-$#\n"), 0o644)
		if code, out, errs := do(t, "", "sh", f, "a", "b"); code != 0 || out != "a-2\n" {
			t.Errorf("exit code %d, output %q, errors %q", code, out, errs)
		}
	})
	t.Run("input", func(t *testing.T) {
		if code, out, errs := do(t, "echo in\n", "sh"); code != 0 || out != "in\n" {
			t.Errorf("exit code %d, output %q, errors %q", code, out, errs)
		}
	})
	t.Run("syntax", func(t *testing.T) {
		if code, _, errs := do(t, "", "sh", "-c", "if"); code != 1 || errs == "" {
			t.Errorf("exit code %d, errors %q", code, errs)
		}
	})
}
