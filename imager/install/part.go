package install

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/ptable"
)

// partitionHead is the head of a single partition: up to the first superblock
// of all that we know, Btrfs having its own at 64 KiB.
const partitionHead = 64<<10 + image.BlockSize

// onePartition makes v the view of one of the image's partitions on a device of
// its own.
func (v *view) onePartition(img *image.Image, dev disk.Device, opt Options) error {
	refuse := refusal(dev)
	p, err := Partition(img.Manifest, opt.Partition)
	if err != nil {
		return refuse("%v", err)
	}
	if p.Size > v.size {
		return refuse("its %d bytes are too few: the image's partition %d has %d", v.size, p.Number, p.Size)
	}
	if err := checkContent(p, img.Manifest.SectorSize, dev, opt.Force); err != nil {
		return err
	}
	if !opt.Force {
		if err := noTable(dev, img.Manifest.SectorSize); err != nil {
			return err
		}
	}
	v.start, v.end = p.Start, p.Start+p.Size
	v.table, v.gpt = "none", nil
	v.headSize = min(partitionHead, v.size)
	if v.layout, err = v.within(img.Layout); err != nil {
		return err
	}
	if opt.Grow {
		return v.growAll(p, dev)
	}
	return nil
}

// Partition returns the image's partition with the given number.
func Partition(man *image.Manifest, number int) (image.Partition, error) {
	var have []string
	for _, p := range man.Partitions {
		if p.Number == number {
			return p, nil
		}
		have = append(have, fmt.Sprint(p.Number))
	}
	if len(have) == 0 || man.Table == "none" {
		return image.Partition{}, fmt.Errorf("the image has no partition %d: it has no partition table", number)
	}
	return image.Partition{}, fmt.Errorf("the image has no partition %d: it has %s", number, strings.Join(have, ", "))
}

// within returns a layout of those regions of l that have something for the
// device.
func (v *view) within(l *image.Layout) (*image.Layout, error) {
	m := &image.Map{}
	v.layout = l
	for i, e := range l.Entries() {
		for range v.runs(i) {
			m.Entries = append(m.Entries, e)
			break
		}
	}
	return image.NewLayout(m, l.DiskSize())
}

// noTable refuses a device that is partitioned: whoever gives a disk where one
// partition is to go has most likely left out its number.
func noTable(dev disk.Device, sector int) error {
	if s := dev.SectorSize(); s != 0 {
		sector = s
	}
	t, err := ptable.Read(dev, dev.Size(), sector)
	switch {
	case err != nil:
		return refusal(dev)("it cannot be told whether it has a partition table: %v; --force takes it all the same", err)
	case len(t.Parts) > 0:
		return refusal(dev)("it has a partition table (%s) with %d partitions, and one partition of the image is to take its place; --force does so", t.Kind, len(t.Parts))
	}
	return nil
}

// checkSectors refuses an image on a device with other sectors: a partition
// table counts in them, and so do many filesystems.
func checkSectors(man *image.Manifest, dev disk.Device, force bool) error {
	if man.Table == "none" {
		for _, p := range man.Partitions {
			if err := checkContent(p, man.SectorSize, dev, force); err != nil {
				return err
			}
		}
		return nil
	}
	if s := dev.SectorSize(); s != 0 && s != man.SectorSize {
		return refusal(dev)("its sectors are %d bytes long, those of the image's %s partition table %d", s, man.Table, man.SectorSize)
	}
	return nil
}

// checkContent refuses a filesystem on a device with sectors that it cannot
// have there.
//
// Nothing can be mounted whose blocks or sectors are shorter than the device's.
// Longer sectors than the device's are fine with Linux, but firmware and Windows
// want those of FAT, exFAT and NTFS to be the device's own.
func checkContent(p image.Partition, sector int, dev disk.Device, force bool) error {
	have := dev.SectorSize()
	if have == 0 || have == sector || force {
		return nil
	}
	if have > sector && (p.MaxSector >= have || p.Content == "empty") ||
		have < sector && !slices.Contains([]string{"vfat", "exfat", "ntfs"}, p.Content) {
		return nil
	}
	why := "those its %s was made for %d"
	if have > sector && p.MaxSector == 0 {
		why = "and what its %s can do with that is not known; it was made on sectors of %d"
	}
	return refusal(dev)("its sectors are %d bytes long, "+why+" (%s of the image); --force takes it all the same", have, p.Content, cmp.Or(p.MaxSector, sector), name(p))
}
