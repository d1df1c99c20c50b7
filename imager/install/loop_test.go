package install_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/disk"
	"huck/imager/disk/disktest"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/ptable"
)

// TestMain lets the mounts of the tests be nobody else's.
func TestMain(m *testing.M) {
	disktest.OwnMounts()
	os.Exit(m.Run())
}

// loop attaches a loop device to a file of size bytes.
func loop(t *testing.T, size int64, sector string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	dev := strings.TrimSpace(tool(t, "losetup", "-f", "--show", "-b", sector, file))
	t.Cleanup(func() { tool(t, "losetup", "-d", dev) })
	return dev
}

// TestBlockDevices installs an image of a disk with 4096-byte sectors on
// another one, larger, and on one with other sectors, which is refused.
func TestBlockDevices(t *testing.T) {
	disktest.NeedRoot(t)
	const size = 8 << 20
	from := loop(t, size, "4096")
	tool(t, "sgdisk", "-n", "1:256:", from)
	b := make([]byte, size)
	d, err := disk.Open(from, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	random(b[1<<20:size-64<<10], 1)
	table, err := ptable.Read(bytes.NewReader(b), size, 4096)
	if err != nil {
		t.Fatal(err)
	}
	src := captureUsed(t, b, image.Manifest{SectorSize: 4096, Table: "gpt", GPT: table.GPT}, func(i int) bool { return i < 6 || i >= 256 && i%7 != 0 && i <= int(table.GPT.LastUsableLBA) })

	to := loop(t, 9<<20+4096, "4096")
	for _, want := range []int{src.Layout.Chunks(), 0} {
		d, err := disk.Open(to, true)
		if err != nil {
			t.Fatal(err)
		}
		j, err := install.New(src.Image, d, install.Options{Verify: true, Unused: install.Discard})
		if err != nil {
			t.Fatal(err)
		}
		r, err := j.Run(t.Context(), install.FromStore(src))
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if got := src.fetched(); got != want || want == 0 && r.WrittenBytes != 0 {
			t.Errorf("fetched %d chunks, want %d: %+v", got, want, r)
		}
	}
	if out := tool(t, "sgdisk", "-v", to); !strings.Contains(out, "No problems found") {
		t.Error(out)
	}

	d, err = disk.Open(loop(t, 9<<20, "512"), true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := install.New(src.Image, d, install.Options{}); !errors.As(err, new(*install.Refused)) {
		t.Errorf("other sectors: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
