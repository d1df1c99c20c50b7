package install_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/disk"
	"huck/imager/disk/disktest"
	"huck/imager/image"
	"huck/imager/install"
)

// oddDisk is a disk with partitions that begin and end anywhere: at no block, at
// a block and at a region. Of every 16 blocks some are used.
func oddDisk(t testing.TB) *source {
	t.Helper()
	b := make([]byte, 6*mib)
	random(b, 9)
	var parts []image.Partition
	for i, p := range [][2]int64{{63 * 512, 600 << 10}, {1<<20 - 1024, 700<<10 + 512}, {2 * mib, mib}, {3 * mib, mib + 300<<10}, {5*mib - 4096, 8 << 10}, {6*mib - 512, 512}} {
		parts = append(parts, image.Partition{Number: i + 1, Start: p[0], Size: p[1], Content: "unknown"})
	}
	copy(b[3*mib:3*mib+region], b[2*mib:]) // a chunk of two partitions
	return captureUsed(t, b, image.Manifest{SectorSize: 512, Table: "mbr", Partitions: parts}, func(i int) bool { return i%16 != 5 && i%16 != 6 })
}

// usedOf calls f with the stretches of a partition's used bytes, by offset in
// the partition.
func usedOf(src *source, p image.Partition, f func(off int64, b []byte)) {
	for _, e := range src.Layout.Entries() {
		for r := range e.Runs(src.Layout.DiskSize()) {
			from, to := max(r.Offset, p.Start), min(r.Offset+int64(r.Len), p.Start+p.Size)
			if from < to {
				f(from-p.Start, src.disk[from:to])
			}
		}
	}
}

// partDiffers tells whether b holds the partition.
func partDiffers(src *source, p image.Partition, b []byte) (err error) {
	usedOf(src, p, func(off int64, want []byte) {
		if !bytes.Equal(b[off:off+int64(len(want))], want) && err == nil {
			err = fmt.Errorf("partition %d differs in %d+%d", p.Number, off, len(want))
		}
	})
	return err
}

func TestOnePartition(t *testing.T) {
	src := oddDisk(t)
	for _, p := range src.Manifest.Partitions {
		for _, more := range []int64{0, 512, mib} {
			opt := install.Options{Partition: p.Number, Verify: true}
			dev := newDisk(p.Size + more)
			for i := range dev.b {
				dev.b[i] = 0xaa
			}
			mustRun(t, src, dev, opt)
			if err := partDiffers(src, p, dev.b); err != nil {
				t.Fatalf("%d more: %v", more, err)
			}
			// What the image does not use is left, the head apart.
			want := bytes.Repeat([]byte{0xaa}, len(dev.b))
			clear(want[:min(68<<10, len(want))])
			usedOf(src, p, func(off int64, b []byte) { copy(want[off:], b) })
			if !bytes.Equal(dev.b, want) {
				t.Errorf("partition %d, %d more: something else was written", p.Number, more)
			}
			// Only chunks of which a part belongs elsewhere need be seen again.
			src.fetched()
			dev.written = 0
			r := mustRun(t, src, dev, opt)
			if n := src.fetched(); dev.written != 0 || n > 2 || p.Number == 3 && n != 0 {
				t.Errorf("partition %d, again: %d chunks fetched, %d bytes written: %+v", p.Number, n, dev.written, r)
			}
			dev.b[p.Size-1] ^= 1 // used in all of them
			mustRun(t, src, dev, opt)
			if err := partDiffers(src, p, dev.b); err != nil || dev.written == 0 {
				t.Errorf("mended: %v, %d bytes written", err, dev.written)
			}
		}
	}
}

func TestOnePartitionNoPlan(t *testing.T) {
	src := oddDisk(t)
	for _, p := range src.Manifest.Partitions {
		dev := newDisk(p.Size)
		mustRun(t, src, dev, install.Options{Partition: p.Number, NoPlan: true, Verify: true, Unused: install.Zero})
		if err := partDiffers(src, p, dev.b); err != nil {
			t.Error(err)
		}
	}
}

