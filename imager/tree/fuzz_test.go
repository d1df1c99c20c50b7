package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzUnpack unpacks archives of which each line of text is an entry: a type,
// a name, and what it links to or holds. Whatever they say, nothing outside the
// root is touched, and what is inside leads nowhere else when it is followed
// below the root.
func FuzzUnpack(f *testing.F) {
	for _, s := range []string{
		"0 a/b/file text\n5 dir\n2 link a/b/file\n1 hard a/b/file\n3 dev\n6 fifo",
		"0 ../../canary gone\n0 /etc/../../canary gone\n0 ./../canary gone",
		"2 out ..\n0 out/canary gone", "2 abs /\n0 abs/tmp/x gone\n5 abs", "2 a b\n2 b a\n0 a/x gone\n1 a a",
		"1 canary ../canary\n0 canary gone", "2 l ../canary\n0 l gone\n1 h l\n0 h gone",
		"5 d\n2 d/up ../..\n0 d/up/canary gone", "0 .wh.x \n0 d/.wh..wh..opq \n0 .wh... \n0 .wh..wh..opq ", "0 . x\n2 .. y\n5 ",
		"2 dir out\n5 dir\n0 dir/x y\n0 dir z", "g pax\nx pax\nL name\nK link\nS sparse\nV volume",
	} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, text string, layered bool) {
		dir := t.TempDir()
		for _, name := range []string{"root", "work"} {
			if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		canary := filepath.Join(dir, "canary")
		if err := os.WriteFile(canary, []byte("alive"), 0o600); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(filepath.Join(dir, "root"))
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		u := &unpacking{root: root, work: filepath.Join(dir, "work"), inodes: map[string]inode{"": {mode: modeDir | 0o755}}, layered: layered}
		if err := u.all(t.Context(), bytes.NewReader(archiveOf(text))); err == nil {
			s := new(source)
			if err := u.finish(s); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			commands := append(s.script, s.listings()...)
			for _, set := range s.settings {
				commands = append(commands, set.before+set.after)
			}
			for _, command := range commands {
				if strings.ContainsAny(command, "\x00\r\n") || strings.Count(command, `"`)%2 != 0 {
					t.Errorf("debugfs gets %q", command)
				}
			}
		}
		list, err := os.ReadDir(dir)
		if err != nil || len(list) != 3 {
			t.Errorf("%v beside the root, %v", list, err)
		}
		if b, err := os.ReadFile(canary); err != nil || string(b) != "alive" {
			t.Errorf("the file beside the root holds %q, %v", b, err)
		}
		if st, err := os.Stat(canary); err != nil || st.Mode() != 0o600 {
			t.Errorf("the file beside the root is %v, %v", st, err)
		}
	})
}

// archiveOf makes an archive, of as many of the lines as package tar takes.
func archiveOf(text string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		if len(f) < 2 || len(f[0]) != 1 {
			continue
		}
		h := &tar.Header{Typeflag: f[0][0], Name: f[1], Mode: 0o644}
		if len(f) == 3 && (h.Typeflag == tar.TypeLink || h.Typeflag == tar.TypeSymlink) {
			h.Linkname = f[2]
		}
		body := ""
		if h.Typeflag == tar.TypeReg && len(f) == 3 {
			body, h.Size = f[2], int64(len(f[2]))
		}
		if w.WriteHeader(h) == nil {
			_, _ = io.WriteString(w, body) // into memory
		}
	}
	_ = w.Close()
	return b.Bytes()
}
