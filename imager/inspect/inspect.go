// Package inspect tells what stands on a disk, from its partition table and
// superblocks alone, and which of that an image would bring a second time.
package inspect

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/ptable"
	"huck/imager/usedmap"
)

// maxContents bounds what is told of one disk: an inventory travels and is
// kept.
const maxContents = 32

// Disk tells what stands on the disk in r, size bytes long with sectors of
// sector bytes: one Content a partition, at most 32, or one for the whole disk
// where there is no usable table. It reads a few KiB a partition. Errors are
// those of reading.
func Disk(r io.ReaderAt, size int64, sector int) ([]api.Content, error) {
	parts := []ptable.Part{{Size: size}}
	t, err := ptable.Read(r, size, sector)
	switch {
	case errors.Is(err, ptable.ErrGPT) || errors.Is(err, ptable.ErrMBR): // a damaged table hides its partitions
	case err != nil:
		return nil, fmt.Errorf("inspect: %w", err)
	case t.Kind != "none":
		parts = t.Parts
	}
	var found []api.Content
	for _, p := range parts[:min(len(parts), maxContents)] {
		id, err := usedmap.Identify(io.NewSectionReader(r, p.Start, p.Size), p.Size)
		if err != nil {
			return nil, fmt.Errorf("inspect: partition %d: %w", p.Number, err)
		}
		if p.Number == 0 && id.Content == "" {
			continue
		}
		found = append(found, api.Content{Partition: p.Number, Size: p.Size, PartUUID: p.UUID, Kind: id.Content, UUID: id.UUID, Label: id.Label})
	}
	return found, nil
}

// Duplicate is something that an image brings and another disk has already. A
// system that looks for its root by such a name may start the wrong one.
type Duplicate struct {
	// Name says what is there twice: "filesystem UUID …", "partition UUID …",
	// "label …" or "volume group …".
	Name string
	// Disk is the other disk, Partition the number of its partition there; 0 is
	// the whole disk.
	Disk      string
	Partition int
}

// String tells it in a few words.
func (t Duplicate) String() string {
	if t.Partition == 0 {
		return fmt.Sprintf("%s is on %s", t.Name, t.Disk)
	}
	return fmt.Sprintf("%s is on %s partition %d", t.Name, t.Disk, t.Partition)
}

// Duplicates lists what of the image is also on one of the disks, in the order of
// those. Each partition there is named once, by its strongest name. Short IDs
// (FAT, exFAT: 32 bits) count as the rest do.
func Duplicates(man *image.Manifest, disks []api.Disk) []Duplicate {
	var found []Duplicate
	for _, d := range disks {
		for _, c := range d.Contents {
			if name := duplicate(man, c); name != "" {
				found = append(found, Duplicate{name, d.Path, c.Partition})
			}
		}
	}
	return found
}

func duplicate(man *image.Manifest, c api.Content) string {
	names := []struct {
		what string
		has  string
		of   func(p *image.Partition) string
	}{
		{"filesystem UUID", c.UUID, func(p *image.Partition) string { return p.FSUUID }},
		{"partition UUID", c.PartUUID, func(p *image.Partition) string { return p.UUID }},
		{"label", c.Label, func(p *image.Partition) string { return p.FSLabel }},
	}
	for _, n := range names {
		for i := range man.Partitions {
			p := &man.Partitions[i]
			if n.has == "" || !strings.EqualFold(n.has, n.of(p)) {
				continue
			}
			what := n.what
			if group := p.Content == "LVM2_member"; what == "label" {
				if group != (c.Kind == "LVM2_member") {
					continue
				}
				if group {
					what = "volume group"
				}
			}
			return what + " " + n.has
		}
	}
	return ""
}
