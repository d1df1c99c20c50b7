package install_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/api"
	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/ptable"
)

func TestBlankDiskThenInPlace(t *testing.T) {
	for name, src := range map[string]*source{
		"plain":      plainImage(t, 3<<20, nil),
		"odd end":    plainImage(t, 2<<20+block+512, nil),
		"one sector": plainImage(t, 512, nil),
		"gpt":        gptImage(t, 8<<20),
	} {
		t.Run(name, func(t *testing.T) {
			dev := newDisk(int64(len(src.disk)))
			random(dev.b, 99)
			garbage := bytes.Clone(dev.b)
			var verified []api.Verified
			r := mustRun(t, src, dev, install.Options{Verify: true, Verified: func(v api.Verified) { verified = append(verified, v) }})
			checkUsed(t, src, dev.b)
			chunks := src.Layout.Chunks()
			if got := src.fetched(); got != chunks || r.ChunksInPlace != 0 {
				t.Errorf("fetched %d chunks, %d in place; want %d and 0", got, r.ChunksInPlace, chunks)
			}
			if len(verified) != 1 || verified[0].Differ != 0 || verified[0].Regions != len(src.Layout.Entries()) {
				t.Errorf("verified: %+v", verified)
			}
			if r.WrittenBytes != dev.written || r.WrittenBytes < r.ImageBytes || r.ImageBytes != src.Layout.UsedBytes() {
				t.Errorf("result %+v, device wrote %d", r, dev.written)
			}
			// Unused blocks are left.
			at, end := int64(6*block), int64(7*block)
			if name == "plain" && !bytes.Equal(dev.b[5*block:6*block], garbage[5*block:6*block]) {
				t.Errorf("unused block %d..%d was written", at, end)
			}

			before, writes := bytes.Clone(dev.b), dev.writes
			r = mustRun(t, src, dev, install.Options{Verify: true})
			if got := src.fetched(); got != 0 || r.ChunksInPlace != chunks || r.WrittenBytes != 0 || dev.writes != writes {
				t.Errorf("second time: fetched %d, result %+v, %d writes", got, r, dev.writes-writes)
			}
			if !bytes.Equal(before, dev.b) {
				t.Error("the disk has changed")
			}
		})
	}
}

func TestNoPlanWritesEverything(t *testing.T) {
	src := gptImage(t, 8<<20)
	dev := newDisk(8 << 20)
	mustRun(t, src, dev, install.Options{})
	src.fetched()
	r := mustRun(t, src, dev, install.Options{NoPlan: true})
	if got := src.fetched(); got != src.Layout.Chunks() || r.ChunksInPlace != 0 {
		t.Errorf("fetched %d of %d chunks, %d in place", got, src.Layout.Chunks(), r.ChunksInPlace)
	}
	if !verify(t, src, dev).Equal() {
		t.Error("differs")
	}
}

func TestOneRegionChanged(t *testing.T) {
	src := gptImage(t, 8<<20)
	for name, at := range map[string]int64{"data": 5 << 20, "boot sector": 3, "GPT header": 512 + 40, "entries": 1024, "last region": 8<<20 - 40<<10} {
		t.Run(name, func(t *testing.T) {
			dev := newDisk(8 << 20)
			mustRun(t, src, dev, install.Options{})
			src.fetched()
			want := bytes.Clone(dev.b)
			dev.b[at] ^= 1
			report := verify(t, src, dev)
			if len(report.Differ) != 1 || src.Layout.Entries()[report.Differ[0]].Region != uint64(at/region) {
				t.Errorf("report %+v", report)
			}
			r := mustRun(t, src, dev, install.Options{})
			if got := src.fetched(); got != 1 || r.ChunksInPlace != src.Layout.Chunks()-1 {
				t.Errorf("fetched %d, in place %d of %d", got, r.ChunksInPlace, src.Layout.Chunks())
			}
			if !bytes.Equal(dev.b, want) {
				t.Error("disk is not what it was")
			}
			if limit := int64(region + 64<<10); r.WrittenBytes > limit {
				t.Errorf("wrote %d bytes, want at most %d", r.WrittenBytes, limit)
			}
		})
	}
}

