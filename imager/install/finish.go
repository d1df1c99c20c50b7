package install

import (
	"context"
	"errors"
	"fmt"

	"huck/imager/api"
	"huck/imager/disk"
	"huck/imager/image"
)

const (
	// minDiscard is the shortest stretch worth a discard: disks forget in
	// larger units, and each discard takes a command of its own.
	minDiscard = 64 << 10
	// unusedPiece is how much is discarded or zeroed at a time; in between the
	// job can be stopped.
	unusedPiece = 1 << 30
)

// invalidateHead makes the disk unable to boot and durably so, before anything
// else is written: no boot sector, no partition table, and no backup GPT for
// firmware to fall back on. What was in place in the head is held back, to be
// written last.
func (j *Job) invalidateHead() error {
	j.touched.Store(true)
	if err := j.keepHead(); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	j.log.Info("writing begins: partition table and boot sector are invalidated")
	if err := j.dropHead(); err != nil {
		return err
	}
	if err := j.dropTail(); err != nil {
		return err
	}
	return j.sync()
}

// keepHead makes room for what the image has in the head and puts in what of it
// is in place.
func (j *Job) keepHead() error {
	for i := range j.view.layout.Entries() {
		start, _ := j.view.span(i)
		if start >= j.view.headSize {
			return nil
		}
		if j.head == nil {
			j.head = disk.Buffer(int(j.view.headSize))
		}
		if !j.inPlace(i) {
			continue
		}
		head, err := j.view.imageHead(j.dev)
		if err != nil {
			return err
		}
		if len(head) > len(j.head) { // the entries of a GPT, which is all in this region
			j.head = head
			return nil
		}
		for r := range j.view.runs(i) {
			if r.Offset < int64(len(head)) {
				copy(j.head[r.Offset:], head[r.Offset:min(r.Offset+int64(r.Len), int64(len(head)))])
			}
		}
	}
	return nil
}

// inPlace reports whether region i is in place, after a look if need be.
func (j *Job) inPlace(i int) bool {
	if !j.state.lookedAt(i) {
		same, err := j.view.look(j.dev, i, disk.Buffer(image.RegionSize))
		j.saw(i, same, err)
	}
	return !j.state.differsAt(i)
}

func (j *Job) dropHead() error { return j.writeAt(0, disk.Buffer(int(j.view.headSize))) }

// dropTail removes the backup GPT header from the disk's last sector, if one is
// there that is not the image's own data.
func (j *Job) dropTail() error {
	last := (j.view.size/j.view.sector - 1) * j.view.sector
	if last < j.view.headSize || j.opt.Partition != 0 {
		return nil
	}
	b := make([]byte, j.view.sector)
	if _, err := j.dev.ReadAt(b, last); err != nil {
		j.log.Warn("cannot read the last sector, will write it", "err", err)
	} else if string(b[:8]) != "EFI PART" {
		return nil
	}
	if j.view.gpt == nil && j.view.usedEnd() > last && j.inPlace(len(j.view.layout.Entries())-1) {
		return nil
	}
	clear(b)
	return j.writeAt(last, b)
}

// finish brings the disk from "all chunks are written" to "complete". Each step
// is durable before the next: data, backup GPT, boot sector and GPT header.
func (j *Job) finish(ctx context.Context) error {
	if err := j.clearUnused(ctx); err != nil {
		return err
	}
	if err := j.eraseLeftovers(); err != nil {
		return err
	}
	if !j.touched.Load() {
		ok, err := j.checkBackup()
		if err != nil {
			return err
		}
		if ok { // whoever wrote it may have been killed before it was durable
			return j.sync()
		}
		j.log.Info("only the backup GPT differs")
		if err := j.invalidate(); err != nil {
			return err
		}
	}
	if j.head == nil || disk.KeepsNothing(j.dev) {
		return j.sync() // the image has nothing there, or no table can be fitted
	}
	// A write that is torn by a power cut must not leave the first sectors on
	// the disk without the rest of their block.
	rest := disk.Buffer(len(j.head))
	first := j.view.firstSectors()
	copy(rest[first:], j.head[first:])
	if err := j.writeAt(0, rest); err != nil {
		return err
	}
	if err := j.sync(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if j.view.gpt != nil || j.view.resize() != nil {
		if err := j.fitHead(); err != nil {
			return err
		}
	}
	if err := j.writeAt(0, j.head); err != nil {
		return err
	}
	return j.sync()
}

// fitHead fits the table held back to this disk and writes what of it stands
// elsewhere: the backup of a GPT and, if they have changed, the entries.
func (j *Job) fitHead() error {
	t, err := j.view.fitOrStay(j.dev, j.head)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if n := copy(j.head, t.head); j.view.resize() != nil && n < len(t.head) {
		if err := j.writeAt(int64(n), t.head[n:]); err != nil {
			return err
		}
	}
	if t.backup == nil {
		return nil
	}
	if err := j.writeAt(t.backupAt, t.backup); err != nil {
		return err
	}
	return j.sync()
}

// checkBackup reports whether a disk on which all chunks are in place has the
// right backup GPT, or needs none.
func (j *Job) checkBackup() (bool, error) {
	if j.view.gpt == nil {
		return true, nil
	}
	ok, err := j.view.backupInPlace(j.dev)
	if err != nil {
		return false, fmt.Errorf("install: %w", err)
	}
	return ok, nil
}

// clearUnused does with the blocks the image does not use what Options.Unused
// says. They do not count for the disk being complete, hence it may happen on
// one that boots.
func (j *Job) clearUnused(ctx context.Context) error {
	var do func(off, n int64) error
	var least int64
	switch j.opt.Unused {
	case Zero:
		do = j.dev.Zero
	case Discard:
		do, least = j.dev.Discard, minDiscard
	default:
		return nil
	}
	err := j.view.unused(func(off, n int64) error {
		for n >= max(least, 1) {
			if err := ctx.Err(); err != nil {
				return err
			}
			piece := min(n, unusedPiece)
			if err := do(off, piece); err != nil {
				return err
			}
			off, n = off+piece, n-piece
		}
		return nil
	})
	if j.opt.Unused == Discard && errors.Is(err, errors.ErrUnsupported) {
		j.log.Warn("the disk cannot discard, unused blocks are left as they are", "err", err)
		err = nil
	}
	if err != nil {
		return fmt.Errorf("install: unused blocks: %w", err)
	}
	return j.sync()
}

func (j *Job) sync() error {
	if err := j.dev.Sync(); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	return nil
}

// readBack compares the whole disk with the fitted view once more. A disk that
// does not keep what was written must not boot.
func (j *Job) readBack(ctx context.Context) error {
	if disk.KeepsNothing(j.dev) {
		j.log.Warn("the device keeps nothing, there is nothing to read back")
		return nil
	}
	r, err := compareAll(ctx, j.view, j.dev, j.opt.Workers, nil)
	if err != nil {
		return err
	}
	differ := len(r.Differ)
	if r.BackupGPT {
		differ++
	}
	if j.opt.Verified != nil {
		j.opt.Verified(api.Verified{Digest: j.img.Digest, Regions: r.Regions, Differ: differ})
	}
	if r.Equal() {
		return nil
	}
	return errors.Join(&DiffError{Device: j.dev.Name(), Report: r}, j.dropHead(), j.dropTail(), j.sync())
}
