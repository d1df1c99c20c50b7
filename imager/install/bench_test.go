package install_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/install"
)

// benchSource is an image of 256 MiB, all used, half of it compressible.
func benchSource(b *testing.B) *source {
	disk := make([]byte, 256<<20)
	random(disk[:32<<20], 1)
	for at := 32 << 20; at < len(disk); at += 32 << 20 {
		copy(disk[at:], disk[:32<<20])
		for r := at; r < at+32<<20; r += region {
			disk[r], disk[r+1] = byte(at>>25), byte(r>>18)
		}
	}
	return captureUsed(b, disk, image.Manifest{SectorSize: 512, Table: "none"}, func(int) bool { return true })
}

func benchmark(b *testing.B, src *source, dev disk.Device, opt install.Options) {
	b.SetBytes(src.Layout.UsedBytes())
	for b.Loop() {
		j, err := install.New(src.Image, dev, opt)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := j.Run(context.Background(), install.FromStore(src)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecode is all of an installation but the disk.
func BenchmarkDecode(b *testing.B) {
	src := benchSource(b)
	benchmark(b, src, nullDisk{src.Manifest.DiskSize}, install.Options{NoPlan: true})
}

// BenchmarkFile writes to a file that is there, as dd oflag=direct conv=fsync
// conv=notrunc would.
func BenchmarkFile(b *testing.B) {
	src := benchSource(b)
	dev := benchFile(b, src)
	benchmark(b, src, dev, install.Options{NoPlan: true})
}

// BenchmarkPlan finds everything in place.
func BenchmarkPlan(b *testing.B) {
	src := benchSource(b)
	benchmark(b, src, newDiskOf(src.disk, src.Manifest.DiskSize), install.Options{})
}

// BenchmarkVerifyFile reads a file back that is not in memory.
func BenchmarkVerifyFile(b *testing.B) {
	src := benchSource(b)
	dev := benchFile(b, src)
	j, err := install.New(src.Image, dev, install.Options{NoPlan: true})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := j.Run(context.Background(), install.FromStore(src)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(src.Layout.UsedBytes())
	for b.Loop() {
		if err := dev.Sync(); err != nil {
			b.Fatal(err)
		}
		if r, err := install.Verify(context.Background(), src.Image, dev, nil); err != nil || !r.Equal() {
			b.Fatal(r, err)
		}
	}
}

func benchFile(b *testing.B, src *source) disk.Device {
	path := filepath.Join(b.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, src.Manifest.DiskSize), 0o600); err != nil {
		b.Fatal(err)
	}
	dev, err := disk.Open(path, true)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { dev.Close() })
	return dev
}

// BenchmarkPlanBlank compares a disk of zeros, of which nothing is in place.
func BenchmarkPlanBlank(b *testing.B) {
	src := benchSource(b)
	dev := newDisk(src.Manifest.DiskSize)
	b.SetBytes(src.Layout.UsedBytes())
	for b.Loop() {
		if r, err := install.Verify(context.Background(), src.Image, dev, nil); err != nil || r.Equal() {
			b.Fatal(r, err)
		}
	}
}