// TestOnePartitionPowerCut: with anything in its first block the partition is
// complete or as it was.
func TestOnePartitionPowerCut(t *testing.T) {
	src := oddDisk(t)
	p := src.Manifest.Partitions[1]
	whole := newDisk(p.Size)
	mustRun(t, src, whole, install.Options{Partition: p.Number})
	some := bytes.Clone(whole.b)
	some[300<<10]++
	for name, start := range map[string][]byte{"other": bytes.Repeat([]byte{0x11}, int(p.Size)), "some": some} {
		t.Run(name, func(t *testing.T) {
			for cut := 1; ; cut++ {
				dev := newDiskOf(start, p.Size)
				dev.cutAt(cut, uint64(cut))
				_, err := run(t, src, dev, install.Options{Partition: p.Number})
				if !dev.powerOn() {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				first := dev.b[:512]
				if !bytes.Equal(first, make([]byte, 512)) && !bytes.Equal(dev.b[68<<10:], start[68<<10:]) && partDiffers(src, p, dev.b) != nil {
					t.Fatalf("cut %d: the first sector is there, the rest is not", cut)
				}
				if _, err := run(t, src, dev, install.Options{Partition: p.Number, Verify: true}); err != nil {
					t.Fatalf("cut %d: going on: %v", cut, err)
				}
				if err := partDiffers(src, p, dev.b); err != nil {
					t.Fatalf("cut %d: %v", cut, err)
				}
			}
		})
	}
}

// TestOnePartitionLies: reading back finds what the device has not kept, in
// regions shared with other partitions, too.
func TestOnePartitionLies(t *testing.T) {
	src := oddDisk(t)
	for _, p := range src.Manifest.Partitions {
		dev := newDiskOf(bytes.Repeat([]byte{0xaa}, int(p.Size)), p.Size)
		dev.lie = p.Size - 1
		_, err := run(t, src, dev, install.Options{Partition: p.Number, Verify: true})
		if differ := (*install.DiffError)(nil); !errors.As(err, &differ) {
			t.Errorf("partition %d: %v", p.Number, err)
		}
	}
}

func TestOnePartitionRefused(t *testing.T) {
	src, gpt := oddDisk(t), gptImage(t, 8*mib)
	plain := plainImage(t, 3*mib, nil)
	for name, c := range map[string]struct {
		src    *source
		dev    *memDisk
		number int
		want   string
	}{
		"too small":          {src, newDisk(mib - 1), 3, "its 1048575 bytes are too few: the image's partition 3 has 1048576"},
		"no such":            {src, newDisk(8 * mib), 9, "no partition 9: it has 1, 2, 3, 4, 5, 6"},
		"no table":           {plain, newDisk(8 * mib), 1, "no partition table"},
		"a disk with a GPT":  {src, newDiskOf(gpt.disk, 8*mib), 3, "partition table (gpt) with 2 partitions"},
		"a disk with no GPT": {src, newDiskOf(append(gpt.disk[:1024:1024], 1), 8*mib), 3, "cannot be told whether it has a partition table"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := run(t, c.src, c.dev, install.Options{Partition: c.number})
			if refused := (*install.Refused)(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "mem0") {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if c.dev.writes != 0 {
				t.Errorf("%d writes", c.dev.writes)
			}
		})
	}
	dev := newDiskOf(gpt.disk, 8*mib)
	mustRun(t, src, dev, install.Options{Partition: 3, Force: true, Verify: true})
	if err := partDiffers(src, src.Manifest.Partitions[2], dev.b); err != nil {
		t.Error(err)
	}
}

// TestSectorsMatter: a filesystem goes on other sectors only where it works
// there, as a partition or as the whole disk.
func TestSectorsMatter(t *testing.T) {
	for _, c := range []struct {
		content  string
		max      int // the largest sectors it knows
		from, to int
		fits     bool
	}{
		{"ext4", 4096, 512, 512, true}, {"ext4", 4096, 512, 0, true},
		{"ext4", 1024, 512, 4096, false}, {"ext4", 4096, 512, 4096, true}, {"xfs", 512, 512, 4096, false}, {"vfat", 512, 512, 4096, false},
		{"btrfs", 4096, 512, 4096, true}, {"swap", 4096, 512, 4096, true}, {"unknown", 0, 512, 4096, false}, {"empty", 0, 512, 4096, true},
		{"ext4", 4096, 4096, 512, true}, {"xfs", 4096, 4096, 512, true}, {"vfat", 4096, 4096, 512, false}, {"ntfs", 4096, 4096, 512, false},
	} {
		t.Run(fmt.Sprintf("%s of %d %d to %d", c.content, c.max, c.from, c.to), func(t *testing.T) {
			b := make([]byte, 3*mib)
			random(b, 2)
			all := func(int) bool { return true }
			whole := captureUsed(t, b, image.Manifest{SectorSize: c.from, Table: "none",
				Partitions: []image.Partition{{Size: 3 * mib, Content: c.content, MaxSector: c.max}}}, all)
			part := captureUsed(t, b, image.Manifest{SectorSize: c.from, Table: "mbr",
				Partitions: []image.Partition{{Number: 1, Start: mib, Size: mib, Content: c.content, MaxSector: c.max}}}, all)
			for name, do := range map[string]func(force bool) (*memDisk, error){
				"whole": func(force bool) (*memDisk, error) {
					dev := newDisk(3 * mib)
					dev.sector = c.to
					_, err := run(t, whole, dev, install.Options{Force: force})
					return dev, err
				},
				"partition": func(force bool) (*memDisk, error) {
					dev := newDisk(mib)
					dev.sector = c.to
					_, err := run(t, part, dev, install.Options{Partition: 1, Force: force})
					return dev, err
				},
			} {
				dev, err := do(false)
				if c.fits != (err == nil) {
					t.Errorf("%s: error %v", name, err)
				}
				if err == nil {
					continue
				}
				for _, s := range []string{"mem0", c.content, fmt.Sprint(cmp.Or(c.max, c.from)), fmt.Sprint(c.to)} {
					if !strings.Contains(err.Error(), s) {
						t.Errorf("%s: %q does not name %s", name, err, s)
					}
				}
				if dev.writes != 0 || !errors.As(err, new(*install.Refused)) {
					t.Errorf("%s: %v after %d writes", name, err, dev.writes)
				}
				if _, err := do(true); err != nil {
					t.Errorf("%s: forced: %v", name, err)
				}
			}
		})
	}
}

// TestRealPartition puts a filesystem into a partition of another disk, then
// into a larger one and grows it there. What is around the partition stays.
func TestRealPartition(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			g := &growing{table: "gpt", sector: 512, kind: kind}
			g.make(t)
			const at = 3*mib + 512
			for _, size := range []int64{g.size, 500*mib + 1536} {
				file := messy(t, at+size+mib)
				before, after := around(t, file, at, size)
				dev, detach := attach(t, file, at, size, 512)
				for i := range 2 {
					r, err := g.install(t, dev, install.Options{Partition: 2, Grow: true, Verify: true, Unused: install.Discard})
					if err != nil {
						t.Fatal(err)
					}
					if (r.Grown.Left == "") != (size > g.size) || r.Grown.To != size {
						t.Errorf("grown %+v", r.Grown)
					}
					if i == 1 && r.ChunksInPlace == 0 {
						t.Error("nothing in place")
					}
				}
				detach()
				g.check(t, file, at, size)
				if b, a := around(t, file, at, size); !bytes.Equal(b, before) || !bytes.Equal(a, after) {
					t.Error("something outside of the partition was written")
				}
			}
		})
	}
}

