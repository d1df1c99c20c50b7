// Package store is where images live: packs of encoded chunks, manifests,
// chunk maps and tags. It knows one kind of store so far, a directory (Dir);
// FORMAT.md beside it says what stands in the directory. Many programs may
// write and read one store at the same time.
package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"huck/imager/image"
)

// ErrNotFound is wrapped by errors about a chunk, image or tag that the store
// does not have. Damage is told by other errors.
var ErrNotFound = errors.New("not found")

// Store is what images are read from. All methods are safe for concurrent
// use.
type Store interface {
	// Chunk returns a chunk as it is stored, after verifying that it decodes
	// to what its ID promises. The caller owns the bytes. The error wraps
	// ErrNotFound if the store has no such chunk and is an *image.ChunkError
	// if the stored bytes are damaged.
	Chunk(ctx context.Context, id image.ID) (encoded []byte, err error)
	// NewReader returns a reader of chunks that are verified elsewhere.
	NewReader() Reader
	// Has reports whether the store has the chunk. It does not read it.
	Has(ctx context.Context, id image.ID) (bool, error)
	// Lookup returns a chunk's lengths in bytes, encoded and decoded, if the
	// store's index in memory knows it. It does no I/O.
	Lookup(id image.ID) (encodedLen, size int, ok bool)
	// Manifest returns the manifest of the image with this digest, verified
	// against it. The error wraps ErrNotFound if there is none and
	// image.ErrFormat if its bytes are damaged.
	Manifest(ctx context.Context, digest image.ID) ([]byte, error)
	// Map returns the compressed chunk map of the image with this digest (the
	// image's digest, not the map's own). Its bytes are verified by whoever
	// opens the image. The error wraps ErrNotFound if there is none.
	Map(ctx context.Context, digest image.ID) ([]byte, error)
	// Resolve returns the tag that ref names: its version, or the latest if
	// it has none; if it has a digest too, the tag must be of that digest. A
	// reference of a digest alone gives a TagInfo without name and version if
	// the image is there. The error wraps ErrNotFound if nothing fits.
	Resolve(ctx context.Context, ref image.Ref) (image.TagInfo, error)
	// Tags returns all tags by name and version. If some cannot be read, it
	// returns the others and an error.
	Tags(ctx context.Context) ([]image.TagInfo, error)
}

// WriteStore is a Store that images can be added to and removed from.
type WriteStore interface {
	Store
	// NewWriter returns a writer of chunks. Nothing that the writer added or
	// met in the store is removed by GC before the writer is closed, so a
	// writer stays open until its image is tagged.
	NewWriter(ctx context.Context) (Writer, error)
	// PutImage stores a manifest and its compressed chunk map durably, after
	// verifying both and that the store has every chunk. Storing an image
	// that is there already does nothing.
	PutImage(ctx context.Context, manifest, compressedMap []byte) error
	// CreateTag gives the image with this digest the next version of name. A
	// version once given is never given again, also not after its removal,
	// and not by writers that race. The error wraps ErrNotFound if the store
	// has no such image. parent is a full reference or empty.
	CreateTag(ctx context.Context, name string, digest image.ID, parent string, labels map[string]string) (image.TagInfo, error)
	// RemoveTag removes the tag of this name and version. What only it refers
	// to goes at the next GC. The error wraps ErrNotFound if there is none.
	RemoveTag(ctx context.Context, name string, version uint64) error
}

// PruneStore is a WriteStore that can be checked and tidied.
type PruneStore interface {
	WriteStore
	// Check looks for damage. The error is about the check itself; damage is
	// told by the result.
	Check(ctx context.Context, opt CheckOptions) (CheckResult, error)
	// GC removes what no tag leads to: images, then chunks. It waits until no
	// writer is at work. It deletes nothing if it meets damage that hides
	// what is still needed.
	GC(ctx context.Context, opt GCOptions) (GCResult, error)
}

