package install

import (
	"bytes"
	"fmt"

	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/ptable"
)

// view is the image as it belongs on one disk: its fitted view.
//
// Only a GPT makes it differ from the image. The head then says where the
// backup GPT is on this disk, and the backup itself lies over the disk's end.
// In the image what follows the last partition of a GPT is zeros, and so are
// the bytes where the captured disk had its backup GPT (FORMAT.md, Geometry).
type view struct {
	layout *image.Layout
	gpt    *image.GPT // nil without a GPT
	sector int64      // the image's sector size in bytes
	size   int64      // the disk's size in bytes

	// headSize is the length of the head: the first two sectors, in whole
	// blocks. It is zeroed first and written last.
	headSize int64
	// moved says that the GPT's backup is elsewhere than on the captured disk.
	moved bool
	// dataEnd is the disk offset up to which image bytes may stand. From there
	// on, what stands on the disk is the backup GPT.
	dataEnd int64
}

// newView returns the fitted view of img on dev, or a *Refused if dev cannot
// hold it.
func newView(img *image.Image, dev disk.Device) (*view, error) {
	man := img.Manifest
	v := &view{layout: img.Layout, gpt: man.GPT, sector: int64(man.SectorSize), size: dev.Size()}
	v.headSize = min(max(image.BlockSize, 2*v.sector), v.size)
	v.dataEnd = v.size
	refuse := func(format string, a ...any) (*view, error) {
		return nil, &Refused{Device: dev.Name(), Why: fmt.Sprintf(format, a...)}
	}
	if s := dev.SectorSize(); s != 0 && s != man.SectorSize && man.Table != "none" {
		return refuse("its sectors are %d bytes long, those of the image's %s partition table %d", s, man.Table, man.SectorSize)
	}
	backup := ""
	if v.gpt != nil {
		if !v.holdsHead() {
			return refuse("the image has a GPT but not the blocks it stands in")
		}
		v.placeBackup(man.Partitions)
		if v.dataEnd < v.headSize {
			return refuse("its %d bytes have no room for the image's GPT", v.size)
		}
		backup = fmt.Sprintf(", and the backup GPT takes %d more", v.size-v.dataEnd)
	}
	if end := v.usedEnd(); end > v.dataEnd && (v.gpt == nil || v.moved) {
		return refuse("its %d bytes are too few: the image's last used byte is number %d%s", v.size, end, backup)
	}
	for _, p := range man.Partitions {
		if end := p.Start + p.Size; end > v.dataEnd {
			return refuse("its %d bytes are too few: the image's partition %d ends at %d%s", v.size, p.Number, end, backup)
		}
	}
	return v, nil
}

// placeBackup keeps as many sectors for the backup GPT as the captured disk
// did. Where the backup stays, a partition past the last usable sector, against
// the standard, may stay, too.
func (v *view) placeBackup(parts []image.Partition) {
	reserve := int64(v.gpt.AlternateLBA - v.gpt.LastUsableLBA)
	last := v.size/v.sector - 1
	v.moved = last != int64(v.gpt.AlternateLBA)
	v.dataEnd = (last + 1 - reserve) * v.sector
	if v.moved {
		return
	}
	for _, p := range parts {
		v.dataEnd = max(v.dataEnd, min(p.Start+p.Size, last*v.sector))
	}
}

// holdsHead reports whether the map has all blocks of the head.
func (v *view) holdsHead() bool {
	es := v.layout.Entries()
	head := uint64(1)<<(v.headSize/image.BlockSize) - 1
	return len(es) > 0 && es[0].Region == 0 && es[0].Used&head == head
}

// usedEnd is where the image's last used byte ends, the zeros in the backup
// GPT's place apart.
func (v *view) usedEnd() int64 {
	es := v.layout.Entries()
	if len(es) == 0 {
		return 0
	}
	var end int64
	for r := range es[len(es)-1].Runs(v.layout.DiskSize()) {
		end = r.Offset + int64(r.Len)
	}
	if g := v.gpt; g != nil && end <= int64(g.AlternateLBA+1)*v.sector {
		end = min(end, int64(g.LastUsableLBA+1)*v.sector)
	}
	return end
}

