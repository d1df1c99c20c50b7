package disks

import (
	"context"
	"os"
)

// singleStart is where the partition of a Single begins.
const singleStart = 1 * mib

// Single is a disk with one partition.
type Single struct {
	// Size is the partition's, in bytes.
	Size int64
	// Mkfs makes the filesystem in a file that is named last, and Check judges
	// one.
	Mkfs, Check []string
}

// DiskSize is the size of the whole disk in bytes.
func (s Single) DiskSize() int64 { return s.Size + 2*mib }

// Write makes the disk at path.
func (s Single) Write(ctx context.Context, path string) error {
	part := path + ".part"
	defer os.Remove(part)
	if err := blank(part, s.Size); err != nil {
		return err
	}
	if err := runAll(ctx, append(s.Mkfs[:len(s.Mkfs):len(s.Mkfs)], part)); err != nil {
		return err
	}
	return writeDisk(ctx, path, s.DiskSize(), tinyDisk, []partition{
		{start: singleStart, size: s.Size, kind: "L", name: "only", uuid: tinyPart, content: part},
	})
}

// Judge has the filesystem's own checker look at a disk that is off.
func (s Single) Judge(ctx context.Context, path string) error {
	return checkPart(ctx, path, singleStart, s.Size, s.Check)
}
