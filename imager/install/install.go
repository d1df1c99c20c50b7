// Package install puts an image on a disk. It compares the disk with the
// image's chunk map, takes the chunks that are missing from any transport,
// verifies and writes them, and leaves the disk either complete or unable to
// boot.
//
// What belongs on a disk is the image's fitted view: the image's bytes with a
// GPT that fits this disk laid over them. Planning, writing and verifying all
// speak of the fitted view.
package install

import (
	"fmt"
	"log/slog"

	"huck/imager/api"
	"huck/imager/disk"
)

// Refused tells why an image is not put on a device. Nothing has been written.
type Refused = disk.Refused

// What becomes of blocks that the image does not use.
const (
	// Leave does not touch them, but for magic numbers by which the disk's earlier
	// content would be found in place of the image's.
	Leave = "leave"
	// Discard tells the device that they are free (TRIM), where it can.
	Discard = "discard"
	// Zero makes them read as zeros.
	Zero = "zero"
)

// Options of an installation. The zero value plans, leaves unused blocks alone
// and does not read back.
type Options struct {
	// NoPlan writes everything without reading the disk first.
	NoPlan bool
	// Verify reads the whole fitted view back from the device at the end.
	Verify bool
	// Unused is Leave, Discard or Zero; empty is Leave.
	Unused string
	// Grow makes the image's last partition take the room that the disk has
	// behind it, and its ext2, ext3, ext4, XFS or Btrfs with it. That is done by
	// the kernel once the disk is complete and verified, and takes root. What
	// cannot grow is left and said so (api.Grown); a filesystem that should have
	// and has not is an *UngrownError.
	Grow bool
	// Partition puts only the image's partition with this number on the device,
	// which is then a partition itself; 0 is the whole image. Of the transports
	// only FromStore can do that: chunk numbers are those of Job.Layout.
	Partition int
	// Force takes a device with a partition table for a single partition, and
	// one whose sectors a filesystem was not made for.
	Force bool
	// Workers is how many cores planning and decoding use; 0 is all.
	Workers int
	// Progress is called about five times a second and at the end, never from
	// two goroutines at once; it must not block. May be nil.
	Progress func(api.Progress)
	// Verified is called with what reading back found. May be nil.
	Verified func(api.Verified)
	// Log may be nil.
	Log *slog.Logger
}

// DiffError tells that a disk read back after an installation is not what was
// to be written.
type DiffError struct {
	// Device is the disk's name.
	Device string
	// Report is what was found.
	Report *Report
}

func (e *DiffError) Error() string {
	return fmt.Sprintf("install: %s after writing: %v", e.Device, e.Report)
}

// Report is what comparing a disk with an image found.
type Report struct {
	// Regions is how many regions were compared: all of the map.
	Regions int
	// Differ lists those that differ by their index in the map, ascending.
	Differ []int
	// Places says in which partitions these are, by their start.
	Places []Place
	// BackupGPT says that the backup GPT is not the one that goes with the
	// image on this disk. Never set if the primary one differs.
	BackupGPT bool
}

// Equal reports that the disk is the image's fitted view.
func (r *Report) Equal() bool { return len(r.Differ) == 0 && !r.BackupGPT }

// String is a line for people: how much differs, and where.
func (r *Report) String() string {
	s := fmt.Sprintf("%d of %d regions differ", len(r.Differ), r.Regions)
	for i, p := range r.Places {
		if s += ", "; i == 0 {
			s += "of them "
		}
		s += fmt.Sprintf("%d %v", p.Differ, p)
	}
	if r.BackupGPT {
		s += ", and so does the backup GPT"
	}
	return s
}

// Place is a part of the disk in which regions differ.
type Place struct {
	// Partition is the partition's number, and Content what was found in it at
	// capture; 0 and empty for what is outside of partitions.
	Partition int    `json:"partition"`
	Content   string `json:"content,omitempty"`
	// Differ counts the regions. One in which two partitions are counts in both.
	Differ int `json:"differ"`
}

func (p Place) String() string {
	switch {
	case p.Partition == 0 && p.Content == "":
		return "outside of partitions"
	case p.Partition == 0:
		return "in the " + p.Content
	}
	return fmt.Sprintf("in partition %d (%s)", p.Partition, p.Content)
}

// ViaStore is how Result.Received names what FromStore brought.
const ViaStore = "store"

func (o *Options) check(dev disk.Device) error {
	switch o.Unused {
	case "", Leave, Discard, Zero:
		return nil
	}
	return &Refused{Device: dev.Name(), Why: fmt.Sprintf("unused blocks: %q is none of leave, discard, zero", o.Unused)}
}
