package store

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"huck/imager/image"
)

// The files and folders of a store (FORMAT.md, Folder).
const (
	formatFile = "store.json"
	packDir    = "packs"
	imageDir   = "images"
	tagDir     = "tags"
	tempDir    = "tmp"
)

// formatVersion is the version of a store's layout that this package knows.
const formatVersion = 1

// Options are the settings of Open.
type Options struct {
	// Create makes the directory and the store in it if there is none.
	Create bool
	// Log receives warnings. Nil discards them.
	Log *slog.Logger
}

// Dir is a store in a directory of a local filesystem. It holds no lock and
// no open file between calls, and needs no closing.
type Dir struct {
	path  string
	log   *slog.Logger
	index *index
	// verifiers is a pool of *verifier.
	verifiers sync.Pool
}

var _ PruneStore = (*Dir)(nil)

// verifier is what it takes to verify a chunk: about 0.5 MB.
type verifier struct {
	dec *image.Decoder
	buf []byte
}

// Open opens the store in directory path. The error wraps ErrNotFound if there
// is none and it is not to be created; a directory of other things is never
// made a store.
func Open(path string, o Options) (*Dir, error) {
	d := &Dir{path: path, log: o.Log, index: newIndex(filepath.Join(path, packDir))}
	d.verifiers.New = func() any {
		return &verifier{image.NewDecoder(), make([]byte, image.RegionSize+image.DecodeSlack)}
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	err := d.readFormat()
	if errors.Is(err, fs.ErrNotExist) {
		if !o.Create {
			return nil, fmt.Errorf("store: no store in %s, where capture and import would make one: %w", path, ErrNotFound)
		}
		err = d.create()
	}
	if err != nil {
		return nil, err
	}
	if err := d.index.refresh(); err != nil {
		return nil, err
	}
	if name, why := d.index.unreadable(); why != nil {
		d.log.Warn("store: damaged pack, run check", "store", path, "pack", name, "err", why)
	}
	return d, nil
}

// Path returns the store's directory.
func (d *Dir) Path() string { return d.path }

func (d *Dir) dir(name string) string { return filepath.Join(d.path, name) }

type format struct {
	Format int `json:"format"`
}

func (d *Dir) readFormat() error {
	b, err := os.ReadFile(d.dir(formatFile))
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	var v format
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("store: %s: %v", d.dir(formatFile), err)
	}
	if v.Format > formatVersion {
		return fmt.Errorf("store: %s: format version %d, this program knows %d: a newer one made it, use that", d.path, v.Format, formatVersion)
	}
	if v.Format != formatVersion {
		return fmt.Errorf("store: %s: format version %d, this program knows %d", d.path, v.Format, formatVersion)
	}
	return nil
}

// create makes the folders and, last, the file that says it is a store. Two
// programs may do so at once, and one that crashed may be followed by another.
func (d *Dir) create() error {
	if err := os.MkdirAll(d.path, 0o755); err != nil {
		return fmt.Errorf("store: %v", err)
	}
	files, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("store: %v", err)
	}
	folders := []string{packDir, imageDir, tagDir, tempDir}
	ours := map[string]bool{formatFile: true, "lock": true, "lost+found": true}
	for _, name := range folders {
		ours[name] = true
	}
	for _, f := range files {
		if !ours[f.Name()] {
			return fmt.Errorf("store: %s is no store and not empty (%s)", d.path, f.Name())
		}
	}
	for _, name := range folders {
		if err := os.Mkdir(d.dir(name), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("store: %v", err)
		}
	}
	if err := syncDir(filepath.Dir(filepath.Clean(d.path))); err != nil {
		return err
	}
	// Nobody holds this lock for long while there is no store.
	l, err := d.shared(context.Background())
	if err != nil {
		return err
	}
	defer l.release()
	b, err := json.Marshal(format{formatVersion})
	if err != nil {
		return fmt.Errorf("store: %v", err)
	}
	return d.writeFile(append(b, '\n'), formatFile, os.Rename)
}

