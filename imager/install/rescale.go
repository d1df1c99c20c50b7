package install

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/ptable"
)

// Rescaled is an image with a GPT that counts in another disk's sectors. All
// else of it is the image's, and so are the numbers of its chunks.
type Rescaled struct {
	*image.Image
	// head is chunk 0, in which the table is; nil where the image is as it was.
	head []byte
}

// Rescale makes img an image for the sectors of dev, if that has others:
// 4096 bytes instead of 512, or the other way round. chunk gets the image's
// encoded chunks, of which it takes the first. A partition that ends in the
// middle of a sector loses what it has of it where no block there is used. What
// cannot be had with such sectors is a *Refused that says why: an MBR, a partition
// that begins in the middle of one, a filesystem with smaller ones.
func Rescale(ctx context.Context, img *image.Image, dev disk.Device, opt Options, chunk func(ctx context.Context, n uint32) ([]byte, error)) (*Rescaled, error) {
	man, sector := img.Manifest, dev.SectorSize()
	if sector == 0 || sector == man.SectorSize || man.Table == "none" || opt.Partition != 0 {
		return &Rescaled{Image: img}, nil
	}
	refuse := func(format string, a ...any) (*Rescaled, error) {
		return nil, refusal(dev)("its sectors are %d bytes long, those of the image's partition table %d: "+format, append([]any{sector, man.SectorSize}, a...)...)
	}
	if man.Table != "gpt" {
		return refuse("an MBR, and the boot code in it, cannot be made to count in others")
	}
	for _, p := range man.Partitions {
		if err := checkContent(p, man.SectorSize, dev, opt.Force); err != nil {
			return nil, err
		}
	}
	if es := img.Layout.Entries(); len(es) == 0 || es[0].Region != 0 {
		return refuse("the image does not have the blocks of its table")
	}
	encoded, err := chunk(ctx, 0)
	if err != nil {
		return nil, err
	}
	content, err := image.NewDecoder().Decode(make([]byte, image.RegionSize), encoded, img.Layout.ID(0), img.Layout.Size(0))
	if err != nil {
		return nil, err
	}
	r, err := rescale(img, content, sector)
	if errors.Is(err, ptable.ErrSectors) || errors.Is(err, ptable.ErrGPT) {
		return refuse("%v", err)
	}
	return r, err
}

// rescale does it, chunk 0 at hand.
func rescale(img *image.Image, chunk []byte, sector int) (*Rescaled, error) {
	man := *img.Manifest
	first := img.Layout.Entries()[0]
	region := make([]byte, image.RegionSize)
	for r := range first.Runs(man.DiskSize) {
		copy(region[r.Offset:], chunk[r.At:][:r.Len])
	}
	// In the image nothing stands behind the last partition, so that its disk
	// may as well end with a whole sector.
	const whole = 4096
	man.DiskSize = (man.DiskSize + whole - 1) / whole * whole
	free := func(off int64) bool { return !uses(img.Layout, off) }
	head, g, err := ptable.Rescale(region, man.SectorSize, sector, man.DiskSize, free)
	if err != nil {
		return nil, err
	}
	end, err := ptable.HeadSize(head, sector)
	if err != nil {
		return nil, err
	}
	first.Used |= 1<<((end+image.BlockSize-1)/image.BlockSize) - 1
	var made []byte
	for r := range first.Runs(man.DiskSize) {
		made = append(made, head[r.Offset:][:r.Len]...)
	}
	first.ID = image.Sum(made)
	m := &image.Map{Entries: append([]image.Entry{first}, img.Layout.Entries()[1:]...)}
	layout, err := image.NewLayout(m, man.DiskSize)
	if err != nil {
		return nil, err
	}
	if layout.Chunks() != img.Layout.Chunks() {
		return nil, fmt.Errorf("install: the image's first chunk stands in several places: %w", ptable.ErrSectors)
	}
	man.SectorSize, man.GPT = sector, &g
	man.Partitions = slices.Clone(man.Partitions)
	for i := range man.Partitions {
		p := &man.Partitions[i]
		p.Size -= (p.Start + p.Size) % int64(sector)
	}
	return &Rescaled{&image.Image{Digest: img.Digest, Manifest: &man, Layout: layout}, made}, nil
}

// uses reports that the block at byte off of the disk is in the map.
func uses(l *image.Layout, off int64) bool {
	es := l.Entries()
	i, ok := slices.BinarySearchFunc(es, uint64(off/image.RegionSize), func(e image.Entry, r uint64) int {
		return cmp.Compare(e.Region, r)
	})
	return ok && es[i].Used>>(off%image.RegionSize/image.BlockSize)&1 != 0
}

// Transport is next, to be given to Job.Run of this image. What has been made
// anew comes first, so that next has only what it knows; via names how it was
// fetched.
func (r *Rescaled) Transport(via string, next func(ctx context.Context, j *Job) error) func(ctx context.Context, j *Job) error {
	if r.head == nil {
		return next
	}
	return func(ctx context.Context, j *Job) error {
		// Raw is an encoding, too (FORMAT.md, Encoded chunk).
		if err := j.Deliver(ctx, 0, r.head, via); err != nil {
			return err
		}
		return next(ctx, j)
	}
}
