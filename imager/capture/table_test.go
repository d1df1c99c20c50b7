package capture_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/capture"
	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/store"
)

// TestDamagedGPT damages one GPT of a disk in several ways. The image must be
// that of the sound disk.
func TestDamagedGPT(t *testing.T) {
	tree := makeTree(t, 1)
	path := gptDisk(t, tree)
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	want := run(t, capture.Config{Device: openDisk(t, path), Store: s})
	if len(want.Warnings) != 0 {
		t.Errorf("warnings %q of a sound disk", want.Warnings)
	}
	for name, c := range map[string]struct {
		at, n int64
		warns string
	}{
		"primary header":  {512, 512, "the primary GPT is damaged"},
		"primary entries": {1024, 512, "the primary GPT is damaged"},
		"all of it":       {512, 33 * 512, "the primary GPT is damaged"},
		"backup header":   {52*mib - 512, 512, "the backup GPT is damaged"},
		"backup entries":  {52*mib - 33*512, 512, "the backup GPT is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(sound)
			garbage(b[c.at:c.at+c.n], 5)
			path := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			r := run(t, capture.Config{Device: openDisk(t, path), Store: s})
			if all := strings.Join(r.Warnings, "\n"); !strings.Contains(all, c.warns) {
				t.Errorf("warnings %q, want %q", all, c.warns)
			}
			if r.Digest != want.Digest || r.NewBytes != 0 {
				t.Errorf("%+v, of the sound disk %+v", r, want)
			}
			if line, err := r.MarshalJSON(); err != nil || !strings.Contains(string(line), `"warnings":["partition table: `+c.warns) {
				t.Errorf("%s, error %v", line, err)
			}
		})
	}
	for _, grow := range []int64{0, 3*mib + 512} {
		installed := installFrom(t, s, want.Digest, int64(len(sound))+grow)
		if out := tool(t, "sgdisk", "-v", installed); !strings.Contains(out, "No problems found") {
			t.Errorf("sgdisk: %s", out)
		}
		wantTree(t, extract(t, installed, 9, 32), tree)
	}
}

// TestUnreadableGPT has the bad sectors of a dying disk in its primary GPT.
func TestUnreadableGPT(t *testing.T) {
	path := gptDisk(t, makeTree(t, 1))
	s := newStore(t)
	sound := run(t, capture.Config{Device: openDisk(t, path), Store: s})
	dev := &flaky{Device: openDisk(t, path), bad: []image.Extent{{Start: 512, Size: 512}}}
	if _, err := capture.Run(t.Context(), capture.Config{Device: dev, Store: s, Name: "x"}); err == nil {
		t.Error("a bad sector is no error")
	}
	r := run(t, capture.Config{Device: dev, Store: s, SkipBad: true})
	installed := installFrom(t, s, r.Digest, 52*mib)
	if out := tool(t, "sgdisk", "-v", installed); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk: %s", out)
	}
	sameBytes(t, path, installed, 0, 1024+16384) // the table has 3072 bytes in that block, and all are known
	if r.BadBytes != 4096 || r.ImageBytes != sound.ImageBytes {
		t.Errorf("%+v", r)
	}
}

// installFrom installs an image on a new file of size bytes full of garbage and
// reads it back.
func installFrom(t *testing.T, s store.Store, digest image.ID, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "installed")
	b := make([]byte, size)
	garbage(b, 77)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tryInstall(t, s, digest, path); err != nil {
		t.Fatalf("install on %d bytes: %v", size, err)
	}
	return path
}

func tryInstall(t *testing.T, s store.Store, digest image.ID, path string) error {
	t.Helper()
	img, err := store.OpenImage(t.Context(), s, digest)
	if err != nil {
		t.Fatal(err)
	}
	dev, err := disk.Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	j, err := install.New(img, dev, install.Options{Verify: true})
	if err != nil {
		return err
	}
	_, err = j.Run(t.Context(), install.FromStore(s))
	return err
}

// TestSectors4096 captures a file that holds a disk with sectors of 4096 bytes,
// sound and with its primary GPT lost.
func TestSectors4096(t *testing.T) {
	tree := makeTree(t, 4)
	path := makeDisk(t, 40, "", part{1, 32, ext4(tree)})
	tool(t, "truncate", "-s", "40M", path)
	toolInput(t, "g\nn\n1\n256\n+32M\nw\n", "fdisk", "-b", "4096", "-w", "never", "-W", "never", path)
	s := newStore(t)
	want := run(t, capture.Config{Device: openDisk(t, path), Store: s})
	patch(t, path, 4096, make([]byte, 3*4096))
	got := run(t, capture.Config{Device: openDisk(t, path), Store: s})
	if got.Digest != want.Digest || len(got.Warnings) != 1 {
		t.Errorf("%+v, of the sound disk %+v", got, want)
	}
	installed := installFrom(t, s, got.Digest, 44*mib)
	if out := toolInput(t, "v\nq\n", "fdisk", "-b", "4096", installed); !strings.Contains(out, "No errors detected") {
		t.Errorf("fdisk: %s", out)
	}
	wantTree(t, extract(t, installed, 1, 32), tree)
}

// TestMovedEntries has the table's entries away from its header, as boards need
// it whose boot code stands there.
func TestMovedEntries(t *testing.T) {
	path := makeDisk(t, 20, "label: gpt\nstart=8MiB, size=4MiB, type=L\n")
	tool(t, "sgdisk", "--move-main-table=4096", path)
	patch(t, path, 16*512, []byte("boot code of the board"))
	s := newStore(t)
	want := run(t, capture.Config{Device: openDisk(t, path), Store: s})
	patch(t, path, 512, make([]byte, 512))
	got := run(t, capture.Config{Device: openDisk(t, path), Store: s})
	if got.Digest != want.Digest || len(got.Warnings) != 1 {
		t.Errorf("%+v, of the sound disk %+v", got, want)
	}
	installed := installFrom(t, s, got.Digest, 17*mib)
	if out := tool(t, "sgdisk", "-v", installed); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk: %s", out)
	}
	sameBytes(t, path, installed, 16*512, 512)
	sameBytes(t, path, installed, 8*mib, 4*mib)
}

