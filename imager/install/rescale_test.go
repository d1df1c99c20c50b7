package install_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/install"
)

// rescaledInstall puts the image on a device whose sectors may be others.
func (g *growing) rescaledInstall(t *testing.T, path string, opt install.Options) (r apiResult, err error) {
	t.Helper()
	dev, err := disk.Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	fit, err := install.Rescale(t.Context(), g.img, dev, opt, func(ctx context.Context, n uint32) ([]byte, error) {
		return g.store.Chunk(ctx, g.img.Layout.ID(n))
	})
	if err != nil {
		return r, err
	}
	j, err := install.New(fit.Image, dev, opt)
	if err != nil {
		return r, err
	}
	if r, err = j.Run(t.Context(), fit.Transport(install.ViaStore, install.FromStore(g.store))); err != nil {
		return r, err
	}
	report, err := install.Verify(t.Context(), fit.Image, dev, nil)
	if err == nil && !report.Equal() && !opt.Grow { // a grown filesystem is another one
		err = fmt.Errorf("differs: %+v", report)
	}
	return r, err
}

// TestRealSectors: a GPT disk with 512-byte sectors on one with 4096-byte ones
// and back, also with a tail that no sector of 4096 bytes has, grown there; sgdisk,
// e2fsck and the kernel judge.
func TestRealSectors(t *testing.T) {
	for _, c := range []struct {
		from, to int
		tail     int64
	}{{512, 4096, 0}, {512, 4096, 1536}, {4096, 512, 0}} {
		t.Run(fmt.Sprintf("%d to %d, %d over", c.from, c.to, c.tail), func(t *testing.T) {
			g := &growing{table: "gpt", sector: c.from, kind: "ext4", mkfs: []string{"-q", "-b", "4096"}, size: 64*mib + c.tail}
			g.make(t)
			more := 40*mib - c.tail
			file := messy(t, g.source+more)
			path, detach := attach(t, file, 0, g.source+more, c.to)
			for i, grow := range []bool{false, false, true} {
				r, err := g.rescaledInstall(t, path, install.Options{Verify: true, Grow: grow})
				if err != nil {
					t.Fatal(err)
				}
				if i == 1 && r.WrittenBytes != 0 {
					t.Errorf("%d bytes written to a disk that has the image", r.WrittenBytes)
				}
			}
			if out := tool(t, "sgdisk", "-v", path); !strings.Contains(out, "No problems found") {
				t.Errorf("sgdisk: %s", out)
			}
			detach()
			size := int64(g.source + more)
			grown := (size-64<<10)/mib*mib - g.start
			g.sector = c.to
			g.check(t, file, g.start, grown)
		})
	}
}

// TestRescaleRefuses says why, before anything is written.
func TestRescaleRefuses(t *testing.T) {
	part := func(content string, max int, start int64) image.Partition {
		return image.Partition{Number: 2, Start: start, Size: mib, Content: content, MaxSector: max}
	}
	for name, c := range map[string]struct {
		table string
		part  image.Partition
		want  string
	}{
		"MBR":              {"mbr", part("ext4", 4096, mib), "an MBR"},
		"system partition": {"gpt", part("vfat", 512, mib), "those its vfat was made for 512 (partition 2 (vfat)"},
		"small blocks":     {"gpt", part("ext4", 1024, mib), "those its ext4 was made for 1024"},
		"unknown":          {"gpt", part("unknown", 0, mib), "is not known"},
		"between two":      {"gpt", part("ext4", 4096, mib+512), "no multiple of 4096"},
		"used tail":        {"gpt", image.Partition{Number: 2, Start: mib, Size: mib - 512, Content: "ext4", MaxSector: 4096}, "uses its last 3584 bytes"},
		"free tail":        {"gpt", image.Partition{Number: 2, Start: mib, Size: mib + 512, Content: "ext4", MaxSector: 4096}, ""},
		"on both grids":    {"gpt", part("ext4", 4096, mib), ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := partitioned(t, 4*mib, c.part)
			man := image.Manifest{SectorSize: 512, Table: c.table, Partitions: []image.Partition{c.part}}
			if c.table == "gpt" {
				man.GPT = &image.GPT{AlternateLBA: 4*mib/512 - 1, LastUsableLBA: 4*mib/512 - 34, ProtectiveSize: 4*mib/512 - 1}
			}
			src := captureUsed(t, b, man, func(i int) bool { return i < 512 })
			dev := newDisk(8 * mib)
			dev.sector = 4096
			fit, err := install.Rescale(t.Context(), src.Image, dev, install.Options{}, func(ctx context.Context, n uint32) ([]byte, error) {
				return src.encoded(n), nil
			})
			if c.want == "" {
				if err != nil || fit.Manifest.SectorSize != 4096 || fit.Digest != src.Digest || fit.Manifest.Partitions[0].Size != mib {
					t.Errorf("%+v, %v", fit, err)
				}
				if src.Manifest.Partitions[0].Size != c.part.Size {
					t.Error("the image has been changed")
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, new(*install.Refused)) {
				t.Errorf("error %v", err)
			}
			if dev.writes != 0 {
				t.Errorf("%d writes", dev.writes)
			}
		})
	}
}

// partitioned is a disk of size bytes on which sgdisk has made a partition.
func partitioned(t *testing.T, size int64, p image.Partition) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "sgdisk", "-a", "1", "-n", fmt.Sprintf("%d:%d:%d", p.Number, p.Start/512, (p.Start+p.Size)/512-1), file)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRescaleNotNeeded: where sectors are equal, or the target is a file,
// nothing is fetched and nothing changes.
func TestRescaleNotNeeded(t *testing.T) {
	src := captureUsed(t, make([]byte, mib), image.Manifest{SectorSize: 512, Table: "none"}, func(i int) bool { return i < 8 })
	for _, sector := range []int{0, 512, 4096} {
		dev := newDisk(mib)
		dev.sector = sector
		fit, err := install.Rescale(t.Context(), src.Image, dev, install.Options{}, func(context.Context, uint32) ([]byte, error) {
			return nil, os.ErrInvalid
		})
		if err != nil || fit.Image != src.Image {
			t.Errorf("sectors of %d: %v", sector, err)
		}
	}
}