// createTemp makes a temporary file that commit will turn into a real one.
func (d *Dir) createTemp() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(d.dir(tempDir), rand.Text()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return f, nil
}

// commit makes the temporary file f durable under name, relative to the
// store: fsync, close, place (os.Rename, or os.Link to fail if the name is
// taken), fsync of the folder. Whatever happens, f is closed and its temporary
// name gone.
func (d *Dir) commit(f *os.File, name string, place func(from, to string) error) error {
	final := d.dir(name)
	err := f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = place(f.Name(), final)
	}
	if rerr := os.Remove(f.Name()); err == nil && rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = rerr // after a rename it is not there any more
	}
	if err == nil {
		err = syncDir(filepath.Dir(final))
	}
	if err != nil {
		return fmt.Errorf("store: write %s: %w", name, err)
	}
	return nil
}

// writeFile is commit for a small file.
func (d *Dir) writeFile(b []byte, name string, place func(from, to string) error) error {
	f, err := d.createTemp()
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		discard(f)
		return fmt.Errorf("store: write %s: %w", name, err)
	}
	return d.commit(f, name, place)
}

// discard gives a temporary file up. Should the removal fail, the next writer
// that is alone clears it away.
func discard(f *os.File) {
	f.Close()
	os.Remove(f.Name())
}

// syncDir makes the names in a folder durable.
func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("store: %v", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("store: sync folder %s: %v", path, err)
	}
	return nil
}

// Lookup implements Store.
func (d *Dir) Lookup(id image.ID) (encodedLen, size int, ok bool) {
	e, _, ok := d.index.lookup(id)
	if !ok {
		return 0, 0, false
	}
	return int(e.encoded), int(e.size), true
}

// Has implements Store.
func (d *Dir) Has(ctx context.Context, id image.ID) (bool, error) {
	if _, _, ok := d.index.lookup(id); ok {
		return true, nil
	}
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("store: %w", err)
	}
	if err := d.index.refresh(); err != nil {
		return false, err
	}
	_, _, ok := d.index.lookup(id)
	return ok, nil
}

// Chunk implements Store.
func (d *Dir) Chunk(ctx context.Context, id image.ID) (b []byte, err error) {
	err = d.find(ctx, id, func(e *entry, pack string) error {
		b, err = d.readChunk(e, pack)
		return err
	})
	return b, err
}

// missing is the error about a chunk that no readable pack has.
func (d *Dir) missing(id image.ID) error {
	if pack, why := d.index.unreadable(); why != nil {
		return &image.ChunkError{ID: id, Why: fmt.Sprintf("in no readable pack; pack %s: %v", shortName(pack), why)}
	}
	return fmt.Errorf("store: chunk %s: %w", id.Short(), ErrNotFound)
}

// readChunk reads a chunk from its place and verifies it.
func (d *Dir) readChunk(e *entry, pack string) ([]byte, error) {
	f, err := d.openPack(pack)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading
	b := make([]byte, e.encoded)
	if err := readEncoded(f, b, e, pack); err != nil {
		return nil, err
	}
	if err := d.verify(b, e, pack); err != nil {
		return nil, err
	}
	return b, nil
}

// verify decodes a chunk that was read as e says and compares its hash.
func (d *Dir) verify(encoded []byte, e *entry, pack string) error {
	v := d.verifiers.Get().(*verifier)
	defer d.verifiers.Put(v)
	_, err := v.dec.Decode(v.buf, encoded, e.id, int(e.size))
	var bad *image.ChunkError
	if errors.As(err, &bad) {
		return &image.ChunkError{ID: e.id, Why: fmt.Sprintf("pack %s, %d bytes at %d: %s", shortName(pack), e.encoded, e.offset, bad.Why)}
	}
	return err
}

// shortName is a pack's name for messages: enough digits to find the file.
func shortName(pack string) string { return pack[:min(16, len(pack))] }
