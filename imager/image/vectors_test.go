package image_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"huck/imager/image"
)

// vector is a file of testdata/vectors (FORMAT.md, Vectors).
type vector struct {
	header map[string]string
	body   string
}

func readVectors(t testing.TB, kind string) map[string]vector {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "vectors", kind+"-*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("vectors %v, %v", files, err)
	}
	all := make(map[string]vector)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		head, body, _ := strings.Cut(string(b), "\n\n")
		v := vector{make(map[string]string), strings.TrimSuffix(body, "\n")}
		for line := range strings.Lines(head) {
			k, val, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			v.header[k] = val
		}
		if v.header["kind"] != kind || v.header["expect"] != "ok" && v.header["expect"] != "refused" {
			t.Fatalf("%s: header %v", file, v.header)
		}
		all[filepath.Base(file)] = v
	}
	return all
}

// unhex reads hexadecimal digits with spaces and # comments.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	s = regexp.MustCompile(`(?m)#.*$`).ReplaceAllString(s, "")
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (v vector) number(t testing.TB, key string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(v.header[key], 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return n
}

// TestVectors runs all vectors. What is taken must come back byte for byte.
func TestVectors(t *testing.T) {
	kinds := map[string]func(testing.TB, vector) error{
		"map": tryMap, "chunk": tryChunk, "manifest": tryManifest, "tag": tryTag, "ref": tryRef,
	}
	for kind, try := range kinds {
		for name, v := range readVectors(t, kind) {
			t.Run(name, func(t *testing.T) {
				err := try(t, v)
				if want := v.header["expect"] == "ok"; want != (err == nil) {
					t.Errorf("want %s, got %v", v.header["expect"], err)
				}
				var chunk *image.ChunkError
				if err != nil && kind != "ref" && !errors.Is(err, image.ErrFormat) && !errors.As(err, &chunk) {
					t.Errorf("error %v is neither ErrFormat nor a ChunkError", err)
				}
			})
		}
	}
}

func tryMap(t testing.TB, v vector) error {
	b := unhex(t, v.body)
	size := v.number(t, "disk_size")
	m, err := image.ParseMap(b, size)
	if err != nil {
		return err
	}
	again, err := m.AppendBinary(nil)
	if err != nil {
		return err
	}
	copy(b[12:16], make([]byte, 4)) // features that may be ignored are not kept
	if !bytes.Equal(again, b) {
		t.Errorf("written again:\n%x, want\n%x", again, b)
	}
	_, err = image.NewLayout(m, size)
	return err
}

func tryChunk(t testing.TB, v vector) error {
	b := unhex(t, v.body)
	id, err := image.ParseID(v.header["id"])
	if err != nil {
		t.Fatal(err)
	}
	if tag := v.header["tag"]; tag != "" && tag != fmt.Sprintf("%08x", image.Tag(b)) {
		t.Errorf("encoding tag %08x, want %s", image.Tag(b), tag)
	}
	chunk, err := image.NewDecoder().Decode(make([]byte, image.RegionSize), b, id, int(v.number(t, "size")))
	if err != nil {
		return err
	}
	if image.Sum(chunk) != id {
		t.Error("Decode returns other bytes than it verified")
	}
	return nil
}

func tryManifest(t testing.TB, v vector) error {
	m, err := image.ParseManifest([]byte(v.body))
	if err != nil {
		return err
	}
	b, digest, err := m.Marshal()
	if err != nil {
		return err
	}
	if string(b) != v.body || digest.String() != v.header["digest"] {
		t.Errorf("written again, with digest %s: %s", digest, b)
	}
	return nil
}

func tryTag(t testing.TB, v vector) error {
	tag, err := image.ParseTag([]byte(v.body))
	if err == nil {
		if r, err := image.ParseRef(tag.Ref().String()); err != nil || r != tag.Ref() {
			t.Errorf("its reference %s reads as %v, %v", tag.Ref(), r, err)
		}
	}
	return err
}

func tryRef(t testing.TB, v vector) error {
	r, err := image.ParseRef(v.body)
	if err == nil && r.String() != v.header["canonical"] {
		t.Errorf("%q reads as %q, want %q", v.body, r, v.header["canonical"])
	}
	return err
}

// TestDocument decodes the examples of FORMAT.md, which make one image.
func TestDocument(t *testing.T) {
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	example := func(kind string) []string {
		var all []string
		for _, m := range regexp.MustCompile("(?s)```"+kind+"\n(.*?)```").FindAllStringSubmatch(string(doc), -1) {
			all = append(all, m[1])
		}
		if len(all) == 0 {
			t.Fatalf("no example of a %s", kind)
		}
		return all
	}
	raw := unhex(t, example("map")[0])
	compressed, err := image.CompressMap(raw)
	if err != nil {
		t.Fatal(err)
	}
	manifest := []byte(strings.TrimSuffix(example("manifest")[0], "\n"))
	digest := image.Sum(manifest)
	if !bytes.Contains(doc, []byte("`"+digest.String()+"`")) {
		t.Errorf("the manifest's digest is %s", digest)
	}
	img, err := image.Open(digest, manifest, bytes.NewReader(compressed))
	if err != nil {
		t.Fatal(err)
	}
	tag, err := image.ParseTag([]byte(example("tag")[0]))
	if err != nil || tag.Digest != digest {
		t.Errorf("tag %+v, %v", tag, err)
	}
	for n, text := range example("chunk") {
		head, body, _ := strings.Cut(text, "\n2")
		v := vector{map[string]string{}, "2" + body}
		for line := range strings.Lines(head) {
			k, val, _ := strings.Cut(strings.TrimSpace(line), " ")
			v.header[k] = val
		}
		if err := tryChunk(t, v); err != nil {
			t.Error(err)
		}
		if got := img.Layout.ID(uint32(n)).String(); got != v.header["id"] || img.Layout.Size(uint32(n)) != int(v.number(t, "size")) {
			t.Errorf("chunk %d of the map is %s, the example %s", n, got, v.header["id"])
		}
	}
}
