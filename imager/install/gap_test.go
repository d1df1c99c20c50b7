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
	freed    int64 // bytes
}

func (d *blankDisk) Discard(_, n int64) error {
	d.freed += n
	return nil
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

// TestBlankZeros: zeros that the image has, as in inode tables of a large
// filesystem, take no room on a device that is zeros.
func TestBlankZeros(t *testing.T) {
	b := make([]byte, 64*region+block)
	random(b[40*region:][:region], 1)
	for _, odd := range []int{0, 3 * block} { // where the random bytes do not fill a region
		random(b[41*region:][:odd], 2)
		src := captureUsed(t, b, image.Manifest{SectorSize: 512, Table: "none"}, func(int) bool { return true })
		dev := &blankDisk{memDisk: newDisk(int64(len(b)))}
		j, err := install.New(src.Image, dev, install.Options{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := j.Run(t.Context(), install.FromStore(src))
		if err != nil {
			t.Fatal(err)
		}
		want := int64(region + min(odd, 1)*region)
		if !bytes.Equal(dev.b, b) || r.WrittenBytes > want+4*block || r.ChunksInPlace != 2 {
			t.Errorf("%d bytes written, want %d, %d chunks in place; the disk is right: %t", r.WrittenBytes, want, r.ChunksInPlace, bytes.Equal(dev.b, b))
		}
		if want := []image.Extent{{Start: 40 * region, Size: want}}; !slices.Equal(dev.reserved, want) {
			t.Errorf("reserved %v, want %v", dev.reserved, want)
		}
	}
}

// TestBlankNothing has nothing but zeros to put on a device that is zeros.
func TestBlankNothing(t *testing.T) {
	src := captureUsed(t, make([]byte, 8*region), image.Manifest{SectorSize: 512, Table: "none"}, func(int) bool { return true })
	dev := &blankDisk{memDisk: newDisk(8 * region)}
	j, err := install.New(src.Image, dev, install.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := j.Run(t.Context(), install.FromStore(src)); err != nil || r.WrittenBytes != 0 || len(dev.reserved) != 0 {
		t.Errorf("%+v, %v, reserved %v", r, err, dev.reserved)
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
	if dev.freed != dev.Size() {
		t.Errorf("%d bytes are given back", dev.freed)
	}
}
