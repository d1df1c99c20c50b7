package decompress_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"huck/imager/decompress"
)

// compressors have Open take apart what the real programs make.
var compressors = []struct{ program, kind string }{
	{"gzip", "gzip"}, {"zstd", "zstd"}, {"bzip2", "bzip2"}, {"xz", "xz"}, {"lz4", "lz4"}, {"lzop", "lzop"},
}

func compress(t *testing.T, program, text string) []byte {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatalf("%s is required: %v", program, err)
		}
		t.Skipf("%s is not here: %v", program, err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-c")
	cmd.Stdin = strings.NewReader(text)
	b, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func read(t *testing.T, b []byte) (kind, text string, err error) {
	t.Helper()
	s, err := decompress.Open(t.Context(), "file", bytes.NewReader(b))
	if err != nil {
		return "", "", err
	}
	defer s.Close()
	out, err := io.ReadAll(s)
	return s.Kind, string(out), err
}

func TestOpen(t *testing.T) {
	text := strings.Repeat("all that is in the file; ", 100_000)
	for _, c := range compressors {
		t.Run(c.program, func(t *testing.T) {
			b := compress(t, c.program, text)
			if kind, got, err := read(t, b); kind != c.kind || got != text || err != nil {
				t.Errorf("%s, %d bytes, %v", kind, len(got), err)
			}
			if _, _, err := read(t, b[:len(b)-5]); err == nil {
				t.Error("cut short, it is taken for whole")
			}
			b[len(b)/2] ^= 0x10
			if _, got, err := read(t, b); err == nil {
				t.Errorf("with a bit flipped, it is taken for sound; the same: %v", got == text)
			}
		})
	}
	for _, plain := range []string{"", "x", text} {
		if kind, got, err := read(t, []byte(plain)); kind != "" || got != plain || err != nil {
			t.Errorf("plain: %s, %d bytes, %v", kind, len(got), err)
		}
	}
}

func TestOpenRefused(t *testing.T) {
	t.Setenv("PATH", "")
	for _, c := range []struct{ head, want string }{
		{"\xfd7zXZ\x00", "xz-utils"}, {"\x04\x22\x4d\x18", "package lz4"}, {"\x89LZO\x00\r\n\x1a\n", "package lzop"}, {"LZIP\x01", "lzip -d"}, {"LRZI\x00", "lrzip -d"},
	} {
		var refused *decompress.Refused
		if _, _, err := read(t, []byte(c.head)); !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q: %v", c.want, err)
		}
	}
}
