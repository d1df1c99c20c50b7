package install_test

import (
	"bytes"
	"testing"

	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/install"
)

// blankDisk says that it is all zeros.
type blankDisk struct{ *memDisk }

func (blankDisk) Blank() bool { return true }

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
	want, got := written(many), written(blankDisk{few})
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
}
