package image_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"huck/imager/image"
)

// partOf returns part i of img's map, encoded.
func partOf(img *image.Image, i int) []byte {
	return image.NewEncoder().Encode(nil, image.AppendMapPart(nil, img.Layout.Entries(), i))
}

func builder(t testing.TB, digest image.ID, man []byte) *image.MapBuilder {
	t.Helper()
	b, err := image.NewMapBuilder(digest, man)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestMapParts: a map is the same whole and in parts, in whatever order and how
// often they come.
func TestMapParts(t *testing.T) {
	if n := image.MapParts(0); n != 0 {
		t.Errorf("an empty map has %d parts", n)
	}
	for regions, parts := range map[int]int{1: 1, 5461: 1, 5462: 2, 30000: 6} {
		digest, man, cmap := makeImage(t, regions)
		want, err := image.Open(digest, man, bytes.NewReader(cmap))
		if err != nil {
			t.Fatal(err)
		}
		b := builder(t, digest, man)
		if b.Parts() != parts || image.MapParts(regions) != parts {
			t.Fatalf("%d regions are %d parts, want %d", regions, b.Parts(), parts)
		}
		order := rand.New(rand.NewPCG(1, uint64(regions))).Perm(parts)
		for _, i := range append(order[:parts-1:parts-1], order...) { // all but one twice
			if b.Complete() {
				t.Errorf("complete before part %d", i)
			}
			part := partOf(want, i)
			if len(part) > image.RegionSize {
				t.Errorf("part %d is %d bytes", i, len(part))
			}
			if err := b.Add(i, part); err != nil || !b.Has(i) {
				t.Fatalf("part %d: %v", i, err)
			}
		}
		got, err := b.Open()
		if err != nil || !b.Complete() {
			t.Fatalf("%d regions: %v", regions, err)
		}
		if got.Digest != want.Digest || !reflect.DeepEqual(got.Manifest, want.Manifest) || !reflect.DeepEqual(got.Layout, want.Layout) {
			t.Errorf("%d regions: another image in parts than whole", regions)
		}
	}
}

// TestMapPartsRefuse: what cannot be a part is refused when it comes, what is
// another map's when the image is opened, after which it can be put right.
func TestMapPartsRefuse(t *testing.T) {
	digest, man, cmap := makeImage(t, 6000)
	img, err := image.Open(digest, man, bytes.NewReader(cmap))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := image.NewMapBuilder(image.Sum(nil), man); !errors.Is(err, image.ErrFormat) {
		t.Errorf("another manifest: %v", err)
	}
	b := builder(t, digest, man)
	parts := [][]byte{partOf(img, 0), partOf(img, 1)}
	for name, c := range map[string]struct {
		i    int
		part []byte
	}{
		"nothing":      {0, nil},
		"cut":          {0, parts[0][:len(parts[0])-1]},
		"another part": {1, parts[0]},
		"too long":     {1, make([]byte, image.RegionSize)},
		"no zstd":      {0, make([]byte, 100)},
	} {
		var damaged *image.ChunkError
		if err := b.Add(c.i, c.part); !errors.As(err, &damaged) || b.Has(c.i) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.Open(); err == nil || !strings.Contains(err.Error(), "2 of 2 parts missing") {
		t.Errorf("without parts: %v", err)
	}
	forged := image.AppendMapPart(nil, img.Layout.Entries(), 1)
	forged[20] ^= 1 // an ID
	for _, last := range [][]byte{forged, parts[1]} {
		for i, part := range [][]byte{parts[0], last} {
			if err := b.Add(i, part); err != nil {
				t.Fatal(err)
			}
		}
		_, err := b.Open()
		if bytes.Equal(last, forged) && (!errors.Is(err, image.ErrFormat) || b.Has(0) || b.Complete()) {
			t.Errorf("forged: %v", err)
		} else if !bytes.Equal(last, forged) && err != nil {
			t.Error(err)
		}
	}
}

func FuzzMapPart(f *testing.F) {
	digest, man, cmap := makeImage(f, 30)
	img, err := image.Open(digest, man, bytes.NewReader(cmap))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(partOf(img, 0))
	f.Add(image.AppendMapPart(nil, img.Layout.Entries(), 0))
	f.Fuzz(func(t *testing.T, part []byte) {
		b := builder(t, digest, man)
		if b.Add(0, part) != nil {
			return
		}
		if got, err := b.Open(); err == nil && !reflect.DeepEqual(got.Layout, img.Layout) {
			t.Fatal("another map with the same digest")
		}
	})
}
