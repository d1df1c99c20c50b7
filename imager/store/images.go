package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"huck/imager/image"
)

const (
	manifestSuffix = ".json"
	mapSuffix      = ".map"

	// maxFile bounds the small files that are read whole; a chunk map at its
	// largest, which does not compress, has 805 MB.
	maxFile = 1 << 30
)

func manifestName(digest image.ID) string {
	return filepath.Join(imageDir, digest.String()+manifestSuffix)
}

func mapName(digest image.ID) string { return filepath.Join(imageDir, digest.String()+mapSuffix) }

// Manifest implements Store.
func (d *Dir) Manifest(ctx context.Context, digest image.ID) ([]byte, error) {
	b, err := d.readFile(ctx, manifestName(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("store: image @%s: %w", digest.Short(), ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if got := image.Sum(b); got != digest {
		return nil, fmt.Errorf("store: manifest of image @%s hashes to %s: %w", digest.Short(), got.Short(), image.ErrFormat)
	}
	return b, nil
}

// Map implements Store.
func (d *Dir) Map(ctx context.Context, digest image.ID) ([]byte, error) {
	b, err := d.readFile(ctx, mapName(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("store: chunk map of image @%s: %w", digest.Short(), ErrNotFound)
	}
	return b, err
}

// readFile reads a file of the store. The error wraps fs.ErrNotExist if there
// is none.
func (d *Dir) readFile(ctx context.Context, name string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	f, err := os.Open(d.dir(name))
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("store: %s is larger than %d bytes: %w", name, maxFile, image.ErrFormat)
	}
	// A file of the store never changes once it has its name.
	b := make([]byte, info.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, fmt.Errorf("store: read %s: %v", name, err)
	}
	return b, nil
}

// PutImage implements WriteStore.
func (d *Dir) PutImage(ctx context.Context, manifest, compressedMap []byte) error {
	digest := image.Sum(manifest)
	img, err := image.Open(digest, manifest, bytes.NewReader(compressedMap))
	if err != nil {
		return fmt.Errorf("store: put image @%s: %w", digest.Short(), err)
	}
	l, err := d.shared(ctx)
	if err != nil {
		return err
	}
	defer l.release()
	if err := d.index.refresh(); err != nil {
		return err
	}
	if n, id := d.lacks(img.Layout); n > 0 {
		return fmt.Errorf("store: put image @%s: %d of its chunks are not in the store, chunk %s for one: %w", digest.Short(), n, id.Short(), ErrNotFound)
	}
	if _, err := OpenImage(ctx, d, digest); err == nil {
		return nil
	}
	// Packs before map before manifest: where there is a manifest, there is
	// the whole image, also after a crash.
	if err := syncDir(d.dir(packDir)); err != nil {
		return err
	}
	if err := d.writeFile(compressedMap, mapName(digest), os.Rename); err != nil {
		return err
	}
	return d.writeFile(manifest, manifestName(digest), os.Rename)
}

// lacks counts the chunks of l that the index does not have, or has in another
// size, and returns one of them.
func (d *Dir) lacks(l *image.Layout) (n int, one image.ID) {
	for c := range uint32(l.Chunks()) {
		if _, size, ok := d.Lookup(l.ID(c)); !ok || size != l.Size(c) {
			n, one = n+1, l.ID(c)
		}
	}
	return n, one
}

// imageFiles returns the digests in the images folder that have a manifest,
// and the names of all other files there.
func (d *Dir) imageFiles() (images []image.ID, others []string, err error) {
	files, err := os.ReadDir(d.dir(imageDir))
	if err != nil {
		return nil, nil, fmt.Errorf("store: list images: %v", err)
	}
	has := make(map[image.ID]bool)
	for _, f := range files {
		if id, ok := digestOf(f.Name(), manifestSuffix); ok {
			images, has[id] = append(images, id), true
		}
	}
	for _, f := range files {
		if _, ok := digestOf(f.Name(), manifestSuffix); ok {
			continue
		}
		if id, ok := digestOf(f.Name(), mapSuffix); !ok || !has[id] {
			others = append(others, f.Name())
		}
	}
	return images, others, nil
}

// digestOf reads a file name of an image.
func digestOf(name, suffix string) (image.ID, bool) {
	if filepath.Ext(name) != suffix {
		return image.ID{}, false
	}
	id, err := image.ParseID(name[:len(name)-len(suffix)])
	return id, err == nil && id.String()+suffix == name
}