// CheckOptions of a Check. The zero value only counts the damage in everything
// but the chunks' bytes.
type CheckOptions struct {
	// ReadData has every chunk read and verified, too.
	ReadData bool
	// Found is called with whatever is found, Progress with how many bytes of the
	// packs were looked at, of all; neither from two goroutines at once. Both may
	// be nil.
	Found    func(Finding)
	Progress func(done, total int64)
}

// GCOptions of a GC.
type GCOptions struct {
	// DryRun says what would be done and does nothing.
	DryRun bool
	// Progress is called with how many bytes of the packs were gone through, of
	// all. May be nil.
	Progress func(done, total int64)
}

// Reader reads many chunks, best in the order of their image, for those who
// decode and so verify them themselves. All methods are safe for concurrent use.
type Reader interface {
	// Encoded returns a chunk as it is stored, unverified, in buf if that has
	// the capacity. The error wraps ErrNotFound if the store has no such chunk.
	Encoded(ctx context.Context, id image.ID, buf []byte) ([]byte, error)
	// Close lets go of what the reader keeps open. Nothing is read after it.
	Close() error
}

// Writer adds chunks to a store. All methods are safe for concurrent use.
// After an error the writer is spent: what was not flushed is lost, and every
// later call but Close returns the error.
type Writer interface {
	// Has reports whether Put would return added == false, so that a caller
	// can save itself the encoding. It does no I/O.
	Has(id image.ID) bool
	// Put adds a chunk of size decoded bytes, encoded as image.Encoder does.
	// added is false if the store, or this writer before, has it already.
	// The chunk is durable, and visible to readers, once Flush has returned
	// nil. encoded is the caller's again when Put returns.
	Put(ctx context.Context, id image.ID, size int, encoded []byte) (added bool, err error)
	// Flush makes everything put so far durable.
	Flush(ctx context.Context) error
	// Close drops what was not flushed and lets GC run again.
	Close() error
}

// Finding is something that Check found.
type Finding struct {
	// Damage is true if something that was stored is lost or doubtful, and
	// false for what is merely unused: leftovers of a crash, chunks that no
	// image needs.
	Damage bool
	// Path is the file in question, relative to the store.
	Path string
	// What tells, for people, what is the matter with it.
	What string
}

// CheckResult sums up a Check.
type CheckResult struct {
	Tags, Images, Packs, Chunks int
	// Bytes is the sum of the chunks' encoded lengths.
	Bytes int64
	// Damaged counts the findings that are damage; zero means a sound store.
	Damaged int
}

// GCResult sums up a GC.
type GCResult struct {
	// Images and Packs were removed; of the packs, Repacked were so only after
	// what is still needed of them was moved to new ones.
	Images, Packs, Repacked int
	// Bytes is how much room that freed.
	Bytes int64
}

// OpenImage opens and verifies the image with this digest.
func OpenImage(ctx context.Context, s Store, digest image.ID) (*image.Image, error) {
	man, err := s.Manifest(ctx, digest)
	if err != nil {
		return nil, err
	}
	m, err := s.Map(ctx, digest)
	if err != nil {
		return nil, err
	}
	img, err := image.Open(digest, man, bytes.NewReader(m))
	if err != nil {
		return nil, fmt.Errorf("store: image @%s: %w", digest.Short(), err)
	}
	return img, nil
}

// EncodedBytes returns what an image's distinct chunks take in the store, in
// bytes. The error wraps ErrNotFound if one of them is not there.
func EncodedBytes(s Store, img *image.Image) (int64, error) {
	var sum int64
	for n := range uint32(img.Layout.Chunks()) {
		enc, _, ok := s.Lookup(img.Layout.ID(n))
		if !ok {
			return 0, fmt.Errorf("store: image @%s: chunk %s: %w", img.Digest.Short(), img.Layout.ID(n).Short(), ErrNotFound)
		}
		sum += int64(enc)
	}
	return sum, nil
}