func TestOnlyBackupGPTDiffers(t *testing.T) {
	src := gptImage(t, 8<<20)
	dev := newDisk(8 << 20)
	mustRun(t, src, dev, install.Options{})
	src.fetched()
	want := bytes.Clone(dev.b)
	for _, at := range []int{8<<20 - 512, 8<<20 - 33*512 + 40} {
		dev.b[at] ^= 1
		if r := verify(t, src, dev); len(r.Differ) != 0 || !r.BackupGPT || r.Equal() {
			t.Errorf("report %+v", r)
		}
		r := mustRun(t, src, dev, install.Options{})
		if src.fetched() != 0 || r.ChunksInPlace != src.Layout.Chunks() {
			t.Errorf("result %+v", r)
		}
		if !bytes.Equal(dev.b, want) {
			t.Error("disk is not what it was")
		}
	}
}

// TestOtherSizes fits the image to disks of other sizes and lets sgdisk do the
// same with a copy of the original: both must come to the same table.
func TestOtherSizes(t *testing.T) {
	t.Parallel()
	const size = 8<<20 - 3*512 // its last used block is shared with the backup GPT
	src := gptImage(t, size)
	for _, target := range []int64{size, size + 512, size + 9*512, 40 << 20} {
		dir := t.TempDir()
		ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
		dev := newDisk(target)
		random(dev.b, 3)
		mustRun(t, src, dev, install.Options{Verify: true})
		checkUsed(t, src, dev.b)
		if err := os.WriteFile(ours, dev.b, 0o600); err != nil {
			t.Fatal(err)
		}
		if out := tool(t, "sgdisk", "-v", ours); !strings.Contains(out, "No problems found") {
			t.Errorf("%d: sgdisk -v: %s", target, out)
		}
		if out := tool(t, "sfdisk", "--verify", ours); strings.Contains(out, "mismatch") {
			t.Errorf("%d: sfdisk --verify: %s", target, out)
		}
		same := newDisk(size)
		mustRun(t, src, same, install.Options{})
		if err := os.WriteFile(theirs, newDiskOf(same.b, target).b, 0o600); err != nil {
			t.Fatal(err)
		}
		tool(t, "sgdisk", "-e", theirs)
		b, err := os.ReadFile(theirs)
		if err != nil {
			t.Fatal(err)
		}
		copy(b[446+5:446+8], dev.b[446+5:]) // the last sector in cylinder, head and sector: nobody reads it
		if !bytes.Equal(b[:34*512], dev.b[:34*512]) {
			t.Errorf("%d: primary GPT is not what sgdisk -e makes", target)
		}
		if !bytes.Equal(b[target-33*512:], dev.b[target-33*512:]) {
			t.Errorf("%d: backup GPT is not what sgdisk -e makes", target)
		}
		src.fetched()
		if r := mustRun(t, src, dev, install.Options{}); r.ChunksInPlace != src.Layout.Chunks() || src.fetched() != 0 || r.WrittenBytes != 0 {
			t.Errorf("%d: second time: %+v", target, r)
		}
	}
}

func TestRefused(t *testing.T) {
	gpt, plain := gptImage(t, 8<<20), plainImage(t, 3<<20, func(int) bool { return true })
	small := plainImage(t, 3<<20, func(i int) bool { return i < 100 })
	fourK := func() *memDisk { d := newDisk(16 << 20); d.sector = 4096; return d }
	for name, c := range map[string]struct {
		src  *source
		dev  *memDisk
		opt  install.Options
		want []string // nil: taken
	}{
		"plain, one sector short":         {plain, newDisk(3<<20 - 512), install.Options{}, []string{"mem0", "3145216", "3145728"}},
		"gpt, one sector short":           {gpt, newDisk(8<<20 - 512), install.Options{}, []string{"mem0", "8388096", "8371712", "16896"}},
		"gpt, hardly any":                 {gpt, newDisk(4096), install.Options{}, []string{"no room"}},
		"gpt, nothing at all":             {gpt, newDisk(0), install.Options{}, []string{"no room"}},
		"sector size":                     {gpt, fourK(), install.Options{}, []string{"4096", "512", "gpt"}},
		"sector size matters not":         {plain, fourK(), install.Options{}, nil},
		"unused blocks need not be there": {small, newDisk(100 * block), install.Options{}, nil},
		"used ones must":                  {small, newDisk(100*block - 512), install.Options{}, []string{"409600"}},
		"unused option":                   {plain, newDisk(3 << 20), install.Options{Unused: "shred"}, []string{"shred"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := run(t, c.src, c.dev, c.opt)
			if c.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var refused *install.Refused
			if !errors.As(err, &refused) {
				t.Fatalf("error %v", err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not name %s", err, w)
				}
			}
			if c.dev.writes != 0 {
				t.Errorf("%d writes", c.dev.writes)
			}
		})
	}
}

