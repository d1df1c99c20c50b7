package install_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/ptable"
)

// handMade is an image with a table that sgdisk or sfdisk has made, whose
// partitions hold what content says.
func handMade(t testing.TB, size int64, script string, content ...string) *source {
	t.Helper()
	b := make([]byte, size)
	random(b[mib:], 7)
	clear(b[size-64<<10:])
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	toolInput(t, script, "sfdisk", "--no-reread", "--no-tell-kernel", file)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	table, err := ptable.Read(bytes.NewReader(b), size, 512)
	if err != nil {
		t.Fatal(err)
	}
	man := image.Manifest{SectorSize: 512, Table: table.Kind, GPT: table.GPT}
	for i, p := range table.Parts {
		man.Partitions = append(man.Partitions, image.Partition{Number: p.Number, Start: p.Start, Size: p.Size, Content: content[i]})
	}
	last := table.Parts[len(table.Parts)-1]
	return captureUsed(t, b, man, func(i int) bool {
		return i < 9 || i*block >= mib && i%24 != 4 && int64(i*block) < last.Start+last.Size
	})
}

// TestGrowTable grows partitions whose content is not ours to grow, in tables
// of all kinds, in memory.
func TestGrowTable(t *testing.T) {
	const size = 8 * mib
	gpt := "label: gpt\nstart=2048,size=2048\nstart=4096,size=6144\n"
	far := "label: gpt\n40: start=4096,size=6144\n" // its entry is not in the first block
	mbr := "label: dos\nstart=2048,size=2048,type=c\nstart=4096,size=6144,type=83\n"
	for name, c := range map[string]struct {
		script  string
		content []string
		target  int64
		grows   int64  // to, 0 for not at all
		left    string // in Grown.Left
	}{
		"gpt":               {gpt, []string{"vfat", "ntfs"}, 12 * mib, 9 * mib, "its ntfs is left"},
		"gpt, odd end":      {gpt, []string{"vfat", "ntfs"}, 12*mib + 512, 9 * mib, "its ntfs"},
		"gpt, room enough":  {gpt, []string{"vfat", "crypto_LUKS"}, 12*mib + 17<<10, 10 * mib, "crypto_LUKS"},
		"gpt, same disk":    {gpt, []string{"vfat", "LVM2_member"}, size, 5 * mib, "LVM2_member"},
		"gpt, entry 40":     {far, []string{"ntfs"}, 12 * mib, 9 * mib, "ntfs"},
		"gpt, swap":         {gpt, []string{"ext4", "swap"}, 12 * mib, 0, "it holds swap, which cannot be grown"},
		"gpt, RAID":         {gpt, []string{"ext4", "linux_raid_member"}, 12 * mib, 0, "linux_raid_member"},
		"gpt, unknown":      {gpt, []string{"ext4", "unknown"}, 12 * mib, 0, "unknown"},
		"mbr":               {mbr, []string{"vfat", "ntfs"}, 12 * mib, 10 * mib, "its ntfs is left"},
		"mbr, no room":      {mbr, []string{"vfat", "ntfs"}, 5*mib + 512, 0, "no room"},
		"mbr, logical":      {"label: dos\nstart=2048,size=2048,type=c\nstart=4096,size=6144,type=5\nstart=6144,size=2048,type=83\n", []string{"vfat", "ntfs"}, 12 * mib, 0, "logical"},
		"gpt, out of order": {"label: gpt\nstart=8192,size=2048\nstart=4096,size=2048\n", []string{"vfat", "ntfs"}, 12 * mib, 7 * mib, "ntfs"},
	} {
		t.Run(name, func(t *testing.T) {
			src := handMade(t, size, c.script, c.content...)
			last := src.Manifest.Partitions[len(src.Manifest.Partitions)-1]
			dev := newDisk(c.target)
			random(dev.b, 3)
			r := mustRun(t, src, dev, install.Options{Grow: true, Verify: true})
			to := c.grows
			if to == 0 {
				to = last.Size
			}
			if r.Grown.Partition != last.Number || r.Grown.From != last.Size || r.Grown.To != to || !strings.Contains(r.Grown.Left, c.left) {
				t.Errorf("grown %+v, want %d bytes and %q", r.Grown, to, c.left)
			}
			table, err := ptable.Read(bytes.NewReader(dev.b), c.target, 512)
			if err != nil || len(table.Warnings) > 0 {
				t.Fatalf("table %+v, %v", table, err)
			}
			if p := table.Parts[len(table.Parts)-1]; p.Number != last.Number || p.Start != last.Start || p.Size != to {
				t.Errorf("partition %+v, want %d bytes", p, to)
			}
			dev.written = 0
			if r := mustRun(t, src, dev, install.Options{Grow: true, Verify: true}); dev.written != 0 || r.Grown.To != to {
				t.Errorf("again: %+v, %d bytes written", r, dev.written)
			}
			dev.b[3*mib]++ // only a region elsewhere: the head is kept and fitted again
			if mustRun(t, src, dev, install.Options{Grow: true, Verify: true}); src.fetched() == 0 {
				t.Error("nothing fetched")
			}
			mustRun(t, src, dev, install.Options{Verify: true})
			if table, err = ptable.Read(bytes.NewReader(dev.b), c.target, 512); err != nil || table.Parts[len(table.Parts)-1].Size != last.Size {
				t.Errorf("not grown again: %+v, %v", table, err)
			}
		})
	}
}

