package tree_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/tree"
)

// ociFolder is an OCI image layout in the making.
type ociFolder struct {
	t   *testing.T
	dir string
}

func newOCI(t *testing.T) ociFolder {
	t.Helper()
	o := ociFolder{t, t.TempDir()}
	if err := os.MkdirAll(filepath.Join(o.dir, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	o.write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return o
}

func (o ociFolder) write(name string, b []byte) {
	o.t.Helper()
	if err := os.WriteFile(filepath.Join(o.dir, name), b, 0o644); err != nil {
		o.t.Fatal(err)
	}
}

// blob stores b and returns its descriptor.
func (o ociFolder) blob(b []byte) map[string]any {
	sum := fmt.Sprintf("%x", sha256.Sum256(b))
	o.write("blobs/sha256/"+sum, b)
	return map[string]any{"digest": "sha256:" + sum, "size": len(b)}
}

func (o ociFolder) json(v any) []byte {
	o.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		o.t.Fatal(err)
	}
	return b
}

// image stores an image of these layers and has the index name it beside one
// for another machine.
func (o ociFolder) image(layers ...map[string]any) {
	o.t.Helper()
	man := o.blob(o.json(map[string]any{"schemaVersion": 2, "layers": layers}))
	man["platform"] = map[string]string{"os": "linux", "architecture": "amd64"}
	other := map[string]any{"digest": "sha256:" + strings.Repeat("0", 64), "platform": map[string]string{"os": "linux", "architecture": "arm64"}}
	nested := o.blob(o.json(map[string]any{"manifests": []any{other, man}}))
	o.write("index.json", o.json(map[string]any{"manifests": []any{nested}}))
}

func zipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestOCI(t *testing.T) {
	o := newOCI(t)
	link := header("lib", tar.TypeSymlink, 0o777, 0)
	link.Linkname = "usr/lib"
	base := archive(t, header("usr/lib/", tar.TypeDir, 0o755, 0), link, header("lib/gone", tar.TypeReg, 0o644, 0), header("usr/lib/stays", tar.TypeReg, 0o644, 0),
		header("srv/old", tar.TypeReg, 0o644, 0), header("srv/deep/old", tar.TypeReg, 0o644, 0), header("opt", tar.TypeReg, 0o600, 0))
	null := header("srv/null", tar.TypeChar, 0o666, 0)
	null.Devmajor, null.Devminor = 1, 3
	// Of two names of a file the first goes in a later layer.
	hard, twin := header("usr/suid2", tar.TypeLink, 0o4755, 7), header("usr/full", tar.TypeLink, 0o666, 0)
	hard.Linkname, twin.Linkname = "./usr/suid", "srv/null"
	node := archiveOf(t, null, header("usr/suid", tar.TypeReg, 0o4755, 7), hard, twin)
	top := archiveOf(t, header("usr/lib/.wh.gone", tar.TypeReg, 0, 0), header("srv/new", tar.TypeReg, 0o640, 5), header("srv/deep/new", tar.TypeReg, 0o640, 5),
		header("srv/.wh..wh..opq", tar.TypeReg, 0, 0), header("opt/", tar.TypeDir, 0o711, 3), header("opt/x", tar.TypeReg, 0o644, 0),
		header("dev/.wh.null", tar.TypeReg, 0, 0), header("run/fifo", tar.TypeReg, 0o604, 9), header(".wh.nothing", tar.TypeReg, 0, 0), header("usr/suid", tar.TypeReg, 0o600, 8))
	o.image(o.blob(zipped(t, base)), o.blob(node), o.blob(zipped(t, top)))
	out := filepath.Join(t.TempDir(), "disk")
	if err := tree.Make(t.Context(), tree.Config{Tree: o.dir, Layout: layout(t)}, out); err != nil {
		t.Fatal(err)
	}
	sound(t, out)
	for dir, want := range map[string]string{"/usr/lib": "stays", "/srv": "deep new", "/opt": "x", "/dev": "", "/run": "fifo"} {
		var got []string
		for line := range strings.Lines(judge(t, "debugfs", "-R", "ls -p "+dir, fmt.Sprintf("%s?offset=%d", out, offset))) {
			if f := strings.Split(line, "/"); len(f) > 5 && f[5] != "." && f[5] != ".." {
				got = append(got, f[5])
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s has %q, want %q", dir, got, want)
		}
	}
	for file, want := range map[string]string{"/opt": "0711", "/run/fifo": "0604", "/srv/new": "User:     5", "/usr/suid2": "4755", "/usr/suid": "0600", "/usr/full": "character special"} {
		if got := inode(t, out, file); !strings.Contains(got, want) {
			t.Errorf("%s has no %q: %s", file, want, got)
		}
	}
	if got := content(t, out, "/run/fifo"); got != "more" {
		t.Errorf("what replaced the FIFO has %q", got)
	}
}

func TestOCIRefused(t *testing.T) {
	try := func(t *testing.T, o ociFolder, want string, refused bool) {
		t.Helper()
		err := tree.Make(t.Context(), tree.Config{Tree: o.dir, Layout: layout(t)}, filepath.Join(t.TempDir(), "disk"))
		if err == nil || !strings.Contains(err.Error(), want) || errors.As(err, new(*tree.Refused)) != refused {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	t.Run("damaged", func(t *testing.T) {
		o, b := newOCI(t), append(archive(t), make([]byte, 512)...)
		l := o.blob(b)
		o.image(l)
		b[len(b)-1] ^= 1 // behind the end of the archive
		o.write("blobs/sha256/"+l["digest"].(string)[7:], b)
		try(t, o, "is damaged", false)
	})
	t.Run("no blob", func(t *testing.T) {
		o := newOCI(t)
		o.image(map[string]any{"digest": "sha256:" + strings.Repeat("1", 64)})
		try(t, o, "no such file", false)
	})
	t.Run("no digest", func(t *testing.T) {
		o := newOCI(t)
		o.image(map[string]any{"digest": "sha256:../../../etc/passwd"})
		try(t, o, "no SHA-256 digest", false)
	})
	t.Run("no index", func(t *testing.T) { try(t, newOCI(t), "index.json", false) })
	t.Run("no JSON", func(t *testing.T) {
		o := newOCI(t)
		o.write("index.json", []byte("{"))
		try(t, o, "JSON", false)
	})
	t.Run("two images", func(t *testing.T) {
		o := newOCI(t)
		d := o.blob([]byte("{}"))
		o.write("index.json", o.json(map[string]any{"manifests": []any{d, d}}))
		try(t, o, "2 images", true)
	})
	t.Run("no image", func(t *testing.T) {
		o := newOCI(t)
		o.write("index.json", []byte("{}"))
		try(t, o, "0 images", true)
	})
	t.Run("empty", func(t *testing.T) {
		o := newOCI(t)
		o.image()
		try(t, o, "0 images", true)
	})
}
