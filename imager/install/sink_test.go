package install_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"huck/imager/api"
	"huck/imager/cast"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/store"
)

var _ cast.Sink = (*install.Job)(nil)

// drive runs a job of src on dev with a transport made by hand.
func drive(t *testing.T, src *source, dev *memDisk, opt install.Options, transport func(ctx context.Context, j *install.Job) error) apiResult {
	t.Helper()
	j, err := install.New(src.Image, dev, opt)
	if err != nil {
		t.Fatal(err)
	}
	r, err := j.Run(t.Context(), transport)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSinkWithoutPlan(t *testing.T) {
	src := plainImage(t, 8<<20, nil)
	dev := newDisk(8 << 20)
	chunks := uint32(src.Layout.Chunks())
	var encoded int64
	dec := image.NewDecoder()
	r := drive(t, src, dev, install.Options{NoPlan: true}, func(ctx context.Context, j *install.Job) error {
		buf := make([]uint32, 5)
		if got := j.Missing(chunks-2, buf); !slices.Equal(got, []uint32{chunks - 2, chunks - 1, 0, 1, 2}) {
			t.Errorf("missing from the end: %v", got)
		}
		if got := j.Missing(chunks+9, buf); !slices.Equal(got, []uint32{0, 1, 2, 3, 4}) {
			t.Errorf("missing from past the end: %v", got)
		}
		if got := j.Missing(7, make([]uint32, 0, 1000)); len(got) != int(chunks) || got[0] != 7 || got[chunks-1] != 6 {
			t.Errorf("all missing from 7: %v", got)
		}
		if err := j.Deliver(ctx, chunks, nil, "x"); err == nil {
			t.Error("chunk past the end was taken")
		}
		if j.Useful(chunks) {
			t.Error("chunk past the end is useful")
		}
		for n := chunks; n > 0; n-- {
			if !j.Useful(n - 1) {
				t.Errorf("chunk %d is not useful before it came", n-1)
			}
			b := bytes.Clone(src.encoded(n - 1))
			if n%2 == 0 { // as one that does not shrink is stored
				size := src.Layout.Size(n - 1)
				raw, err := dec.Decode(make([]byte, size), b, src.Layout.ID(n-1), size)
				if err != nil {
					return err
				}
				b = raw
			}
			if err := j.Deliver(ctx, n-1, b, "x"); err != nil {
				return err
			}
			encoded += int64(len(b))
			clear(b) // it is the caller's again
			if j.Useful(n-1) || slices.Contains(j.Missing(0, make([]uint32, chunks)), n-1) {
				t.Errorf("chunk %d is wanted after it came", n-1)
			}
		}
		<-j.Complete()
		return j.Deliver(ctx, 3, src.encoded(3), "late")
	})
	checkUsed(t, src, dev.b)
	if r.Received["x"] != encoded || r.Received["late"] != 0 {
		t.Errorf("received %v, want %d", r.Received, encoded)
	}
}

// TestDeliverBeforePlan: chunks come before the plan has looked where they
// belong; the look is taken then.
func TestDeliverBeforePlan(t *testing.T) {
	src := plainImage(t, 4<<20, func(int) bool { return true })
	dev := newDiskOf(src.disk, 4<<20)
	dev.b[9*region+1]++
	delivered := make(chan struct{})
	dev.readGate = func(_ int64, n int) error {
		if n > region { // the plan reads more at a time than a look
			<-delivered
		}
		return nil
	}
	r := drive(t, src, dev, install.Options{}, func(ctx context.Context, j *install.Job) error {
		defer close(delivered)
		if got := j.Missing(0, make([]uint32, 4)); len(got) != 0 {
			t.Errorf("missing before any look: %v", got)
		}
		for _, n := range []uint32{9, 3} {
			if err := j.Deliver(ctx, n, src.encoded(n), "x"); err != nil {
				return err
			}
		}
		return nil
	})
	if r.ChunksInPlace != src.Layout.Chunks()-1 || r.WrittenBytes > region+64<<10 || !bytes.Equal(dev.b, src.disk) {
		t.Errorf("result %+v", r)
	}
}

func TestCorruptDelivery(t *testing.T) {
	src := plainImage(t, 4<<20, nil)
	dev := newDisk(4 << 20)
	const n = 5
	drive(t, src, dev, install.Options{NoPlan: true}, func(ctx context.Context, j *install.Job) error {
		good := src.encoded(n)
		flipped := bytes.Clone(good)
		flipped[len(flipped)/2] ^= 1
		for _, b := range [][]byte{nil, good[:len(good)-1], flipped, src.encoded(n + 1), make([]byte, 300<<10)} {
			changed := j.Changed()
			err := j.Deliver(ctx, n, b, "x")
			if bad := (*image.ChunkError)(nil); !errors.As(err, &bad) || bad.ID != src.Layout.ID(n) {
				t.Errorf("error %v", err)
			}
			select {
			case <-changed:
			default:
				t.Error("nobody is told that the chunk is missing again")
			}
			if !j.Useful(n) || j.Missing(n, make([]uint32, 1))[0] != n {
				t.Error("chunk is not missing any more")
			}
		}
		if dev.writes != 0 {
			t.Error("something was written")
		}
		return install.FromStore(src)(ctx, j)
	})
	checkUsed(t, src, dev.b)
}

// TestSlowDisk: a disk that does not write holds deliveries up once the buffers
// are full.
func TestSlowDisk(t *testing.T) {
	t.Parallel()
	src := plainImage(t, 24<<20, func(int) bool { return true })
	dev := newDisk(24 << 20)
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		var stuck atomic.Bool
		dev.gate = func() {
			if stuck.Load() {
				<-open
			}
		}
		drive(t, src, dev, install.Options{NoPlan: true}, func(ctx context.Context, j *install.Job) error {
			if err := j.Deliver(ctx, 0, src.encoded(0), "x"); err != nil { // invalidates the head
				return err
			}
			stuck.Store(true)
			short, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			n := uint32(1)
			for {
				if err := j.Deliver(short, n, src.encoded(n), "x"); err != nil {
					if !errors.Is(err, context.DeadlineExceeded) {
						return err
					}
					break
				}
				n++
			}
			if n < 16 || n > 82 { // there are 80 buffers
				t.Errorf("%d chunks of %d KiB were taken while the disk stood still", n, region>>10)
			}
			if !j.Useful(n) {
				t.Error("the chunk that found no room is lost")
			}
			close(open)
			return install.FromStore(src)(ctx, j)
		})
	})
	if !bytes.Equal(dev.b, src.disk) {
		t.Error("disk differs")
	}
}

