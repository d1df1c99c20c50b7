package install_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"huck/imager/image"
	"huck/imager/install"
)

// zeroImage is of 73 MiB: zeros but for a region here and there, and one region's
// blocks, of which only every other one is used.
func zeroImage(t *testing.T) *source {
	b := make([]byte, 290*region)
	for _, at := range []int{0, 4, 8, 280, 284} {
		random(b[at*region:][:region], uint64(at))
	}
	return captureUsed(t, b, image.Manifest{SectorSize: 512, Table: "none"}, func(n int) bool {
		return n/image.RegionBlocks != 286 || n%2 == 0
	})
}

// TestZeros: long runs of zeros are the device's to make, short ones are written,
// and those that are there are left alone.
func TestZeros(t *testing.T) {
	src := zeroImage(t)
	dirty := bytes.Repeat([]byte{0xaa}, len(src.disk))
	clear(dirty[12*region : 14*region])
	dev := newDiskOf(dirty, int64(len(dirty)))
	r := mustRun(t, src, dev, install.Options{Verify: true})
	for at := range dirty {
		if want := src.disk[at]; dev.b[at] != want && !(at/region == 286 && at/block%2 == 1 && dev.b[at] == 0xaa) {
			t.Fatalf("byte %d is %x, want %x", at, dev.b[at], want)
		}
	}
	want := []image.Extent{ // at most 64 MiB at a time, and not those of less than 1 MiB
		{Start: 14 * region, Size: 256 * region}, {Start: 270 * region, Size: 10 * region},
	}
	slices.SortFunc(dev.zeroed, func(a, b image.Extent) int { return int(a.Start - b.Start) })
	if !slices.Equal(dev.zeroed, want) {
		t.Errorf("zeroed %v, want %v", dev.zeroed, want)
	}
	if r.WrittenBytes != dev.written {
		t.Errorf("%d bytes written, the device counts %d", r.WrittenBytes, dev.written)
	}
}

// TestZeroError: a device that cannot make zeros in a place does not boot, and the
// place is named.
func TestZeroError(t *testing.T) {
	src := zeroImage(t)
	dev := newDiskOf(bytes.Repeat([]byte{0xaa}, len(src.disk)), int64(len(src.disk)))
	dev.badWrite = 100 * region
	_, err := run(t, src, dev, install.Options{})
	if err == nil || !strings.Contains(err.Error(), "at 26214400: medium error") {
		t.Errorf("error %v", err)
	}
	if bootable(dev.b) || !bytes.Equal(dev.b[:block], make([]byte, block)) {
		t.Error("the disk's head is there")
	}
}