// TestBehindTheLastPartition has garbage right behind the last partition, in
// the block where that ends. Whether it lies in usable sectors or between these
// and the backup GPT, the image installs and verifies on disks of any size.
func TestBehindTheLastPartition(t *testing.T) {
	for name, lastLBA := range map[string]string{"all usable": "", "little usable": "last-lba: 6146\n"} {
		t.Run(name, func(t *testing.T) {
			const end = (2048 + 4097) * 512 // one sector into its block
			path := makeDisk(t, 4, "label: gpt\n"+lastLBA+"start=2048, size=4097, type=L\n")
			s := newStore(t)
			r := run(t, capture.Config{Device: openDisk(t, path), Store: s})
			least := int64(end + 7*512 + 33*512)
			if lastLBA != "" { // as many sectors stay reserved as there were
				least = 4 * mib
			}
			for size := least; size < least+16*512; size += 512 {
				installed := installFrom(t, s, r.Digest, size)
				sameBytes(t, path, installed, mib, end-mib)
			}
			garbage := filepath.Join(t.TempDir(), "small")
			if err := os.WriteFile(garbage, make([]byte, least-512), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := tryInstall(t, s, r.Digest, garbage); !errors.As(err, new(*install.Refused)) {
				t.Errorf("on a disk too small: %v", err)
			}
		})
	}
}

// TestUnsoundTables are disks that only a raw capture of all takes.
func TestUnsoundTables(t *testing.T) {
	loop := makeDisk(t, 8, "label: dos\nstart=1MiB, size=6MiB, type=5\nstart=2MiB, size=1MiB\nstart=4MiB, size=1MiB\n")
	ebr := make([]byte, 512)
	binary.LittleEndian.PutUint32(ebr[446+8:], 1)
	binary.LittleEndian.PutUint32(ebr[446+12:], 1)
	ebr[446+4], ebr[462+4], ebr[462+12], ebr[510], ebr[511] = 0x83, 5, 9, 0x55, 0xaa // the next one is the first
	patch(t, loop, mib, ebr)
	reserve := makeDisk(t, 8, "label: gpt\nstart=1MiB, size=1MiB\n")
	b, err := os.ReadFile(reserve)
	if err != nil {
		t.Fatal(err)
	}
	h := b[512 : 512+92]
	binary.LittleEndian.PutUint64(h[48:], 8*mib/512-2) // partitions may reach up to the backup header
	clear(h[16:20])
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	patch(t, reserve, 512, h)
	patch(t, reserve, 8*mib-512, make([]byte, 512))
	for path, says := range map[string]string{loop: "comes back to sector 2048", reserve: "lets partitions reach sector 16382"} {
		s := newStore(t)
		var refused *capture.Refused
		for _, cfg := range []capture.Config{{}, {Force: true}, {Raw: []int{1}}} {
			cfg.Device, cfg.Store, cfg.Name = openDisk(t, path), s, "x"
			if _, err := capture.Run(t.Context(), cfg); !errors.As(err, &refused) || !strings.Contains(refused.Why, says) {
				t.Errorf("error %v, want %q", err, says)
			}
		}
		r := run(t, capture.Config{Device: openDisk(t, path), Store: s, RawAll: true})
		if r.ImageBytes != 8*mib || !strings.Contains(fmt.Sprint(r.Warnings), "one without a table") {
			t.Errorf("%+v", r)
		}
		sameBytes(t, path, installFrom(t, s, r.Digest, 8*mib), 0, 8*mib)
	}
}

// TestLVM has a physical volume in a partition: what of it is used is taken,
// and what is odd about its logical volumes is said.
func TestLVM(t *testing.T) {
	z, err := os.Open("../usedmap/lvm/testdata/linear.img.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	r, err := gzip.NewReader(z)
	if err != nil {
		t.Fatal(err)
	}
	pv, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	const extent = 64 << 10
	copy(pv[4*extent:], "content of volume two, which begins in extent 3; the extents begin at 64 KiB")
	path := makeDisk(t, 6, "label: gpt\nstart=1MiB, size=2MiB, type=E6D6D379-F507-44C2-A23C-238F2A3DF928\n")
	patch(t, path, mib, pv)
	s := newStore(t)
	res := run(t, capture.Config{Device: openDisk(t, path), Store: s})
	if len(res.Warnings) != 2 || !strings.Contains(res.Warnings[0], "partition 1 (LVM2_member): logical volume vg0/one (empty) taken whole") {
		t.Errorf("warnings %q", res.Warnings)
	}
	installed, img := restore(t, s, res.Digest)
	if p := img.Manifest.Partitions[0]; p.Content != "LVM2_member" || p.Whole != "" || p.UsedBytes != 8*extent {
		t.Errorf("%+v", p)
	}
	sameBytes(t, path, installed, mib, 8*extent)
	if used(img, mib+8*extent) {
		t.Error("a free extent is in the image")
	}
	force := run(t, capture.Config{Device: openDisk(t, path), Store: s, Raw: []int{1}})
	if _, img := restore(t, s, force.Digest); img.Manifest.Partitions[0].UsedBytes != 2*mib {
		t.Errorf("raw: %+v", img.Manifest.Partitions)
	}
}
