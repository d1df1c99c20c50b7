package install_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/store"
)

// twoFaced is a source whose reader damages every chunk once, and whose Chunk
// fails for one of them.
type twoFaced struct {
	*source
	bad image.ID
}

var errTwoFaced = errors.New("the pack is damaged here")

func (s twoFaced) NewReader() store.Reader {
	return readerFunc(func(ctx context.Context, id image.ID) ([]byte, error) {
		b, err := s.source.Chunk(ctx, id)
		b = bytes.Clone(b)
		b[len(b)-1] ^= 1
		return b, err
	})
}

func (s twoFaced) Chunk(ctx context.Context, id image.ID) ([]byte, error) {
	if id == s.bad {
		return nil, errTwoFaced
	}
	return s.source.Chunk(ctx, id)
}

// TestDamagedRead has chunks come damaged from the store: what the store can
// read after all is taken, and where it cannot its own error is told.
func TestDamagedRead(t *testing.T) {
	src := randomImage(t, 4)
	install1 := func(bad image.ID) ([]byte, error) {
		dev := newDisk(src.Manifest.DiskSize)
		j, err := install.New(src.Image, dev, install.Options{NoPlan: true})
		if err != nil {
			t.Fatal(err)
		}
		_, err = j.Run(t.Context(), install.FromStore(twoFaced{src, bad}))
		return dev.b, err
	}
	got, err := install1(image.ID{})
	if err != nil || !bytes.Equal(got, src.disk) {
		t.Errorf("equal: %t, %v", bytes.Equal(got, src.disk), err)
	}
	if _, err := install1(src.Layout.ID(2)); !errors.Is(err, errTwoFaced) {
		t.Errorf("%v, want the store's error", err)
	}
}

// TestHotPathAllocates tells if installing a chunk costs allocations, by what
// a longer image costs more. The disk holds all back until no buffer is left, so
// that both images make all of them: how many are needed depends on the scheduler.
func TestHotPathAllocates(t *testing.T) {
	const few, many = 100, 400
	allocs := func(chunks int) (n float64) {
		src := randomImage(t, chunks)
		synctest.Test(t, func(t *testing.T) {
			n = testing.AllocsPerRun(3, func() {
				dev := stalledDisk{nullDisk{src.Manifest.DiskSize}, make(chan struct{})}
				j, err := install.New(src.Image, dev, install.Options{NoPlan: true, Workers: 2})
				if err != nil {
					t.Fatal(err)
				}
				done := make(chan error)
				go func() {
					_, err := j.Run(t.Context(), install.FromStore(plain{src}))
					done <- err
				}()
				synctest.Wait()
				close(dev.resume)
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			})
		})
		return n
	}
	if perChunk := (allocs(many) - allocs(few)) / (many - few); perChunk > 0.1 {
		t.Errorf("%.2f allocations a chunk", perChunk)
	}
}

// stalledDisk writes nothing but the head before resume is closed: who waits for
// the head holds a lock.
type stalledDisk struct {
	nullDisk
	resume chan struct{}
}

func (d stalledDisk) WriteV(off int64, bufs ...[]byte) (int, error) {
	if off > 0 {
		<-d.resume
	}
	return d.nullDisk.WriteV(off, bufs...)
}

// plain is a source that allocates nothing.
type plain struct{ *source }

func (s plain) NewReader() store.Reader {
	return readerFunc(func(_ context.Context, id image.ID) ([]byte, error) { return s.chunks[id], nil })
}

// randomImage is an image of as many regions, the first block of each used.
func randomImage(t *testing.T, regions int) *source {
	disk := make([]byte, regions*region)
	for at := 0; at < len(disk); at += region {
		random(disk[at:at+block], uint64(at))
	}
	return captureUsed(t, disk, image.Manifest{SectorSize: 512, Table: "none"}, func(b int) bool { return b%image.RegionBlocks == 0 })
}
