package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"huck/imager/image"
)

const (
	// repackDead is the share of a pack, in percent, that must be unneeded for
	// the rest to be worth moving: a quarter wastes at most a third more room
	// than the needed chunks take.
	repackDead = 25
	// repackBatch is how many packs are repacked before the old ones are
	// deleted, which bounds the room it takes.
	repackBatch = 8
)

// collector is one run of GC.
type collector struct {
	d      *Dir
	opt    GCOptions
	needed map[image.ID]struct{}
	result GCResult
	doomed []string // packs to be deleted after the next flush
	moved  int      // how many of them were repacked
	w      *dirWriter
}

// GC implements PruneStore. Readers of images that a tag leads to are not
// disturbed; chunks that move are found again.
func (d *Dir) GC(ctx context.Context, opt GCOptions) (GCResult, error) {
	l, err := d.exclusive(ctx)
	if err != nil {
		return GCResult{}, err
	}
	defer l.release()
	c := &collector{d: d, opt: opt, needed: make(map[image.ID]struct{})}
	if err := d.index.refresh(); err != nil {
		return GCResult{}, err
	}
	images, err := c.mark(ctx)
	if err != nil {
		return GCResult{}, fmt.Errorf("store: gc deletes nothing: %w", err)
	}
	if err := c.sweepImages(images); err != nil {
		return c.result, err
	}
	if err := c.sweepPacks(ctx); err != nil {
		return c.result, err
	}
	if opt.DryRun {
		return c.result, nil
	}
	if err := d.clearTemp(); err != nil {
		return c.result, err
	}
	return c.result, d.index.refresh()
}

// mark collects the chunks of every tagged image and returns those images. Any
// damage among them ends the run: what cannot be read may need anything.
func (c *collector) mark(ctx context.Context) (map[image.ID]bool, error) {
	if pack, why := c.d.index.unreadable(); why != nil {
		return nil, fmt.Errorf("pack %s: %w", shortName(pack), why)
	}
	tags, err := c.d.Tags(ctx)
	if err != nil {
		return nil, err
	}
	images := make(map[image.ID]bool)
	for _, tag := range tags {
		if images[tag.Digest] {
			continue
		}
		img, err := OpenImage(ctx, c.d, tag.Digest)
		if err != nil {
			return nil, fmt.Errorf("tag %s:%d: %w", tag.Name, tag.Version, err)
		}
		images[tag.Digest] = true
		for n := range uint32(img.Layout.Chunks()) {
			c.needed[img.Layout.ID(n)] = struct{}{}
		}
	}
	return images, nil
}

// sweepImages removes images without a tag: the manifest first, so that a
// crash leaves no manifest without a map.
func (c *collector) sweepImages(keep map[image.ID]bool) error {
	images, others, err := c.d.imageFiles()
	if err != nil {
		return err
	}
	for _, digest := range images {
		if keep[digest] {
			continue
		}
		c.result.Images++
		if err := c.remove(manifestName(digest)); err != nil {
			return err
		}
		if err := c.remove(mapName(digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, name := range others {
		if _, ok := digestOf(name, mapSuffix); ok {
			if err := c.remove(filepath.Join(imageDir, name)); err != nil {
				return err
			}
		}
	}
	if c.opt.DryRun {
		return nil
	}
	// No chunk goes before the images that named it have gone for good.
	return syncDir(c.d.dir(imageDir))
}

// remove deletes a file of the store and counts the room.
func (c *collector) remove(name string) error {
	info, err := os.Stat(c.d.dir(name))
	if err != nil {
		return fmt.Errorf("store: gc: %w", err)
	}
	if !c.opt.DryRun {
		if err := os.Remove(c.d.dir(name)); err != nil {
			return fmt.Errorf("store: gc: %w", err)
		}
	}
	c.result.Bytes += info.Size()
	return nil
}

func (c *collector) sweepPacks(ctx context.Context) error {
	names, err := packNames(c.d.dir(packDir))
	if err != nil {
		return err
	}
	p, err := newPackProgress(c.d.dir(packDir), names, c.opt.Progress)
	if err != nil {
		return err
	}
	c.w = c.d.newWriter()
	c.w.copying = true
	defer c.w.Close()
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("store: gc: %w", err)
		}
		if err := c.pack(ctx, name); err != nil {
			return err
		}
		if c.moved == repackBatch {
			if err := c.drop(ctx); err != nil {
				return err
			}
		}
		p.passed(name)
	}
	return c.drop(ctx)
}

// pack deletes a pack, repacks it or leaves it alone.
func (c *collector) pack(ctx context.Context, name string) error {
	entries, err := loadTable(c.d.dir(packDir), name)
	if err != nil {
		return fmt.Errorf("store: gc: pack %s: %w", shortName(name), err)
	}
	var live []entry
	var dead, all int64
	for i := range entries {
		all += int64(entries[i].encoded)
		if c.needs(&entries[i], name) {
			live = append(live, entries[i])
		} else {
			dead += int64(entries[i].encoded)
		}
	}
	switch {
	case len(live) == 0:
		c.doomed = append(c.doomed, name)
		return nil
	case dead*100 < all*repackDead:
		return nil
	}
	if !c.opt.DryRun {
		if sound, err := c.move(ctx, name, live); err != nil || !sound {
			return err
		}
	}
	c.result.Repacked++
	c.result.Bytes -= all - dead
	c.moved++
	c.doomed = append(c.doomed, name)
	return nil
}

// needs reports whether this copy of a chunk has to stay: an image needs it
// and there is no sound copy that the index prefers.
func (c *collector) needs(e *entry, pack string) bool {
	if _, ok := c.needed[e.id]; !ok {
		return false
	}
	other, at, ok := c.d.index.lookup(e.id)
	if !ok || at == pack {
		return true
	}
	_, err := c.d.readChunk(other, at)
	return err != nil
}

// move copies the needed chunks of a pack to new ones. It reports false if one
// is damaged: then the pack stays as it is, as evidence.
func (c *collector) move(ctx context.Context, name string, live []entry) (sound bool, err error) {
	for i := range live {
		e := &live[i]
		b, err := c.d.readChunk(e, name)
		if err != nil {
			c.d.log.Warn("store: gc leaves a damaged pack alone", "pack", name, "err", err)
			return false, nil
		}
		if _, err := c.w.Put(ctx, e.id, int(e.size), b); err != nil {
			return false, err
		}
	}
	return true, nil
}

// drop deletes the doomed packs, once what was moved out of them is durable.
func (c *collector) drop(ctx context.Context) error {
	if !c.opt.DryRun {
		if err := c.w.Flush(ctx); err != nil {
			return err
		}
	}
	for _, name := range c.doomed {
		// A pack that an interrupted run wrote, and this one wrote again
		// under the same name, is not the old one any more.
		if c.w.wrote(name) {
			continue
		}
		c.result.Packs++
		if err := c.remove(filepath.Join(packDir, name+packSuffix)); err != nil {
			return err
		}
	}
	c.doomed, c.moved = nil, 0
	if c.opt.DryRun {
		return nil
	}
	return syncDir(c.d.dir(packDir))
}
