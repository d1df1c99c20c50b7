package ptable_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/ptable"
)

// rescaled puts the table of a disk onto a copy of it that counts in sectors of
// to bytes.
func rescaled(t *testing.T, disk []byte, from, to int) []byte {
	t.Helper()
	free := func(off int64) bool { return len(bytes.Trim(disk[off:][:to], "\x00")) == 0 }
	head, g, err := ptable.Rescale(disk[:64<<10], from, to, int64(len(disk)), free)
	if err != nil {
		t.Fatal(err)
	}
	out := bytes.Clone(disk)
	clear(out[len(out)-64<<10:]) // the backup of before
	copy(out, head)
	f, err := ptable.Fit(out, to, int64(len(out)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.Head, out[:2*to]) || g.AlternateLBA != uint64(len(out)/to-1) {
		t.Fatalf("the head is not the one for this disk: %+v", g)
	}
	copy(out[f.BackupAt:], f.Backup)
	return out
}

// TestRescaleRoundTrip takes random tables to 4096-byte sectors and back.
func TestRescaleRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range 200 {
		first := 256 + 8*rng.Uint64N(20)
		end := first + 8 + 8*rng.Uint64N(20)
		disk := gptDisk(4096, 512, []int{4, 128, 200}[rng.IntN(3)], [2]uint64{128, 255}, [2]uint64{first, end - 1})
		want, err := read(disk, 512)
		if err != nil {
			t.Fatal(err)
		}
		large := rescaled(t, disk, 512, 4096)
		back := rescaled(t, large, 4096, 512)
		for sector, b := range map[int][]byte{4096: large, 512: back} {
			got, err := read(b, sector)
			if err != nil || got.Repair != nil || len(got.Warnings) > 0 {
				t.Fatalf("%d, sectors of %d: %+v, %v", i, sector, got, err)
			}
			for n, p := range got.Parts {
				if p != want.Parts[n] {
					t.Fatalf("%d, sectors of %d: partition %+v, was %+v", i, sector, p, want.Parts[n])
				}
			}
		}
	}
}

// TestRescaleTail: a partition that ends within a sector ends before it, and no
// other changes.
func TestRescaleTail(t *testing.T) {
	disk := gptDisk(4096, 512, 128, [2]uint64{128, 255}, [2]uint64{256, 1030}, [2]uint64{1032, 1039})
	got, err := read(rescaled(t, disk, 512, 4096), 4096)
	if err != nil {
		t.Fatal(err)
	}
	want := [][2]int64{{128 * 512, 128 * 512}, {256 * 512, 768 * 512}, {1032 * 512, 8 * 512}}
	for i, p := range got.Parts {
		if [2]int64{p.Start, p.Size} != want[i] {
			t.Errorf("partition %d: %d bytes at %d, want %d", p.Number, p.Size, p.Start, want[i])
		}
	}
}

// TestRescaleAgainstSfdisk: what comes out is a sound table to sfdisk and
// sgdisk, on a loop device with such sectors.
func TestRescaleAgainstSfdisk(t *testing.T) {
	disk := rescaled(t, gptDisk(65536, 512, 128, [2]uint64{2048, 8191}, [2]uint64{8192, 60000 - 60000%8 - 1}), 512, 4096)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal("loop devices need root")
		}
		t.Skip("loop devices need root")
	}
	loop := strings.TrimSpace(run(t, "", "losetup", "--find", "--show", "--sector-size", "4096", path))
	defer run(t, "", "losetup", "--detach", loop)
	out := run(t, "", "sfdisk", "--dump", loop)
	for _, want := range []string{"sector-size: 4096", "start=         256, size=         768", "start=        1024, size=        6476"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	verifyGPT(t, loop)
}

func TestRescaleRefuses(t *testing.T) {
	good := func() []byte { return gptDisk(4096, 512, 128, [2]uint64{128, 255}) }
	for name, c := range map[string]struct {
		head []byte
		size int64
		want error
		says string
	}{
		"odd start":       {gptDisk(4096, 512, 128, [2]uint64{129, 255}), 2 << 20, ptable.ErrSectors, "partition 1 begins at byte 66048"},
		"odd end":         {gptDisk(4096, 512, 128, [2]uint64{128, 254}), 2 << 20, ptable.ErrSectors, "its last 3584 bytes up to 130560"},
		"a part of one":   {gptDisk(4096, 512, 128, [2]uint64{256, 262}), 2 << 20, ptable.ErrSectors, "its last 3584 bytes up to 134656"},
		"in the way":      {gptDisk(4096, 512, 128, [2]uint64{40, 255}), 2 << 20, ptable.ErrSectors, "the table ends at 24576"},
		"odd disk":        {good(), 2<<20 + 512, ptable.ErrSectors, "2097664 bytes"},
		"something there": {func() []byte { b := good(); b[20000] = 1; return b }(), 2 << 20, ptable.ErrSectors, "stands at 17408"},
		"hybrid": {func() []byte { b := good(); copy(b[462:], b[446:462]); b[466] = 0x83; b[470] = 1; return b }(), 2 << 20,
			ptable.ErrSectors, "hybrid"},
		"short":   {good()[:20000], 2 << 20, ptable.ErrGPT, "head of 20000"},
		"entries": {func() []byte { b := good(); b[1030]++; return b }(), 2 << 20, ptable.ErrGPT, "CRC"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := ptable.Rescale(c.head, 512, 4096, c.size, func(off int64) bool { return off != 126976 })
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// FuzzRescale: any head gives a table that can be read, or an error.
func FuzzRescale(f *testing.F) {
	f.Add(gptDisk(256, 512, 128, [2]uint64{128, 135})[:40<<10], true)
	f.Add(gptDisk(32, 4096, 128, [2]uint64{8, 9})[:40<<10], false)
	f.Fuzz(func(t *testing.T, b []byte, up bool) {
		from, to := 4096, 512
		if up {
			from, to = to, from
		}
		head, _, err := ptable.Rescale(b, from, to, 1<<30, func(off int64) bool { return off>>12&1 == 0 })
		if err != nil {
			return
		}
		if _, err := ptable.HeadSize(head, to); err != nil || len(head) != len(b) {
			t.Errorf("%d bytes of %d, %v", len(head), len(b), err)
		}
	})
}
