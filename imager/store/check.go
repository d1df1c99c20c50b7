package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"huck/imager/image"
)

// checker is one run of Check.
type checker struct {
	d      *Dir
	opt    CheckOptions
	result CheckResult
	needed map[image.ID]struct{} // chunks that an image names

	mu      sync.Mutex
	passage *packProgress
	damaged map[image.ID]struct{} // chunks whose bytes are wrong
}

// Check implements PruneStore. It may run beside writers; their temporary
// files are then among the findings.
func (d *Dir) Check(ctx context.Context, opt CheckOptions) (CheckResult, error) {
	l, err := d.shared(ctx) // so that GC moves nothing meanwhile
	switch {
	case err == nil:
		defer l.release()
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS):
		d.log.Warn("store: check runs without the lock", "err", err)
	default:
		return CheckResult{}, err
	}
	c := &checker{d: d, opt: opt, needed: make(map[image.ID]struct{}), damaged: make(map[image.ID]struct{})}
	for _, step := range []func(context.Context) error{
		c.strays, c.packs, c.images, c.tags, c.unused,
	} {
		if err := step(ctx); err != nil {
			return c.result, err
		}
	}
	return c.result, nil
}

func (c *checker) damage(path, format string, a ...any) {
	c.find(Finding{Damage: true, Path: path, What: fmt.Sprintf(format, a...)})
}

func (c *checker) note(path, format string, a ...any) {
	c.find(Finding{Path: path, What: fmt.Sprintf(format, a...)})
}

func (c *checker) find(f Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.Damage {
		c.result.Damaged++
	}
	if c.opt.Found != nil {
		c.opt.Found(f)
	}
}

// strays looks for files that are not the store's, or not any more.
func (c *checker) strays(context.Context) error {
	for _, folder := range []struct {
		name, what string
		ours       func(name string) bool
	}{
		{packDir, "not a pack's name", func(n string) bool { _, ok := digestOf(n, packSuffix); return ok }},
		{tempDir, "temporary file of a writer at work, or of one that died", func(string) bool { return false }},
	} {
		files, err := os.ReadDir(c.d.dir(folder.name))
		if err != nil {
			return fmt.Errorf("store: check: %v", err)
		}
		for _, f := range files {
			if !folder.ours(f.Name()) {
				c.note(filepath.Join(folder.name, f.Name()), "%s", folder.what)
			}
		}
	}
	return c.strayTags()
}

// strayTags looks for files among the tags that are none.
func (c *checker) strayTags() error {
	names, err := os.ReadDir(c.d.dir(tagDir))
	if err != nil {
		return fmt.Errorf("store: check: %v", err)
	}
	for _, n := range names {
		folder := filepath.Join(tagDir, n.Name())
		if !n.IsDir() || image.CheckName(n.Name()) != nil {
			c.note(folder, "not an image's name")
			continue
		}
		files, err := os.ReadDir(c.d.dir(folder))
		if err != nil {
			return fmt.Errorf("store: check: %v", err)
		}
		for _, f := range files {
			if _, ok := versionOf(f.Name()); !ok {
				c.note(filepath.Join(folder, f.Name()), "not a tag's name")
			}
		}
	}
	return nil
}

// packs checks the packs' tables and, with ReadData, every chunk.
func (c *checker) packs(ctx context.Context) error {
	if err := c.d.index.refresh(); err != nil {
		return err
	}
	names, err := packNames(c.d.dir(packDir))
	if err != nil {
		return err
	}
	if c.passage, err = newPackProgress(c.d.dir(packDir), names, c.opt.Progress); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, name := range names {
		g.Go(func() error { return c.pack(ctx, name) })
	}
	return g.Wait()
}

func (c *checker) pack(ctx context.Context, name string) error {
	path := filepath.Join(packDir, name+packSuffix)
	defer c.progress(func() { c.passage.passed(name) })
	entries, err := loadTable(c.d.dir(packDir), name)
	if err != nil {
		c.damage(path, "all its chunks are lost: %v", err)
		return nil
	}
	c.mu.Lock()
	c.result.Packs++
	c.result.Chunks += len(entries)
	for i := range entries {
		c.result.Bytes += int64(entries[i].encoded)
	}
	c.mu.Unlock()
	if !c.opt.ReadData {
		return nil
	}
	for i := range entries {
		e := &entries[i]
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("store: check: %w", err)
		}
		if _, err := c.d.readChunk(e, name); err != nil {
			c.damage(path, "%v", err)
			c.mu.Lock()
			c.damaged[e.id] = struct{}{}
			c.mu.Unlock()
		}
		c.progress(func() { c.passage.read(name, int64(e.encoded)) })
	}
	return nil
}

// progress takes a step of passage.
func (c *checker) progress(step func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	step()
}

// images checks every manifest and map, and that their chunks are there.
func (c *checker) images(ctx context.Context) error {
	images, others, err := c.d.imageFiles()
	if err != nil {
		return err
	}
	for _, name := range others {
		what := "not an image's name"
		if _, ok := digestOf(name, mapSuffix); ok {
			what = "chunk map without a manifest: writing or removing it was interrupted"
		}
		c.note(filepath.Join(imageDir, name), "%s", what)
	}
	for _, digest := range images {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("store: check: %w", err)
		}
		c.result.Images++
		c.image(ctx, digest)
	}
	return nil
}

func (c *checker) image(ctx context.Context, digest image.ID) {
	path := manifestName(digest)
	img, err := OpenImage(ctx, c.d, digest)
	if err != nil {
		c.damage(path, "the image cannot be opened: %v", err)
		return
	}
	n, id := c.d.lacks(img.Layout)
	if n > 0 && c.d.index.refresh() == nil { // the image may be newer than the index
		n, id = c.d.lacks(img.Layout)
	}
	if n > 0 {
		c.damage(path, "the image lacks %d of its %d chunks, chunk %s for one", n, img.Layout.Chunks(), id.Short())
	}
	bad := 0
	for n := range uint32(img.Layout.Chunks()) {
		id := img.Layout.ID(n)
		c.needed[id] = struct{}{}
		if _, ok := c.damaged[id]; ok {
			bad++
		}
	}
	if bad > 0 {
		c.damage(path, "%d of the image's %d chunks are damaged", bad, img.Layout.Chunks())
	}
}

// tags checks every tag and notes images without one.
func (c *checker) tags(ctx context.Context) error {
	tagged := make(map[image.ID]bool)
	err := c.d.eachTag(ctx, func(file string, tag image.TagInfo, err error) {
		c.result.Tags++
		if err != nil {
			c.damage(file, "%v", err)
			return
		}
		tagged[tag.Digest] = true
		if _, err := c.d.Manifest(ctx, tag.Digest); errors.Is(err, ErrNotFound) {
			c.damage(file, "its image @%s is missing", tag.Digest.Short())
		}
	})
	if err != nil {
		return err
	}
	images, _, err := c.d.imageFiles()
	for _, digest := range images {
		if !tagged[digest] {
			c.note(manifestName(digest), "no tag leads to the image; gc removes it")
		}
	}
	return err
}

// unused notes what no image needs.
func (c *checker) unused(context.Context) error {
	var n, bytes int64
	c.d.index.each(func(e *entry) {
		if _, ok := c.needed[e.id]; !ok {
			n++
			bytes += int64(e.encoded)
		}
	})
	if n > 0 {
		c.note(packDir, "%d chunks of %d bytes that no image needs", n, bytes)
	}
	if twice := int64(c.result.Chunks) - c.d.index.len(); twice > 0 {
		c.note(packDir, "%d chunks that stand in two packs", twice)
	}
	return nil
}