// span returns the disk offsets between which region i's used blocks lie.
func (v *view) span(i int) (start, end int64) {
	first := true
	for r := range v.layout.Entries()[i].Runs(v.layout.DiskSize()) {
		if first {
			start, first = r.Offset, false
		}
		end = r.Offset + int64(r.Len)
	}
	return start, end
}

// matches reports whether region i of the disk holds what the fitted view says.
// b has the disk's bytes from offset base on, all of the region's used blocks
// among them; matches spoils it.
func (v *view) matches(i int, b []byte, base int64) bool {
	e := &v.layout.Entries()[i]
	if e.Region == 0 && v.moved {
		head, err := v.unfit(b)
		if err != nil {
			return false
		}
		copy(b, head)
	}
	start, at := int64(-1), 0
	for r := range e.Runs(v.layout.DiskSize()) {
		if start < 0 {
			start = r.Offset - base
		}
		// The hash is of the used blocks alone: close the gaps.
		run := b[r.Offset-base:][:r.Len]
		if over := r.Offset + int64(r.Len) - v.dataEnd; over > 0 {
			clear(run[max(int64(r.Len)-over, 0):])
		}
		at += copy(b[start+int64(at):], run)
	}
	return image.Sum(b[start:start+int64(at)]) == e.ID
}

// unfit turns the first two sectors of the disk, at the beginning of b, into
// the image's.
func (v *view) unfit(b []byte) ([]byte, error) {
	return ptable.Unfit(b[:2*v.sector], int(v.sector), v.size, *v.gpt)
}

// imageHead reads the head from a disk where it is in place and returns it as
// it is in the image.
func (v *view) imageHead(dev disk.Device) ([]byte, error) {
	b := disk.Buffer(int(v.headSize))
	if _, err := dev.ReadAt(b, 0); err != nil {
		return nil, err
	}
	if v.moved {
		head, err := v.unfit(b)
		if err != nil {
			return nil, err
		}
		copy(b, head)
	}
	return b, nil
}

// fit makes the GPT of this disk from the image's head and the partition
// entries on the disk, which must be in place.
func (v *view) fit(dev disk.Device, head []byte) (*ptable.Fitted, error) {
	n, err := ptable.HeadSize(head, int(v.sector))
	if err != nil {
		return nil, err
	}
	if n > v.dataEnd {
		return nil, fmt.Errorf("install: the image's GPT ends at %d, its backup on %s begins at %d", n, dev.Name(), v.dataEnd)
	}
	b := make([]byte, n)
	if _, err := dev.ReadAt(b, 0); err != nil {
		return nil, err
	}
	copy(b, head)
	f, err := ptable.Fit(b, int(v.sector), v.size)
	if err != nil {
		return nil, err
	}
	if f.BackupAt < v.dataEnd {
		return nil, fmt.Errorf("install: the image's GPT leaves %d bytes for its backup, which takes %d", v.size-v.dataEnd, len(f.Backup))
	}
	return f, nil
}

// firstSectors returns the length of what makes the disk bootable: boot sector
// and, with a GPT, its header.
func (v *view) firstSectors() int64 {
	if v.gpt != nil {
		return 2 * v.sector
	}
	return min(v.sector, v.headSize)
}

// backupInPlace reports whether the backup GPT is the one that goes with the
// head on the disk, which must be in place.
func (v *view) backupInPlace(dev disk.Device) (bool, error) {
	head, err := v.imageHead(dev)
	if err != nil {
		return false, err
	}
	f, err := v.fit(dev, head)
	if err != nil {
		return false, err
	}
	b := make([]byte, len(f.Backup))
	if _, err := dev.ReadAt(b, f.BackupAt); err != nil {
		return false, err
	}
	return bytes.Equal(b, f.Backup), nil
}

// unused calls f for every stretch of the disk that the fitted view does not
// speak of, until f fails.
func (v *view) unused(f func(off, n int64) error) error {
	at := v.headSize
	gap := func(end int64) error {
		if end <= at {
			return nil
		}
		return f(at, end-at)
	}
	for i := range v.layout.Entries() {
		for r := range v.layout.Entries()[i].Runs(v.layout.DiskSize()) {
			if err := gap(min(r.Offset, v.dataEnd)); err != nil {
				return err
			}
			at = max(at, r.Offset+int64(r.Len))
		}
	}
	return gap(v.dataEnd)
}
