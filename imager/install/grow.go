package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"huck/imager/api"
	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/ptable"
)

// growAlign is what the end of a grown partition is a multiple of: what every
// partitioning tool takes, and no flash has larger pages.
const growAlign = 1 << 20

// growth is how the image's last partition, or the one that there is, takes the
// room that this device has behind it.
type growth struct {
	part image.Partition
	// offset and size are where it is on the device.
	offset, size int64
	// table is the change to its entry in the partition table; nil if that has
	// no say or stays.
	table *ptable.Resize
	// left says why something stays as it is; empty if all grows.
	left string
	// failed is why the entry could not be changed, which only the table
	// itself could tell.
	failed error
}

func (g *growth) leave(format string, a ...any) { g.left = fmt.Sprintf(format, a...) }

// stay leaves the partition as long as it is in the image because of err.
func (g *growth) stay(err error) { g.table, g.size, g.left, g.failed = nil, g.part.Size, "", err }

// UngrownError tells that an installation is complete, but that what was to
// grow has not. The disk is sound, and installing again tries again.
type UngrownError struct {
	// Device is the device's name.
	Device string
	// Partition is what should have grown; its number is 0 if it is all of the
	// device.
	Partition image.Partition
	Err       error
}

func (e *UngrownError) Error() string {
	return fmt.Sprintf("install: %s is complete, but its %s is not grown: %v", e.Device, name(e.Partition), e.Err)
}

func (e *UngrownError) Unwrap() error { return e.Err }

func name(p image.Partition) string {
	if p.Number == 0 {
		return p.Content
	}
	return fmt.Sprintf("partition %d (%s)", p.Number, p.Content)
}

// grow decides what of a whole disk grows, and how far.
func (v *view) grow(man *image.Manifest, dev disk.Device) error {
	if len(man.Partitions) == 0 {
		v.growth = &growth{left: "the image has no partition"}
		return nil
	}
	if v.table == "none" {
		return v.growAll(man.Partitions[0], dev)
	}
	last := slices.MaxFunc(man.Partitions, func(a, b image.Partition) int { return int((a.Start+a.Size)/512 - (b.Start+b.Size)/512) })
	v.growth = &growth{part: last, offset: last.Start, size: last.Size}
	limit := v.dataEnd
	if v.gpt == nil {
		limit = min(limit, ptable.MaxMBRSectors*v.sector)
	}
	size := limit/growAlign*growAlign - last.Start
	if why := v.fixed(man, last); why != "" {
		v.growth.left = why
		return nil
	}
	if size <= last.Size {
		v.growth.left = "there is no room behind it"
		return nil
	}
	v.growth.size = size
	v.growth.table = &ptable.Resize{Number: last.Number, Start: last.Start, From: last.Size, To: size}
	return v.growth.check(dev)
}

// fixed tells why the partition must keep its length; empty if it need not.
func (v *view) fixed(man *image.Manifest, last image.Partition) string {
	switch {
	case !v.holdsHead():
		return "the image does not have the blocks of its partition table"
	case v.gpt != nil && v.gpt.ProtectiveSize == 0:
		return "a hybrid MBR has an entry of its own for it"
	case v.gpt == nil && last.Number > 4:
		return "it is a logical partition"
	}
	for _, p := range man.Partitions {
		if p.Number != last.Number && p.Start+p.Size > last.Start {
			return fmt.Sprintf("partition %d overlaps it", p.Number)
		}
	}
	// Others may keep something at their end, as RAID members do.
	takesMore := []string{"ntfs", "crypto_LUKS", "LVM2_member"}
	if _, ok := growers(last.Content); !ok && !slices.Contains(takesMore, last.Content) {
		return fmt.Sprintf("it holds %s, which cannot be grown here", last.Content)
	}
	return ""
}

// growAll makes a filesystem without a table around it take all of the device.
func (v *view) growAll(p image.Partition, dev disk.Device) error {
	v.growth = &growth{part: p, size: v.size}
	if v.size <= p.Size {
		v.growth.left = "there is no room behind it"
	}
	return v.growth.check(dev)
}

// check refuses what is known to fail once everything is written.
func (g *growth) check(dev disk.Device) error {
	if g.left != "" {
		return nil
	}
	if _, ok := growers(g.part.Content); !ok {
		g.leave("its %s is left: the system itself must make it take the room", g.part.Content)
		return nil
	}
	if disk.KeepsNothing(dev) {
		g.leave("the device keeps nothing")
		return nil
	}
	if !isAttacher(dev) || os.Geteuid() != 0 {
		return refusal(dev)("growing its %s takes root, to have the kernel do it", name(g.part))
	}
	return nil
}

func isAttacher(dev disk.Device) bool { _, ok := dev.(disk.Attacher); return ok }

// grow makes what is on the complete disk take its room, and tells what became
// of it; nil if nothing was to grow.
func (j *Job) grow(ctx context.Context) (*api.Grown, error) {
	g := j.view.growth
	if g == nil {
		return nil, nil
	}
	r := &api.Grown{Partition: g.part.Number, Content: g.part.Content, From: g.part.Size, To: g.size, Left: g.left}
	log := j.log.With("partition", g.part.Number, "content", g.part.Content)
	err := g.failed
	if err == nil && r.Left == "" {
		err = j.growFilesystem(ctx, g, r)
	}
	if err != nil {
		return r, &UngrownError{Device: j.dev.Name(), Partition: g.part, Err: err}
	}
	if r.Left != "" {
		log.Warn("not all grows", "why", r.Left, "size", g.size)
		return r, nil
	}
	log.Info("grown", "size", g.size, "filesystem", r.Filesystem)
	return r, nil
}

// growFilesystem makes the filesystem take all of its partition.
func (j *Job) growFilesystem(ctx context.Context, g *growth, r *api.Grown) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fs, _ := growers(g.part.Content)
	part := io.NewSectionReader(j.dev, g.offset, g.size)
	was, err := fs.room(part)
	if err != nil {
		return err
	}
	r.Filesystem = was.size
	more := g.size - was.size
	if more < was.unit {
		return nil
	}
	loop, err := j.dev.(disk.Attacher).Attach(g.offset, g.size, int(j.view.sector))
	if err != nil {
		return err
	}
	err = j.growOn(ctx, loop.Path(), fs, g.size)
	// What the kernel wrote has reached the medium only if this succeeds.
	if err = errors.Join(err, loop.Close(), j.sync()); err != nil {
		return err
	}
	is, err := fs.room(part)
	if err != nil {
		return err
	}
	switch {
	case is.size > was.size:
		r.Filesystem = is.size
	case more < was.piece:
		r.Filesystem, r.Left = 0, fmt.Sprintf("the %d bytes behind its %s are too few for it", more, g.part.Content)
	default:
		return fmt.Errorf("it still has %d bytes of %d", is.size, g.size)
	}
	return nil
}

// growOn grows the filesystem on the block device at path to size bytes.
func (j *Job) growOn(ctx context.Context, path string, fs grower, size int64) error {
	err := disk.OnMount(path, fs.driver, fs.flags, func(root *os.File) error {
		if err := fs.grow(root, size); err != nil {
			return fmt.Errorf("grow %s: %w", path, err)
		}
		return nil
	})
	if fs.driver == "btrfs" {
		forget(path)
	}
	if err == nil || fs.offline == nil {
		return err
	}
	if oerr := fs.offline(ctx, path); oerr != nil {
		return errors.Join(err, oerr)
	}
	j.log.Info("grown without mounting it, for the kernel would not", "err", err)
	return nil
}