// around returns what is before and behind a stretch of a file.
func around(t testing.TB, file string, at, size int64) (before, after []byte) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before, after = make([]byte, at), make([]byte, mib)
	if _, err := f.ReadAt(before, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(after, at+size); err != nil {
		t.Fatal(err)
	}
	return before, after
}

// TestTargetsRefused: what the kernel uses, and what it does not let us write,
// is refused by name.
func TestTargetsRefused(t *testing.T) {
	disktest.NeedRoot(t)
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 8*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	dev, _ := attach(t, file, 0, 8*mib, 512)
	tool(t, "mkfs.ext4", "-q", dev)
	mounted(t, dev, "ext4", "rw", func(dir string) {
		_, err := disk.Open(dev, true)
		if refused := (*install.Refused)(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), dev+" is mounted on "+dir) {
			t.Errorf("mounted: %v", err)
		}
	})
	ro := strings.TrimSpace(tool(t, "losetup", "-r", "-f", "--show", file))
	t.Cleanup(func() { tool(t, "losetup", "-d", ro) })
	_, err := disk.Open(ro, true)
	if refused := (*install.Refused)(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), ro+" refused: it is read-only") {
		t.Errorf("read-only: %v", err)
	}
}

// TestPartOfZeros puts a partition into a new file whose first and last regions
// are zeros, in place there, and reach beyond the partition.
func TestPartOfZeros(t *testing.T) {
	b := make([]byte, 4*mib)
	random(b[2*mib:][:2*region], 1)
	p := image.Partition{Number: 1, Start: mib + 3*block, Size: 2*mib - 6*block, Content: "unknown"}
	src := captureUsed(t, b, image.Manifest{SectorSize: 512, Table: "mbr", Partitions: []image.Partition{p}}, func(int) bool { return true })
	path := filepath.Join(t.TempDir(), "partition")
	dev, err := disk.Create(path, p.Size)
	if err != nil {
		t.Fatal(err)
	}
	j, err := install.New(src.Image, dev, install.Options{Partition: 1, Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Run(t.Context(), install.FromStore(src)); err != nil {
		t.Error(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, b[p.Start:][:p.Size]) {
		t.Errorf("the file is not the partition, error %v", err)
	}
}
