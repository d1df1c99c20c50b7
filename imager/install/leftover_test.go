package install_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/image"
	"huck/imager/install"
)

// earlierLife puts on a disk what other content is recognised by, for a
// partition of size bytes at its start.
func earlierLife(b []byte, size int) {
	le := binary.LittleEndian
	for at, magic := range map[int]string{
		4096: "\xfc\x4e\x2b\xa9\x01", 64<<10 + 64: "_BHRfS_M", 64<<10 - 10: "SWAPSPACE2",
		size - 8192: "\xfc\x4e\x2b\xa9\x01", size - 64<<10: "\xfc\x4e\x2b\xa9\x00", size - 4096 + 60: "\x83\x74\x02\x6d",
		size - 1024: "Intel Raid ISM Cfg Sig. ", 16 << 10: "SKUL\xba\xbe\x00\x02", 32 << 10: "SKUL\xba\xbe\x00\x02",
	} {
		copy(b[at:], magic)
	}
	le.PutUint64(b[4096+144:], 8)
	le.PutUint64(b[size-8192+144:], uint64(size-8192)/512)
	for _, label := range []int{0, 256 << 10, size - 512<<10, size - 256<<10} {
		for slot := 128 << 10; slot < 256<<10; slot += 1 << 10 {
			le.PutUint64(b[label+slot:], 0x00bab10c)
		}
	}
}

// TestLeftovers puts swap space, which uses only its first page, where a mirror,
// a ZFS and others were before. blkid must find the swap space, and nothing
// else of the unused blocks may have changed.
func TestLeftovers(t *testing.T) {
	const size = 8 << 20
	file := filepath.Join(t.TempDir(), "swap")
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkswap", "-U", "11111111-2222-3333-4444-555555555555", file)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	man := image.Manifest{SectorSize: 512, Table: "none", Partitions: []image.Partition{{Size: size, Content: "swap"}}}
	src := captureUsed(t, b, man, func(block int) bool { return block == 0 })
	for _, target := range []int64{size, size + 1<<20} {
		for _, same := range []bool{false, true} {
			dev := newDisk(target)
			for i := range dev.b {
				dev.b[i] = 0xaa
			}
			earlierLife(dev.b, size)
			if target > size {
				earlierLife(dev.b, int(target))
			}
			if same {
				copy(dev.b, b[:block]) // there is nothing else to write
			}
			before := append([]byte(nil), dev.b...)
			mustRun(t, src, dev, install.Options{Verify: true})
			changed := 0
			for i := block; i < len(before); i++ {
				if before[i] == dev.b[i] {
					continue
				}
				if changed++; dev.b[i] != 0 {
					t.Fatalf("byte %d has become %#x", i, dev.b[i])
				}
			}
			if changed == 0 || changed > 10000 {
				t.Errorf("%d unused bytes have changed", changed)
			}
			if err := os.WriteFile(file, dev.b, 0o600); err != nil {
				t.Fatal(err)
			}
			if out := tool(t, "blkid", "-p", file); !strings.Contains(out, `TYPE="swap"`) {
				t.Errorf("target of %d bytes: blkid says %s", target, out)
			}
		}
	}
}

// TestLeftoversInUse has the same magic numbers in blocks that the image uses:
// they stay.
func TestLeftoversInUse(t *testing.T) {
	b := make([]byte, 4<<20)
	random(b, 3)
	earlierLife(b, len(b))
	man := image.Manifest{SectorSize: 512, Table: "none", Partitions: []image.Partition{{Size: int64(len(b)), Content: "unknown"}}}
	src := captureUsed(t, b, man, func(int) bool { return true })
	dev := newDiskOf(b, int64(len(b)))
	if r := mustRun(t, src, dev, install.Options{Verify: true}); r.WrittenBytes != 0 {
		t.Errorf("%d bytes written to a disk that is in place", r.WrittenBytes)
	}
	checkUsed(t, src, dev.b)
}

// TestLeftoverLUKS has swap space where LUKS was: of its two headers mkswap and
// an image of what that made overwrite the first.
func TestLeftoverLUKS(t *testing.T) {
	dir := t.TempDir()
	file, key, swap := filepath.Join(dir, "luks"), filepath.Join(dir, "key"), filepath.Join(dir, "swap")
	for name, size := range map[string]int64{file: 32 << 20, key: 32, swap: 32 << 20} {
		if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tool(t, "cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", key, file)
	tool(t, "mkswap", swap)
	b, err := os.ReadFile(swap)
	if err != nil {
		t.Fatal(err)
	}
	man := image.Manifest{SectorSize: 512, Table: "none", Partitions: []image.Partition{{Size: int64(len(b)), Content: "swap"}}}
	src := captureUsed(t, b, man, func(block int) bool { return block == 0 })
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dev := newDiskOf(before, int64(len(before)))
	mustRun(t, src, dev, install.Options{})
	if err := os.WriteFile(file, dev.b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := tool(t, "blkid", "-p", file); !strings.Contains(out, `TYPE="swap"`) {
		t.Errorf("blkid says %s", out)
	}
}