// TestLateChunks: chunks that come a little out of order are written as if they
// had not, and those far behind with what comes last.
func TestLateChunks(t *testing.T) {
	const chunks = 64
	src := plainImage(t, chunks*region, func(int) bool { return true })
	dev := newDisk(chunks * region)
	drive(t, src, dev, install.Options{NoPlan: true}, func(ctx context.Context, j *install.Job) error {
		var order []uint32
		for n := uint32(1); n < chunks; n++ { // chunk 0 comes last, those after it five by five backwards
			order = slices.Insert(order, len(order)-int(n-1)%5, n)
		}
		for _, n := range append(order, 0) {
			if err := j.Deliver(ctx, n, src.encoded(n), "x"); err != nil {
				return err
			}
		}
		return nil
	})
	// 8 at a time, one more for those at the ends, and the head: zeros first, its
	// content in two.
	if least := chunks/8 + 4; dev.writes > least {
		t.Errorf("%d writes, want %d", dev.writes, least)
	}
	if !bytes.Equal(dev.b, src.disk) {
		t.Error("disk differs")
	}
}

// TestConcurrentDeliveries has many deliver everything at once, beside the plan.
func TestConcurrentDeliveries(t *testing.T) {
	src := plainImage(t, 16<<20, func(int) bool { return true })
	dev := newDiskOf(src.disk, 16<<20)
	for r := range 64 {
		if r%2 == 0 {
			dev.b[r*region]++
		}
	}
	r := drive(t, src, dev, install.Options{Verify: true}, func(ctx context.Context, j *install.Job) error {
		g, ctx := errgroup.WithContext(ctx)
		for i := range 4 {
			g.Go(func() error {
				for n := range uint32(src.Layout.Chunks()) {
					n = n * uint32(2*i+1) % uint32(src.Layout.Chunks())
					if err := j.Deliver(ctx, n, src.encoded(n), "x"); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return g.Wait()
	})
	if r.ChunksInPlace != 32 {
		t.Errorf("%d in place", r.ChunksInPlace)
	}
	checkUsed(t, src, dev.b)
}

func TestCancel(t *testing.T) {
	src := plainImage(t, 4<<20, nil)
	before := runtime.NumGoroutine()
	j, err := install.New(src.Image, newDisk(4<<20), install.Options{Progress: func(api.Progress) {}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = j.Run(ctx, func(ctx context.Context, j *install.Job) error {
		if err := j.Deliver(ctx, 0, src.encoded(0), "x"); err != nil {
			return err
		}
		cancel()
		<-ctx.Done()
		return errors.New("the transport says something else")
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	// One that has told its owner that it is done may still be on its way out.
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func TestProgress(t *testing.T) {
	src := plainImage(t, 8<<20, nil)
	dev := newDiskOf(src.disk[:4<<20], 8<<20)
	var last api.Progress
	r := drive(t, src, dev, install.Options{Progress: func(p api.Progress) { last = p }}, install.FromStore(src))
	total := src.Layout.UsedBytes()
	if last.Total != total || last.Planned != total || last.InPlace+last.Written != total {
		t.Errorf("last progress %+v", last)
	}
	if last.Received[install.ViaStore] != r.Received[install.ViaStore] || last.Received[install.ViaStore] == 0 {
		t.Errorf("progress %+v, result %+v", last, r)
	}
}

// TestMemory: what a job holds does not grow with the image.
func TestMemory(t *testing.T) {
	const regions = 1024
	base := make([]byte, region)
	random(base, 4)
	chunk := func(r uint64) []byte {
		b := bytes.Clone(base)
		b[0], b[1] = byte(r), byte(r>>8)
		return b
	}
	var m image.Map
	for r := range uint64(regions) {
		m.Entries = append(m.Entries, image.Entry{Region: r, Used: ^uint64(0), ID: image.Sum(chunk(r))})
	}
	img := finishImage(t, &m, image.Manifest{SectorSize: 512, Table: "none"}, regions*region)
	j, err := install.New(img, nullDisk{regions * region}, install.Options{NoPlan: true})
	if err != nil {
		t.Fatal(err)
	}
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var mu sync.Mutex
	var peak uint64
	_, err = j.Run(t.Context(), install.FromStore(sourceFunc(func(id image.ID) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		runtime.ReadMemStats(&now)
		peak = max(peak, now.HeapInuse+now.StackInuse)
		for n := range uint32(regions) {
			if img.Layout.ID(n) == id {
				return chunk(uint64(n)), nil
			}
		}
		return nil, errors.New("unknown chunk")
	})))
	if err != nil {
		t.Fatal(err)
	}
	if grown := int64(peak) - int64(before.HeapInuse+before.StackInuse); grown > 64<<20 {
		t.Errorf("heap grew by %d MiB", grown>>20)
	} else {
		t.Logf("heap grew by %d MiB", grown>>20)
	}
}

type sourceFunc func(image.ID) ([]byte, error)

func (f sourceFunc) NewReader() store.Reader                              { return readerFunc(f.Chunk) }
func (f sourceFunc) Chunk(_ context.Context, id image.ID) ([]byte, error) { return f(id) }

// nullDisk takes writes and keeps nothing.
type nullDisk struct{ size int64 }

func (d nullDisk) Name() string                          { return "null" }
func (d nullDisk) Size() int64                           { return d.size }
func (d nullDisk) SectorSize() int                       { return 0 }
func (d nullDisk) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }
func (d nullDisk) WriteV(_ int64, bufs ...[]byte) (n int, err error) {
	for _, b := range bufs {
		n += len(b)
	}
	return n, nil
}
func (d nullDisk) Sync() error              { return nil }
func (d nullDisk) Discard(_, _ int64) error { return nil }
func (d nullDisk) Zero(_, _ int64) error    { return nil }
func (d nullDisk) Close() error             { return nil }