// TestPartitionsMustFit: no used block is past the end, but a partition is.
func TestPartitionsMustFit(t *testing.T) {
	b := make([]byte, 4<<20)
	man := image.Manifest{SectorSize: 512, Table: "mbr", Partitions: []image.Partition{{Number: 1, Start: 1 << 20, Size: 3 << 20, Content: "ext4"}}}
	src := captureUsed(t, b, man, func(i int) bool { return i < 300 })
	_, err := install.New(src.Image, newDisk(3<<20), install.Options{})
	if refused := (*install.Refused)(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "partition 1 ends at 4194304") {
		t.Errorf("error %v", err)
	}
}

func TestDuplicateChunks(t *testing.T) {
	b := make([]byte, 4<<20)
	random(b, 1)
	for _, at := range []int{3, 7, 8, 15} {
		copy(b[at*region:(at+1)*region], b[region:2*region])
	}
	src := captureUsed(t, b, image.Manifest{SectorSize: 512, Table: "none"}, func(int) bool { return true })
	if src.Layout.Chunks() != 12 {
		t.Fatalf("%d chunks", src.Layout.Chunks())
	}
	dev := newDisk(4 << 20)
	mustRun(t, src, dev, install.Options{})
	if !bytes.Equal(dev.b, b) {
		t.Error("disk differs")
	}
	// Two of the five places differ: the chunk is fetched once, the others are
	// not written.
	src.fetched()
	dev.b[7*region]++
	dev.b[15*region+100]++
	dev.written = 0
	r := mustRun(t, src, dev, install.Options{})
	if src.fetched() != 1 || r.ChunksInPlace != 11 || r.WrittenBytes > 2*region+64<<10 || !bytes.Equal(dev.b, b) {
		t.Errorf("result %+v", r)
	}
}

func TestUnused(t *testing.T) {
	src := gptImage(t, 8<<20)
	for how, want := range map[string]byte{install.Leave: 0xaa, install.Zero: 0, install.Discard: 0xdd} {
		for _, target := range []int64{8 << 20, 10 << 20} {
			dev := newDisk(target)
			for i := range dev.b {
				dev.b[i] = 0xaa
			}
			mustRun(t, src, dev, install.Options{Unused: how, Verify: true})
			checkUsed(t, src, dev.b)
			free := []int64{100 << 10, 1<<20 - 1}
			if target > 8<<20 {
				free = append(free, 9<<20)
			}
			if how != install.Discard {
				free = append(free, 2<<20+20*block) // too short for a discard
			}
			for _, at := range free {
				if dev.b[at] != want {
					t.Errorf("%s: byte %d is %#x", how, at, dev.b[at])
				}
			}
		}
	}
}

// farEntries is an image with a GPT whose entries stand behind the boot loader of
// some small machine, and with a partition of zeros.
func farEntries(t *testing.T) *source {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "sgdisk", "-n", "1:12288:14335", "-j", "8192", file)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	table, err := ptable.Read(bytes.NewReader(b), int64(len(b)), 512)
	if err != nil {
		t.Fatal(err)
	}
	return captureUsed(t, b, image.Manifest{SectorSize: 512, Table: table.Kind, GPT: table.GPT}, func(i int) bool { return i < 7<<20/block })
}

