package install

import (
	"fmt"
	"iter"
	"math/bits"
	"sync"

	"huck/imager/disk"
	"huck/imager/image"
)

// view is the image as it belongs on one device: its fitted view.
//
// On a disk only the partition table makes it differ from the image. A GPT's
// head says where the backup GPT is on this disk, and the backup itself lies
// over the disk's end. In the image what follows the last partition of a GPT is
// zeros, and so are the bytes where the captured disk had its backup GPT
// (FORMAT.md, Geometry). A growing partition is longer in the table.
//
// Where one partition goes on a device of its own, the view is that partition.
// All offsets but start and end are the device's own.
type view struct {
	layout *image.Layout // the image's or, for a partition, its regions
	table  string        // the manifest's; "none" for a partition
	gpt    *image.GPT    // nil without a GPT
	sector int64         // the image's sector size in bytes
	size   int64         // the device's size in bytes

	partitions []image.Partition // the manifest's

	// start and end are the stretch of the image's disk that belongs on the
	// device.
	start, end int64
	// headSize is the length of the head, without which nothing is found on the
	// device: the first two sectors, in whole blocks. It is zeroed first and
	// written last.
	headSize int64
	// moved says that the GPT's backup is elsewhere than on the captured disk.
	moved bool
	// dataEnd is the offset up to which image bytes may stand. From there on,
	// what stands on a disk is the backup GPT.
	dataEnd int64
	// growth is what grows; nil if nothing is to.
	growth *growth

	// parts has the hashes of what belongs on the device of the regions of
	// which that is only a part, by map entry. They are known once the chunk
	// has been seen.
	mu    sync.Mutex
	parts map[int]image.ID
	// zeros has the hashes of zeros, by their number.
	zeros map[int]image.ID
}

