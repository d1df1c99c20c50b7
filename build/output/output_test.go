package output_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"huck/build/output"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "folder", "file")
	for _, text := range []string{"first, which is longer", "second"} {
		if err := output.WriteString(path, text); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, %v, want one that a server of another user can read", info.Mode(), err)
	}
}

func TestWriteFailsWithoutATrace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := output.WriteString(path, "old"); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the pen broke")
	err := output.Write(path, func(w io.Writer) error {
		_, err := io.WriteString(w, "half of the ne")
		return errors.Join(err, broken)
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	if got := read(t, path); got != "old" {
		t.Errorf("the file holds %q", got)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%v was left behind", left)
	}
}

func TestCopy(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 5000)
	tests := []struct {
		name, old, source string
		exists, kept      bool
	}{
		{"new", "", "text", false, false},
		{"changed", "texd", "text", true, false},
		{"equal", "text", "text", true, true},
		{"longer", "text and more", "text", true, false},
		{"shorter", "te", "text", true, false},
		{"empty", "", "", true, true},
		{"large and equal", big, big, true, true},
		{"large, another end", big + "x", big + "y", true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
			long := time.Now().Add(-time.Hour).Truncate(time.Second)
			if err := os.WriteFile(from, []byte(tt.source), 0o600); err != nil {
				t.Fatal(err)
			}
			if tt.exists {
				err := errors.Join(os.WriteFile(to, []byte(tt.old), 0o644), os.Chtimes(to, long, long))
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := output.Copy(to, from); err != nil {
				t.Fatal(err)
			}
			if got := read(t, to); got != tt.source {
				t.Errorf("got %d bytes, want %d others", len(got), len(tt.source))
			}
			info, err := os.Stat(to)
			if err != nil || info.ModTime().Equal(long) != tt.kept {
				t.Errorf("left alone: %t, want %t (%v)", info.ModTime().Equal(long), tt.kept, err)
			}
		})
	}
}

func TestCopyOfNothing(t *testing.T) {
	dir := t.TempDir()
	if err := output.Copy(filepath.Join(dir, "to"), filepath.Join(dir, "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := output.Copy(filepath.Join(dir, "to"), dir); err == nil {
		t.Error("a folder was copied as a file")
	}
}
