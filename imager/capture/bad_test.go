package capture_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"huck/imager/capture"
	"huck/imager/disk"
	"huck/imager/image"
)

// flaky is a disk with bad sectors and, perhaps, somebody who loses patience.
type flaky struct {
	disk.Device
	bad    []image.Extent
	err    error // instead of EIO
	cancel context.CancelFunc
}

func (f *flaky) ReadAt(p []byte, off int64) (int, error) {
	if f.cancel != nil && off > 20*mib {
		f.cancel()
	}
	for _, e := range f.bad {
		if off < e.Start+e.Size && e.Start < off+int64(len(p)) {
			n, _ := f.Device.ReadAt(p[:max(0, e.Start-off)], off)
			return n, cmp.Or(f.err, error(unix.EIO))
		}
	}
	return f.Device.ReadAt(p, off)
}

func TestBadSectors(t *testing.T) {
	path := gptDisk(t, makeTree(t, 1))
	s := newStore(t)
	dev := &flaky{Device: openDisk(t, path), bad: []image.Extent{
		{Start: 46*mib + 9000, Size: 512}, {Start: 46*mib + 12288, Size: 512}, {Start: 47 * mib, Size: 512},
		{Start: 43 * mib, Size: 512}, // in the unused part of swap
	}}
	if _, err := capture.Run(t.Context(), capture.Config{Device: dev, Store: s, Name: "x"}); !errors.Is(err, unix.EIO) {
		t.Errorf("without SkipBad: %v", err)
	}
	r := run(t, capture.Config{Device: dev, Store: s, SkipBad: true})
	restored, img := restore(t, s, r.Digest)
	want := []image.Extent{{Start: 46*mib + 8192, Size: 8192}, {Start: 47 * mib, Size: 4096}}
	if fmt.Sprint(img.Manifest.Bad) != fmt.Sprint(want) || r.BadBytes != 12288 {
		t.Errorf("bad %v, %d bytes; want %v", img.Manifest.Bad, r.BadBytes, want)
	}
	patch(t, path, 46*mib+8192, make([]byte, 8192))
	patch(t, path, 47*mib, make([]byte, 4096))
	sameBytes(t, path, restored, 46*mib, 2*mib)

	dev.err = fmt.Errorf("read: %w", disk.ErrGone) // all that follows would be zeros
	if _, err := capture.Run(t.Context(), capture.Config{Device: dev, Store: s, Name: "gone", SkipBad: true}); !errors.Is(err, disk.ErrGone) {
		t.Errorf("with SkipBad, of a disk that is gone: %v", err)
	}
}
