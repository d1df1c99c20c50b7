package install_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/install"
)

// bootable reports whether firmware would find something to start on b: a boot
// sector, a GPT header, or a backup of one in the last sector.
func bootable(b []byte) bool {
	return b[510] == 0x55 && b[511] == 0xaa ||
		bytes.HasPrefix(b[512:], []byte("EFI PART")) || bytes.HasPrefix(b[len(b)-512:], []byte("EFI PART"))
}

// cutSize is small: there are as many installations as writes.
const cutSize = 5 << 19

// TestPowerCut cuts the power at every write of an installation, loses a part
// of what was not synced, and goes on. A disk that has anything to boot from is
// complete or as it was before, and in the end it is exact.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	gpt := gptImage(t, cutSize)
	other := bytes.Clone(gpt.disk) // another system, with a GPT and its backup
	random(other[1<<20:cutSize-64<<10], 5)
	complete := newDisk(cutSize)
	mustRun(t, gpt, complete, install.Options{})
	copy(other[cutSize-33*512:], complete.b[cutSize-33*512:])
	some := bytes.Clone(complete.b)
	some[2<<20]++
	some[cutSize-256<<10]++
	backup := bytes.Clone(complete.b)
	backup[cutSize-512]++
	mbrDisk := bytes.Clone(other)
	clear(mbrDisk[512:1024])
	clear(mbrDisk[cutSize-512:])
	mbr := captureUsed(t, mbrDisk, image.Manifest{SectorSize: 512, Table: "mbr"}, func(i int) bool { return i%3 == 0 })

	for name, c := range map[string]struct {
		src   *source
		start []byte
		size  int64
	}{
		"blank":             {gpt, nil, cutSize},
		"another system":    {gpt, other, cutSize},
		"larger disk":       {gpt, other, cutSize + 1<<20 + 512},
		"some regions":      {gpt, some, cutSize},
		"backup GPT only":   {gpt, backup, cutSize},
		"MBR over a GPT":    {mbr, complete.b, cutSize},
		"MBR, some regions": {mbr, append(bytes.Clone(mbrDisk[:2<<20]), complete.b[2<<20:]...), cutSize},
	} {
		t.Run(name, func(t *testing.T) {
			cuts := 0
			for cut := 1; ; cut++ {
				dev := newDiskOf(c.start, c.size)
				before := bytes.Clone(dev.b)
				dev.cutAt(cut, uint64(cut))
				_, err := run(t, c.src, dev, install.Options{Workers: 2})
				wasCut := dev.powerOn()
				if !wasCut {
					if err != nil {
						t.Fatal(err)
					}
					break
				}
				cuts++
				if !errors.Is(err, errPower) {
					t.Fatalf("cut %d: error %v", cut, err)
				}
				if bootable(dev.b) {
					// The two sectors the installation invalidates may have gone already.
					data, was := dev.b[1024:c.size-512], before[1024:c.size-512]
					if !bytes.Equal(data[block-1024:], was[block-1024:]) && usedDiffer(c.src, dev.b) != nil {
						t.Fatalf("cut %d: the disk may boot, but is neither the old nor the new one: %v", cut, usedDiffer(c.src, dev.b))
					}
				}
				if _, err := run(t, c.src, dev, install.Options{Verify: true}); err != nil {
					t.Fatalf("cut %d: going on: %v", cut, err)
				}
				if err := usedDiffer(c.src, dev.b); err != nil {
					t.Fatalf("cut %d: gone on: %v", cut, err)
				}
			}
			if cuts < 3 {
				t.Errorf("%d cuts", cuts)
			}
		})
	}
}

// TestResumeKeepsWhatWasWritten: after a failure only the rest is fetched, and the
// head region with it.
func TestResumeKeepsWhatWasWritten(t *testing.T) {
	src := plainImage(t, 8<<20, func(int) bool { return true })
	dev := newDisk(8 << 20)
	dev.badWrite = 28 * region
	if _, err := run(t, src, dev, install.Options{Workers: 1}); err == nil {
		t.Fatal("no error")
	}
	dev.badWrite = -1
	src.fetched()
	r := mustRun(t, src, dev, install.Options{})
	if r.ChunksInPlace < 8 || src.fetched() != src.Layout.Chunks()-r.ChunksInPlace {
		t.Errorf("%d of %d chunks in place", r.ChunksInPlace, src.Layout.Chunks())
	}
	checkUsed(t, src, dev.b)
}

func TestWriteError(t *testing.T) {
	src := plainImage(t, 8<<20, func(int) bool { return true })
	for _, at := range []int64{0, 512, 5<<20 + 7, 8<<20 - 1} {
		dev := newDisk(8 << 20)
		dev.badWrite = at
		_, err := run(t, src, dev, install.Options{})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("write mem0 at %d", at)) {
			t.Errorf("error %v does not name device and offset %d", err, at)
		}
		if bootable(dev.b) {
			t.Error("the disk may boot")
		}
	}
}

func TestSyncErrorIsFatal(t *testing.T) {
	src := plainImage(t, 1<<20, nil)
	dev := newDisk(1 << 20)
	dev.syncErr = errors.New("lost page")
	if _, err := run(t, src, dev, install.Options{}); !errors.Is(err, dev.syncErr) {
		t.Errorf("error %v", err)
	}
}