// TestGrowPowerCut: a disk that boots has the grown table whole, and a cut
// anywhere mends with the next installation.
func TestGrowPowerCut(t *testing.T) {
	for name, script := range map[string]string{
		"gpt":           "label: gpt\nstart=2048,size=2048\n",
		"gpt, entry 40": "label: gpt\n40: start=2048,size=2048\n",
		"mbr":           "label: dos\nstart=2048,size=2048,type=83\n",
	} {
		t.Run(name, func(t *testing.T) {
			src := handMade(t, 3*mib, script, "ntfs")
			old := newDisk(5 * mib)
			mustRun(t, src, old, install.Options{})
			for cut := 1; ; cut++ {
				dev := newDiskOf(old.b, 5*mib)
				dev.cutAt(cut, uint64(cut))
				_, err := run(t, src, dev, install.Options{Grow: true})
				if !dev.powerOn() {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				if bootable(dev.b) {
					// The table as it was, or as it is to be.
					table, err := ptable.Read(bytes.NewReader(dev.b), 5*mib, 512)
					if err != nil || table.Kind != "none" && len(table.Parts) != 1 {
						t.Fatalf("cut %d: %+v, %v", cut, table, err)
					}
				}
				if _, err := run(t, src, dev, install.Options{Grow: true, Verify: true}); err != nil {
					t.Fatalf("cut %d: going on: %v", cut, err)
				}
			}
		})
	}
}

// TestGrowRefused: what is known to fail is said before the first write.
func TestGrowRefused(t *testing.T) {
	src := handMade(t, 8*mib, "label: gpt\nstart=4096,size=6144\n", "xfs")
	dev := newDisk(12 * mib) // nothing that could be mounted
	_, err := run(t, src, dev, install.Options{Grow: true})
	if refused := (*install.Refused)(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "partition 1 (xfs) takes root") || dev.writes != 0 {
		t.Errorf("error %v after %d writes", err, dev.writes)
	}
}

// TestGrowOtherTable: a table that does not say of the partition what the
// manifest does cannot be changed. The disk is complete all the same.
func TestGrowOtherTable(t *testing.T) {
	for _, script := range []string{"label: gpt\nstart=4096,size=6144\n", "label: dos\nstart=4096,size=6144,type=7\n"} {
		src := handMade(t, 8*mib, script, "ntfs")
		man := *src.Manifest
		man.Partitions = []image.Partition{{Number: 1, Start: 2 * mib, Size: 2 * mib, Content: "ntfs"}}
		src.Image = finishImage(t, &image.Map{Entries: src.Layout.Entries()}, man, 8*mib)
		dev := newDisk(12 * mib)
		for range 2 {
			r, err := run(t, src, dev, install.Options{Grow: true, Verify: true})
			var ungrown *install.UngrownError
			if !errors.As(err, &ungrown) || !errors.Is(err, ptable.ErrResize) || r.Grown.To != 2*mib {
				t.Fatalf("%+v, %v", r.Grown, err)
			}
			if !verify(t, src, dev).Equal() || !bootable(dev.b) {
				t.Error("the disk is not complete")
			}
		}
	}
}

// TestGrowLimit: a GPT's partition takes all of a large disk, an MBR's what an
// MBR can speak of.
func TestGrowLimit(t *testing.T) {
	const tib = 1 << 40
	for script, end := range map[string]int64{
		"label: gpt\nstart=4096,size=6144\n":        3*tib - mib,
		"label: dos\nstart=4096,size=6144,type=7\n": 2*tib - mib,
	} {
		src := handMade(t, 8*mib, script, "ntfs")
		dev, err := disk.Create(filepath.Join(t.TempDir(), "disk"), 3*tib)
		if err != nil {
			t.Fatal(err)
		}
		defer dev.Close() // what counts is read before
		j, err := install.New(src.Image, dev, install.Options{Grow: true})
		if err != nil {
			t.Fatal(err)
		}
		r, err := j.Run(t.Context(), install.FromStore(src))
		if err != nil || r.Grown.To != end-2*mib {
			t.Fatalf("%+v, %v", r.Grown, err)
		}
		table, err := ptable.Read(dev, 3*tib, 512)
		if err != nil || len(table.Parts) != 1 || table.Parts[0].Size != end-2*mib {
			t.Errorf("%+v, %v", table, err)
		}
	}
}
