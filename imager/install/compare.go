package install

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"huck/imager/disk"
	"huck/imager/image"
)

const (
	// windowSize is how much is read at a time: enough for any disk to run at
	// full speed with a few reads under way.
	windowSize = 1 << 20
	// readThrough is the longest stretch of unused blocks that is read along
	// because skipping it would cost more than reading it.
	readThrough = 64 << 10
	// maxReaders bounds the reads under way: more make a turning disk seek.
	maxReaders = 8
)

// comparer reads a disk in disk order and compares it with the fitted view.
type comparer struct {
	view *view
	dev  disk.Device
	// skip says that region i need not be compared; nil compares all.
	skip func(i int) bool
	// found is told of every region compared, from several goroutines. err is
	// why it could not be read; what found returns ends the run.
	found func(i int, same bool, err error) error

	mu   sync.Mutex
	next int // the entry to go on with
}

// run compares all regions on so many cores, each with four readers: three wait
// for the disk while the fourth hashes. It ends when all are compared, found
// fails or ctx is done.
func (c *comparer) run(ctx context.Context, cores int) error {
	g, ctx := errgroup.WithContext(ctx)
	readers := min(4*cores, maxReaders)
	for bufs := disk.Buffer(readers * windowSize); len(bufs) > 0; bufs = bufs[windowSize:] {
		g.Go(func() error {
			buf := bufs[:windowSize:windowSize]
			for {
				if err := ctx.Err(); err != nil {
					return err
				}
				from, to := c.window()
				if from == to {
					return nil
				}
				if err := c.compare(buf, from, to); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// window hands out the next entries that one read can cover.
func (c *comparer) window() (from, to int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	es := c.view.layout.Entries()
	for c.next < len(es) && c.skip != nil && c.skip(c.next) {
		c.next++
	}
	from = c.next
	for c.next < len(es) && windowOf(&es[c.next]) == windowOf(&es[from]) {
		c.next++
	}
	return from, c.next
}

func windowOf(e *image.Entry) uint64 { return e.Region / (windowSize / image.RegionSize) }

func (c *comparer) compare(buf []byte, from, to int) error {
	es := c.view.layout.Entries()
	base := int64(windowOf(&es[from]))*windowSize - c.view.start
	readErr := c.read(buf, base, from, to)
	for i := from; i < to; i++ {
		if c.skip != nil && c.skip(i) {
			continue
		}
		var same bool
		err := readErr
		if readErr == nil {
			same = c.view.matches(i, buf, base)
		} else {
			// One of them cannot be read; find out which.
			same, err = c.view.look(c.dev, i, buf)
		}
		if err := c.found(i, same, err); err != nil {
			return err
		}
	}
	return nil
}

// read fills buf, which stands for the disk from base on, with the used blocks
// of entries from to to-1.
func (c *comparer) read(buf []byte, base int64, from, to int) error {
	start, end := int64(-1), int64(-1)
	flush := func() error {
		if start < 0 {
			return nil
		}
		_, err := c.dev.ReadAt(buf[start-base:end-base], start)
		return err
	}
	for i := from; i < to; i++ {
		for r := range c.view.runs(i) {
			if start < 0 || r.Offset-end > readThrough {
				if err := flush(); err != nil {
					return err
				}
				start = r.Offset
			}
			end = r.Offset + int64(r.Len)
		}
	}
	return flush()
}

// look reads region i into buf and compares it. buf holds a region at least.
func (v *view) look(dev disk.Device, i int, buf []byte) (same bool, err error) {
	start, end := v.span(i)
	if _, err := dev.ReadAt(buf[:end-start], start); err != nil {
		return false, fmt.Errorf("install: compare region %d: %w", v.layout.Entries()[i].Region, err)
	}
	return v.matches(i, buf, start), nil
}