// newView returns the fitted view of img on dev, or a *Refused if dev cannot
// hold it.
func newView(img *image.Image, dev disk.Device, opt Options) (*view, error) {
	man := img.Manifest
	v := &view{
		layout: img.Layout, table: man.Table, gpt: man.GPT, sector: int64(man.SectorSize), size: dev.Size(),
		partitions: man.Partitions, end: man.DiskSize, zeros: make(map[int]image.ID),
	}
	v.dataEnd = v.size
	v.headSize = min(max(image.BlockSize, 2*v.sector), v.size)
	var err error
	if opt.Partition == 0 {
		err = v.wholeDisk(man, dev, opt)
	} else {
		err = v.onePartition(img, dev, opt)
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

// refusal makes the errors that tell why dev is not used.
func refusal(dev disk.Device) func(format string, a ...any) error {
	return func(format string, a ...any) error {
		return &Refused{Device: dev.Name(), Why: fmt.Sprintf(format, a...)}
	}
}

// wholeDisk checks that dev can hold all of the image and places what depends
// on its size.
func (v *view) wholeDisk(man *image.Manifest, dev disk.Device, opt Options) error {
	refuse := refusal(dev)
	if err := checkSectors(man, dev, opt.Force); err != nil {
		return err
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
	if opt.Grow {
		return v.grow(man, dev)
	}
	return nil
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
	_, end := v.span(len(es) - 1)
	if g := v.gpt; g != nil && end <= int64(g.AlternateLBA+1)*v.sector {
		end = min(end, int64(g.LastUsableLBA+1)*v.sector)
	}
	return end
}

// runs yields the stretches of region i that belong on the device. Their At is
// where they stand in the region's chunk.
func (v *view) runs(i int) iter.Seq[image.Run] {
	return func(yield func(image.Run) bool) {
		for r := range v.layout.Entries()[i].Runs(v.layout.DiskSize()) {
			from, to := max(r.Offset, v.start), min(r.Offset+int64(r.Len), v.end)
			if from < to && !yield(image.Run{Offset: from - v.start, At: r.At + int(from-r.Offset), Len: int(to - from)}) {
				return
			}
		}
	}
}

// span returns the offsets between which region i's used blocks lie.
func (v *view) span(i int) (start, end int64) {
	first := true
	for r := range v.runs(i) {
		if first {
			start, first = r.Offset, false
		}
		end = r.Offset + int64(r.Len)
	}
	return start, end
}

// partial reports whether only a part of region i belongs on the device.
func (v *view) partial(i int) bool {
	e := &v.layout.Entries()[i]
	from := int64(e.Region)*image.RegionSize + int64(bits.TrailingZeros64(e.Used))*image.BlockSize
	to := int64(e.Region)*image.RegionSize + int64(64-bits.LeadingZeros64(e.Used))*image.BlockSize
	return from < v.start || min(to, v.layout.DiskSize()) > v.end
}

// learn takes note of the chunk of a partial region i: its ID tells nothing of
// the part that belongs on the device.
func (v *view) learn(i int, chunk []byte) {
	var part []byte
	for r := range v.runs(i) {
		part = append(part, chunk[r.At:][:r.Len]...)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.parts == nil {
		v.parts = make(map[int]image.ID)
	}
	v.parts[i] = image.Sum(part)
}

// sum returns the hash of what belongs on the device of region i; false if that
// is not known yet.
func (v *view) sum(i int) (image.ID, bool) {
	if !v.partial(i) {
		return v.layout.Entries()[i].ID, true
	}
	if v.allZeros(v.layout.Number(i)) { // and so is every part of it
		n := 0
		for r := range v.runs(i) {
			n += r.Len
		}
		return v.zeroSum(n), true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	id, known := v.parts[i]
	return id, known
}

// matches reports whether region i of the device holds what the fitted view
// says. b has the device's bytes from offset base on, all of the region's used
// blocks among them; matches spoils it.
func (v *view) matches(i int, b []byte, base int64) bool {
	want, known := v.sum(i)
	if !known {
		return false
	}
	if v.layout.Entries()[i].Region == 0 && v.fitted() {
		head, err := v.unfit(b)
		if err != nil {
			return false
		}
		copy(b, head)
	}
	start, at := int64(-1), 0
	for r := range v.runs(i) {
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
	return v.hash(b[start:start+int64(at)]) == want
}

// hash is image.Sum, which it asks only once about zeros of one length: most of
// a disk that is new or discarded.
func (v *view) hash(b []byte) image.ID {
	if !disk.IsZero(b) {
		return image.Sum(b)
	}
	return v.zeroSum(len(b))
}

// zeroSum is the hash of n zeros.
func (v *view) zeroSum(n int) image.ID {
	v.mu.Lock()
	defer v.mu.Unlock()
	id, known := v.zeros[n]
	if !known {
		id = image.Sum(make([]byte, n))
		v.zeros[n] = id
	}
	return id
}

// allZeros reports whether chunk n is zeros: what a new file is already.
func (v *view) allZeros(n uint32) bool { return v.layout.ID(n) == v.zeroSum(v.layout.Size(n)) }

// unused calls f for every stretch of the device that the fitted view does not
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
		for r := range v.runs(i) {
			if err := gap(min(r.Offset, v.dataEnd)); err != nil {
				return err
			}
			at = max(at, r.Offset+int64(r.Len))
		}
	}
	return gap(v.dataEnd)
}

// written calls f for every stretch of a blank device that is going to be
// written, until f fails. Gaps of up to maxGap bytes do not end a stretch.
func (v *view) written(maxGap int64, f func(off, n int64) error) error {
	var start, end int64
	stretch := func() error {
		if start == end {
			return nil
		}
		return f(start, end-start)
	}
	for i := range v.layout.Entries() {
		if v.allZeros(v.layout.Number(i)) {
			continue
		}
		for r := range v.runs(i) {
			if r.Offset-end > maxGap {
				if err := stretch(); err != nil {
					return err
				}
				start = r.Offset
			}
			end = r.Offset + int64(r.Len)
		}
	}
	return stretch()
}