// TestDiscardTarget: all chunks are fetched and verified, those of zeros, too.
func TestDiscardTarget(t *testing.T) {
	for _, src := range []*source{plainImage(t, 3<<20, nil), gptImage(t, 8<<20), farEntries(t)} {
		dev := disk.Discarder(src.Manifest.DiskSize, src.Manifest.SectorSize)
		j, err := install.New(src.Image, dev, install.Options{Verify: true})
		if err != nil {
			t.Fatal(err)
		}
		r, err := j.Run(t.Context(), install.FromStore(src))
		if err != nil {
			t.Fatal(err)
		}
		if src.fetched() != src.Layout.Chunks() || r.WrittenBytes < r.ImageBytes {
			t.Errorf("result %+v", r)
		}
	}
}

// TestFile installs on a real file, sparse and new, and once more.
func TestFile(t *testing.T) {
	src := gptImage(t, 8<<20-512)
	path := filepath.Join(t.TempDir(), "disk")
	for _, want := range []int{src.Layout.Chunks(), 0} {
		dev, err := disk.Open(path, true)
		if errors.Is(err, os.ErrNotExist) {
			dev, err = disk.Create(path, src.Manifest.DiskSize)
		}
		if err != nil {
			t.Fatal(err)
		}
		j, err := install.New(src.Image, dev, install.Options{Verify: true, Unused: install.Zero})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := j.Run(t.Context(), install.FromStore(src)); err != nil {
			t.Fatal(err)
		}
		if err := dev.Close(); err != nil {
			t.Fatal(err)
		}
		if got := src.fetched(); got != want {
			t.Errorf("fetched %d chunks, want %d", got, want)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	checkUsed(t, src, b)
	if out := tool(t, "sgdisk", "-v", path); !strings.Contains(out, "No problems found") {
		t.Error(out)
	}
}

func TestEmptyImage(t *testing.T) {
	src := plainImage(t, 1<<20, func(int) bool { return false })
	dev := newDisk(1 << 20)
	if r := mustRun(t, src, dev, install.Options{Verify: true}); dev.writes != 0 || r.ImageBytes != 0 {
		t.Errorf("result %+v, %d writes", r, dev.writes)
	}
	if !verify(t, src, dev).Equal() {
		t.Error("differs")
	}
}

func TestVerifyProgress(t *testing.T) {
	src := plainImage(t, 3<<20, nil)
	var last api.Progress
	if _, err := install.Verify(context.Background(), src.Image, newDiskOf(src.disk, 3<<20), func(p api.Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	if total := src.Layout.UsedBytes(); last.Total != total || last.Planned != total || last.InPlace != total {
		t.Errorf("last progress %+v", last)
	}
}

// TestVerifyPlaces names where a disk differs: partition 1 ends and 5 begins in
// region 8.
func TestVerifyPlaces(t *testing.T) {
	parts := []image.Partition{
		{Number: 1, Start: mib, Size: mib + region/2, Content: "ext4"},
		{Number: 5, Start: 2*mib + region/2, Size: mib / 2, Content: "xfs"},
	}
	disk := make([]byte, 4*mib)
	random(disk, 1)
	partitioned := captureUsed(t, disk, image.Manifest{SectorSize: 512, Table: "mbr", Partitions: parts}, func(int) bool { return true })
	whole := captureUsed(t, disk, image.Manifest{SectorSize: 512, Table: "none", Partitions: []image.Partition{{Size: 4 * mib, Content: "ext4"}}}, func(int) bool { return true })
	for _, c := range []struct {
		src  *source
		at   []int
		want string
	}{
		{partitioned, nil, "0 of 16 regions differ"},
		{partitioned, []int{mib, 2*mib - 1, 2 * mib}, "3 of 16 regions differ, of them 3 in partition 1 (ext4), 1 in partition 5 (xfs)"},
		{partitioned, []int{512, 4*mib - 1}, "2 of 16 regions differ, of them 2 outside of partitions"},
		{partitioned, []int{0, 2*mib + region}, "2 of 16 regions differ, of them 1 in partition 5 (xfs), 1 outside of partitions"},
		{whole, []int{0}, "1 of 16 regions differ, of them 1 in the ext4"},
	} {
		dev := newDiskOf(disk, 4*mib)
		for _, at := range c.at {
			dev.b[at] ^= 1
		}
		if got := verify(t, c.src, dev).String(); got != c.want {
			t.Errorf("%v: %s, want %s", c.at, got, c.want)
		}
	}
}
