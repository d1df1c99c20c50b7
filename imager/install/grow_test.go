package install_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/api"
	"huck/imager/disk"
	"huck/imager/install"
)

// TestGrow installs on a larger disk and grows, changes what is there, installs
// and grows again, and at last installs without growing.
func TestGrow(t *testing.T) {
	for name, g := range map[string]*growing{
		"ext4 gpt":        {table: "gpt", sector: 512, kind: "ext4"},
		"ext4 gpt 4096":   {table: "gpt", sector: 4096, kind: "ext4"},
		"ext4 1k mbr":     {table: "mbr", sector: 512, kind: "ext4", mkfs: []string{"-b", "1024"}},
		"ext2 mbr":        {table: "mbr", sector: 512, kind: "ext2"},
		"ext4 super 2":    {table: "mbr", sector: 512, kind: "ext4", mkfs: []string{"-O", "sparse_super2,^resize_inode"}},
		"ext4 whole disk": {table: "none", sector: 512, kind: "ext4"},
		"xfs gpt":         {table: "gpt", sector: 512, kind: "xfs"},
		"xfs gpt 4096":    {table: "gpt", sector: 4096, kind: "xfs"},
		"btrfs mbr":       {table: "mbr", sector: 512, kind: "btrfs"},
	} {
		t.Run(name, func(t *testing.T) {
			g.make(t)
			target := messy(t, targetSize)
			size := 700*mib - g.start
			if g.table == "none" {
				size = targetSize
			}
			for i := range 2 {
				r := g.grow(t, target, size)
				g.checkTable(t, target, size)
				g.check(t, target, g.start, size)
				if i == 1 && r.ChunksInPlace == 0 {
					t.Error("nothing was in place")
				}
				g.use(t, target, g.start, size)
			}
			r, err := g.install(t, target, install.Options{Verify: true})
			if err != nil || r.Grown != nil {
				t.Fatalf("without growing: %+v, %v", r, err)
			}
			g.checkTable(t, target, g.size)
			g.check(t, target, g.start, g.size)
		})
	}
}

// grow installs on a block device that is the file and grows to size.
func (g *growing) grow(t testing.TB, target string, size int64) api.Result {
	t.Helper()
	dev, detach := attach(t, target, 0, targetSize, g.sector)
	defer detach()
	r, err := g.install(t, dev, install.Options{Grow: true, Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	if w := r.Grown; w == nil || w.From != g.size || w.To != size || w.Content != g.kind || w.Filesystem <= size-8*mib || w.Filesystem > size || w.Left != "" {
		t.Errorf("grown: %+v, want %d bytes", w, size)
	}
	return r
}

// checkTable asks others about the partition table, and what the last partition
// is.
func (g *growing) checkTable(t testing.TB, file string, size int64) {
	t.Helper()
	dev, detach := attach(t, file, 0, targetSize, g.sector)
	defer detach()
	switch g.table {
	case "none":
		return
	case "gpt":
		if out := tool(t, "sgdisk", "-v", dev); !strings.Contains(out, "No problems found") {
			t.Error(out)
		}
	}
	tool(t, "sfdisk", "--verify", dev)
	if out := tool(t, "sfdisk", "--dump", dev); !strings.Contains(strings.ReplaceAll(out, " ", ""), fmt.Sprintf("start=%d,size=%d,", g.start/int64(g.sector), size/int64(g.sector))) {
		t.Errorf("the last partition is not %d bytes at %d:\n%s", size, g.start, out)
	}
}

// TestGrowFile: files do as well as block devices, and a disk of the image's
// size stays as it is.
func TestGrowFile(t *testing.T) {
	g := &growing{table: "gpt", sector: 512, kind: "ext4"}
	g.make(t)
	target := messy(t, targetSize)
	r, err := g.install(t, target, install.Options{Grow: true, NoPlan: true, Unused: install.Zero})
	if err != nil || r.Grown == nil || r.Grown.Left != "" {
		t.Fatalf("%+v, %v", r, err)
	}
	g.check(t, target, g.start, r.Grown.To)

	same := filepath.Join(t.TempDir(), "same")
	dev, err := disk.Create(same, g.start+g.size+mib)
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if r, err = g.install(t, same, install.Options{Grow: true, Verify: true}); err != nil || r.Grown.Left != "there is no room behind it" || r.Grown.To != g.size {
			t.Errorf("no room: %+v, %v", r.Grown, err)
		}
	}
	if r.WrittenBytes != 0 {
		t.Errorf("second time: %d bytes written", r.WrittenBytes)
	}
	g.check(t, same, g.start, g.size)
}

// TestGrowTooLittle: what ends with a whole group takes only as much as makes
// another one. Less is left, and no failure: disks of one kind differ by that.
func TestGrowTooLittle(t *testing.T) {
	for name, c := range map[string]struct {
		g            growing
		behind, tail int64
	}{
		"ext4 gpt":        {growing{table: "gpt", sector: 512, kind: "ext4", mkfs: []string{"-b", "4096"}, size: 128 * mib}, mib, mib},
		"ext4 whole disk": {growing{table: "none", sector: 512, kind: "ext4", mkfs: []string{"-b", "4096"}, size: 124 * mib}, mib, 0},
		"xfs whole disk":  {growing{table: "none", sector: 512, kind: "xfs", mkfs: []string{"-d", "agcount=4"}, size: 316 * mib}, 128 << 10, 0},
	} {
		t.Run(name, func(t *testing.T) {
			g := &c.g
			g.make(t)
			target := messy(t, g.start+g.size+c.behind+c.tail)
			r, err := g.install(t, target, install.Options{Grow: true, Verify: true})
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("the %d bytes behind its %s are too few for it", c.behind, g.kind)
			if w := r.Grown; w == nil || w.Left != want || w.Filesystem != 0 || w.To != g.size+c.behind {
				t.Errorf("grown: %+v, want %q", w, want)
			}
			g.check(t, target, g.start, g.size+c.behind)
		})
	}
}

// TestGrowFails: what the kernel will not grow, such as a Btrfs to fewer than
// 256 MiB, leaves a complete disk, and says so; installing again has nothing to
// write and tries again.
func TestGrowFails(t *testing.T) {
	g := &growing{table: "gpt", sector: 512, kind: "btrfs", size: 120 * mib}
	g.make(t)
	target := messy(t, 200*mib)
	for i := range 2 {
		r, err := g.install(t, target, install.Options{Grow: true, Verify: true})
		var ungrown *install.UngrownError
		if !errors.As(err, &ungrown) || ungrown.Partition.Number != 2 || !strings.Contains(err.Error(), "is complete") || !strings.Contains(err.Error(), "fewer than 268435456 bytes") {
			t.Fatalf("error %v", err)
		}
		if i == 1 && r.ChunksInPlace < g.img.Layout.Chunks()-3 {
			t.Errorf("%d of %d chunks in place", r.ChunksInPlace, g.img.Layout.Chunks())
		}
		dev, detach := attach(t, target, g.start, r.Grown.To, g.sector)
		g.sound(t, dev)
		detach()
	}
}
