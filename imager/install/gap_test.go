package install_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/install"
)

// blankDisk says that it is all zeros.
type blankDisk struct {
	*memDisk
	full     bool
	reserved []image.Extent
	zeroed   int64 // bytes
}

func (d *blankDisk) Zero(off, n int64) error {
	d.zeroed += n
	return d.memDisk.Zero(off, n)
}

func (*blankDisk) Blank() bool { return true }

func (d *blankDisk) Reserve(off, n int64) error {
	if d.full {
		return unix.ENOSPC
	}
	d.reserved = append(d.reserved, image.Extent{Start: off, Size: n})
	return nil
}

// TestBlankGaps wants few writes on a blank device whose used blocks have
// unused ones between them, and the same disk and figures as with many.
func TestBlankGaps(t *testing.T) {
	const regions = 6
	b := make([]byte, regions*region)
	for at := 0; at < len(b); at += 2 * block {
		random(b[at:at+block], uint64(at))
	}
	// In the fourth region only the first and last block are used: too far
	// apart to be joined.
	far := func(n int) bool { return n/image.RegionBlocks == 3 }
	used := func(n int) bool {
		return n%2 == 0 && !far(n) || far(n) && (n%image.RegionBlocks == 0 || n%image.RegionBlocks == image.RegionBlocks-1)
	}
	src := captureUsed(t, b, image.Manifest{SectorSize: 512, Table: "none"}, used)
	many, few := newDisk(int64(len(b))), newDisk(int64(len(b)))
	blank := &blankDisk{memDisk: few}
	written := func(dev disk.Device) int64 {
		j, err := install.New(src.Image, dev, install.Options{NoPlan: true})
		if err != nil {
			t.Fatal(err)
		}
		r, err := j.Run(t.Context(), install.FromStore(src))
		if err != nil {
			t.Fatal(err)
		}
		return r.WrittenBytes
	}
	want, got := written(many), written(blank)
	if !bytes.Equal(few.b, many.b) {
		t.Error("the disks differ")
	}
	if got != want {
		t.Errorf("%d bytes written, want %d", got, want)
	}
	// At worst one a region, the odd one more, and the head.
	if few.writes > regions+6 || many.writes < 100 {
		t.Errorf("%d writes on a blank device, %d on another", few.writes, many.writes)
	}
	wantReserved := []image.Extent{{Start: 0, Size: 3*region + block}, {Start: 4*region - block, Size: 2 * region}}
	if !slices.Equal(blank.reserved, wantReserved) {
		t.Errorf("reserved %v, want %v", blank.reserved, wantReserved)
	}
}

// TestNoRoom: a blank device without room for the image is not written to.
func TestNoRoom(t *testing.T) {
	src := plainImage(t, 4<<20, nil)
	dev := &blankDisk{memDisk: newDisk(4 << 20), full: true}
	j, err := install.New(src.Image, dev, install.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Run(t.Context(), install.FromStore(src)); !errors.Is(err, unix.ENOSPC) || dev.writes > 0 {
		t.Errorf("%d writes, %v", dev.writes, err)
	}
	if dev.zeroed != dev.Size() {
		t.Errorf("%d bytes are given back", dev.zeroed)
	}
}