// TestReadErrorIsWrittenOver: what cannot be read while planning is written.
func TestReadErrorIsWrittenOver(t *testing.T) {
	src := plainImage(t, 4<<20, func(int) bool { return true })
	dev := newDiskOf(src.disk, 4<<20)
	dev.badRead = 2<<20 + 99
	r := mustRun(t, src, dev, install.Options{})
	if src.fetched() != 1 || r.ChunksInPlace != src.Layout.Chunks()-1 {
		t.Errorf("result %+v", r)
	}
	if _, err := install.Verify(t.Context(), src.Image, dev, nil); err == nil || !strings.Contains(err.Error(), "medium error") {
		t.Errorf("verify: %v", err)
	}
}

// TestLyingDisk: the read-back finds what the disk has not kept, and the disk
// does not boot then.
func TestLyingDisk(t *testing.T) {
	src := gptImage(t, 4<<20)
	for _, at := range []int64{0, 3 << 20, 4<<20 - 512} {
		dev := newDisk(4 << 20)
		dev.lie = at
		_, err := run(t, src, dev, install.Options{Verify: true})
		var differ *install.DiffError
		if !errors.As(err, &differ) || differ.Report.Equal() {
			t.Fatalf("error %v", err)
		}
		if dev.lie = -1; bootable(dev.b) {
			t.Error("the disk may boot")
		}
	}
}

// TestInterrupted: a chunk that stands in many places takes long to write. That is
// seen, and who ends the installation does not wait for it.
func TestInterrupted(t *testing.T) {
	b := make([]byte, region)
	random(b, 1)
	b = bytes.Repeat(b, 64)
	src := captureUsed(t, b, image.Manifest{SectorSize: 512, Table: "none"}, func(int) bool { return true })
	dev := newDisk(int64(len(b)))
	told := make(chan api.Progress)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	j, err := install.New(src.Image, dev, install.Options{NoPlan: true, Progress: func(p api.Progress) {
		select {
		case told <- p:
		case <-ctx.Done():
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	const last = 4 // the head is the first
	dev.gate = func() {
		if dev.writes != last-1 {
			return
		}
		<-told // perhaps of before
		if p := <-told; p.Written != 16*region-block {
			t.Errorf("%d bytes are written, and %d count", 16*region-block, p.Written)
		}
		cancel()
	}
	if _, err := j.Run(ctx, install.FromStore(src)); !errors.Is(err, context.Canceled) || dev.writes != last {
		t.Errorf("%d writes, %v", dev.writes, err)
	}
}

// TestNothingToWrite: what is in place may not be durable yet, since whoever wrote
// it was killed.
func TestNothingToWrite(t *testing.T) {
	for _, src := range []*source{plainImage(t, 1<<20, nil), gptImage(t, 4<<20)} {
		dev := newDisk(src.Manifest.DiskSize)
		mustRun(t, src, dev, install.Options{})
		dev.writes, dev.syncs = 0, 0
		if mustRun(t, src, dev, install.Options{}); dev.writes != 0 || dev.syncs == 0 {
			t.Errorf("%d writes, %d syncs", dev.writes, dev.syncs)
		}
	}
}

func TestCorruptStore(t *testing.T) {
	src := plainImage(t, 4<<20, nil)
	id := src.Layout.ID(7)
	src.chunks[id][5] ^= 1
	dev := newDisk(4 << 20)
	_, err := run(t, src, dev, install.Options{})
	var bad *image.ChunkError
	if !errors.As(err, &bad) || bad.ID != id {
		t.Errorf("error %v", err)
	}
}

// TestImageWithDataInTheBackupsPlace cannot be put on the disk; the backup GPT
// would destroy it.
func TestImageWithDataInTheBackupsPlace(t *testing.T) {
	good := gptImage(t, 4<<20)
	man := *good.Manifest
	man.GPT = &image.GPT{AlternateLBA: man.GPT.AlternateLBA, LastUsableLBA: man.GPT.LastUsableLBA}
	b := bytes.Clone(good.disk)
	b[4<<20-600] = 1
	tail := func(i int) bool { return i < 9 || i == 4<<20/block-1 }
	// Made as if it had no GPT, so that nothing is taken for zeros.
	src := captureUsed(t, b, image.Manifest{SectorSize: 512, Table: "none"}, tail)
	m := &image.Map{Entries: src.Layout.Entries()}
	man.Partitions = nil
	src.Image = finishImage(t, m, man, 4<<20)
	dev := newDisk(4 << 20)
	if _, err := run(t, src, dev, install.Options{}); err == nil || !strings.Contains(err.Error(), "backup GPT") {
		t.Errorf("error %v", err)
	}
	if bootable(dev.b) {
		t.Error("the disk may boot")
	}
}

func TestTransportEndsEarly(t *testing.T) {
	src := plainImage(t, 4<<20, nil)
	j, err := install.New(src.Image, newDisk(4<<20), install.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = j.Run(t.Context(), func(context.Context, *install.Job) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "16 of 16 chunks") {
		t.Errorf("error %v", err)
	}
}

// TestTransportNotNeeded: its failure does not matter where everything is in
// place.
func TestTransportNotNeeded(t *testing.T) {
	src := plainImage(t, 4<<20, nil)
	j, err := install.New(src.Image, newDiskOf(src.disk, 4<<20), install.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = j.Run(t.Context(), func(_ context.Context, j *install.Job) error {
		<-j.Complete()
		return errors.New("server is gone")
	})
	if err != nil {
		t.Error(err)
	}
}
