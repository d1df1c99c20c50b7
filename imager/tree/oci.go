package tree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// maxOCIDocument bounds an index or manifest, which is read whole, in bytes:
// the limit that registries keep.
const maxOCIDocument = 4 * mib

// maxOCIDepth bounds how deep indexes may nest.
const maxOCIDepth = 4

// blobs is the folder of blobs that SHA-256 names.
const blobs = "blobs/sha256/"

// descriptor names a blob (OCI Image Format Specification 1.1, Descriptors).
type descriptor struct {
	Digest   string `json:"digest"`
	Platform *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
	} `json:"platform"`
}

// ociDocument is an index, which has manifests, or a manifest, which has layers.
type ociDocument struct {
	Manifests []descriptor `json:"manifests"`
	Layers    []descriptor `json:"layers"`
}

// layers unpacks the layers of an OCI image layout, one over the other.
func (m *maker) layers(ctx context.Context, u *unpacking) error {
	// Digests are names of files, and nothing may lead out of the folder.
	root, err := os.OpenRoot(m.cfg.Tree)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.Open("index.json")
	if err != nil {
		return err
	}
	defer f.Close() // opened for reading
	doc, err := readOCI(f)
	for depth := 0; err == nil && len(doc.Layers) == 0; depth++ {
		doc, err = m.choose(root, doc, depth)
	}
	if err != nil {
		return fmt.Errorf("OCI layout: %w", err)
	}
	u.layered = true
	meter := m.meter(StepUnpack)
	for _, l := range doc.Layers {
		if st, err := root.Stat(blobs + strings.TrimPrefix(l.Digest, "sha256:")); err == nil { // else withBlob will tell
			meter.Expect(st.Size())
		}
	}
	for _, l := range doc.Layers {
		err := withBlob(root, l.Digest, func(r io.Reader) error {
			s, err := openTar(ctx, l.Digest, meter.Reader(r))
			if err != nil {
				return err
			}
			defer s.Close()
			return u.all(ctx, s)
		})
		if err != nil {
			return fmt.Errorf("OCI layout: layer %w", err)
		}
	}
	return nil
}

// choose opens the one image of an index that this disk can be made of.
func (m *maker) choose(root *os.Root, index ociDocument, depth int) (doc ociDocument, err error) {
	var fit []descriptor
	for _, d := range index.Manifests {
		if d.Platform == nil || d.Platform.OS == "linux" && d.Platform.Architecture == "amd64" {
			fit = append(fit, d)
		}
	}
	if len(fit) != 1 || depth == maxOCIDepth {
		return doc, &Refused{Device: m.cfg.Tree, Why: fmt.Sprintf("it has %d images for linux/amd64, and one is wanted: copy that one into a layout of its own", len(fit))}
	}
	err = withBlob(root, fit[0].Digest, func(r io.Reader) error {
		doc, err = readOCI(r)
		return err
	})
	return doc, err
}

func readOCI(r io.Reader) (doc ociDocument, err error) {
	b, err := io.ReadAll(io.LimitReader(r, maxOCIDocument+1))
	if err != nil {
		return doc, err
	}
	if len(b) > maxOCIDocument {
		return doc, fmt.Errorf("an index or manifest has more than %d bytes", maxOCIDocument)
	}
	return doc, json.Unmarshal(b, &doc)
}

var digestRE = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// withBlob lets f read a blob, and verifies all of it.
func withBlob(root *os.Root, digest string, f func(r io.Reader) error) error {
	if !digestRE.MatchString(digest) {
		return fmt.Errorf("%.80q is no SHA-256 digest", digest)
	}
	file, err := root.Open(blobs + digest[len("sha256:"):])
	if err != nil {
		return err
	}
	defer file.Close() // opened for reading
	sum := sha256.New()
	r := io.TeeReader(file, sum)
	if err := f(r); err != nil {
		return fmt.Errorf("%s: %w", digest, err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("%s: %w", digest, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != digest[len("sha256:"):] {
		return fmt.Errorf("%s is damaged: its content hashes to %s", digest, got)
	}
	return nil
}
