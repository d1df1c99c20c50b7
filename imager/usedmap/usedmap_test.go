package usedmap_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/usedmap"
)

func TestSwap(t *testing.T) {
	for _, page := range []string{"4096", "8192", "65536"} {
		path := newFile(t, 8*mib)
		run(t, "mkswap", "-p", page, "-L", "swap-label", "-U", "b3b1a2c4-1111-4000-8000-000000000001", path)
		used := mustProbe(t, path, "swap")
		res, err := probe(t, path)
		if err != nil || res.UUID != "b3b1a2c4-1111-4000-8000-000000000001" || res.Label != "swap-label" {
			t.Errorf("%+v, error %v", res, err)
		}
		if used.Bytes() != number(t, page) {
			t.Errorf("%d bytes used of pages of %s", used.Bytes(), page)
		}
		copied := garbageCopy(t, path, used)
		if a, b := run(t, "blkid", "-p", "-o", "export", path), run(t, "blkid", "-p", "-o", "export", copied); strings.ReplaceAll(b, copied, path) != a {
			t.Errorf("blkid says\n%s\nof the copy\n%s", a, b)
		}
		patch(t, path, number(t, page)-10, func(b []byte) { copy(b, "S1SUSPEND\x00") })
		wantRefused(t, path, "hibernated")
	}
}

func TestSwapWhole(t *testing.T) {
	for want, edit := range map[string]func(b []byte){
		"of a version":  func(b []byte) { b[0] = 2 },
		"the partition": func(b []byte) { b[6] = 1 },
	} {
		path := newFile(t, 8*mib)
		run(t, "mkswap", path)
		patch(t, path, 1024, edit)
		if res, err := probe(t, path); err != nil || res.Used != nil || !strings.Contains(res.Whole, want) {
			t.Errorf("%+v, error %v, want %q", res, err, want)
		}
	}
	path := newFile(t, 8*mib)
	patch(t, path, 4086, func(b []byte) { copy(b, "SWAP-SPACE") })
	if res, err := probe(t, path); err != nil || res.Content != "swap" || res.Used != nil {
		t.Errorf("%+v, error %v", res, err)
	}
}

// TestNamed has the real tools make what is known by name only.
func TestNamed(t *testing.T) {
	for _, c := range []struct {
		content, uuid, label string
		size                 int64
		cmd                  string // the path follows
	}{
		{"crypto_LUKS", "b3b1a2c4-1111-4000-8000-000000000001", "", 32 * mib,
			"cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file KEY --uuid b3b1a2c4-1111-4000-8000-000000000001"},
	} {
		t.Run(c.content, func(t *testing.T) {
			path := newFile(t, c.size)
			key := newFile(t, 32)
			cmd := strings.Fields(strings.ReplaceAll(c.cmd, "KEY", key))
			run(t, cmd[0], append(cmd[1:], path)...)
			res, err := probe(t, path)
			if err != nil || res.Content != c.content || res.UUID != c.uuid || res.Label != c.label {
				t.Errorf("%+v, error %v", res, err)
			}
			if res.Used != nil || !strings.Contains(res.Whole, c.content) {
				t.Errorf("%+v", res)
			}
		})
	}
}

// TestSignatures has what its makers make only as root or not at all.
func TestSignatures(t *testing.T) {
	md := "\xfc\x4e\x2b\xa9"
	for name, c := range map[string]struct {
		content string
		size    int
		marks   map[int]string
	}{
		"lvm":               {"LVM2_member", mib, map[int]string{512: "LABELONE", 536: "LVM2 001"}},
		"md 1.1":            {"linux_raid_member", mib, map[int]string{0: md + "\x01"}},
		"md 1.2":            {"linux_raid_member", mib, map[int]string{4096: md + "\x01"}},
		"md 1.0":            {"linux_raid_member", mib + 512, map[int]string{mib - 8192: md + "\x01"}},
		"md 0.90":           {"linux_raid_member", mib + 512, map[int]string{mib - 65536: md + "\x00"}},
		"md 1.0 over ext":   {"unknown", mib, map[int]string{mib - 8192: md + "\x01", 1024 + 0x38: "\x53\xef\x01"}},
		"drbd":              {"drbd", mib + 512, map[int]string{mib - 4096 + 60: "\x83\x74\x02\x6b"}},
		"drbd 9 over ext":   {"unknown", mib, map[int]string{mib - 4096 + 60: "\x83\x74\x02\x6d", 1024 + 0x38: "\x53\xef\x01"}},
		"ufs over ext":      {"unknown", mib, map[int]string{0x1055c: "\x19\x01\x54\x19", 1024 + 0x38: "\x53\xef\x01"}},
		"bcachefs":          {"bcachefs", mib, map[int]string{4120: "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"}},
		"md in wrong place": {"unknown", mib, map[int]string{mib - 8192: md + "\x00", 0: "x"}},
		"iso":               {"iso9660", mib, map[int]string{0x8001: "CD001"}},
		"bitlocker":         {"BitLocker", mib, map[int]string{3: "-FVE-FS-", 510: "\x55\xaa"}},
		"two":               {"unknown", mib, map[int]string{0x8001: "CD001", 4086: "SWAPSPACE2"}},
		"unknown":           {"unknown", mib, map[int]string{5: "x"}},
		"zeros":             {"empty", mib, nil},
		"short":             {"unknown", 3, map[int]string{2: "x"}},
		"nothing":           {"empty", 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := make([]byte, c.size)
			for at, s := range c.marks {
				copy(b[at:], s)
			}
			res, err := usedmap.Probe(bytes.NewReader(b), int64(len(b)))
			if err != nil || res.Content != c.content || res.Used != nil || res.Whole == "" {
				t.Errorf("%+v, error %v", res, err)
			}
		})
	}
}

// TestNested has a partition that was a filesystem and has become the disk of a
// virtual machine: the old superblock is still there and sound.
func TestNested(t *testing.T) {
	for label, inner := range map[string]string{"dos": "start=1MiB", "gpt": "start=4MiB"} {
		for content, mkfs := range map[string]string{"ext4": "mke2fs -q -t ext4", "btrfs": "mkfs.btrfs -q", "swap": "mkswap"} {
			path := newFile(t, 128*mib)
			args := append(strings.Fields(mkfs), path)
			run(t, args[0], args[1:]...)
			mustProbe(t, path, content)
			run(t, "sh", "-c", `printf 'label: `+label+`\n`+inner+`,size=64MiB\n' | sfdisk -q --wipe never --wipe-partitions never `+path)
			res, err := probe(t, path)
			if label == "gpt" && content == "swap" && res.Content == "unknown" {
				continue // the table has taken its place
			}
			if err != nil || res.Used != nil || res.Whole == "" {
				t.Errorf("%s with a table inside (%s): %+v, error %v", content, label, res, err)
			}
		}
	}
}

// TestZFSOverExt has what zpool create -f leaves of an ext4: its superblock and
// descriptors stand where a ZFS label has room for a boot block.
func TestZFSOverExt(t *testing.T) {
	path := newFile(t, 64*mib)
	run(t, "mke2fs", "-q", "-t", "ext4", "-b", "4096", path)
	mustProbe(t, path, "ext4")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if res, err := usedmap.Probe(flaky{f, 64*mib - 100<<10}, 64*mib); err != nil || res.Used == nil {
		t.Errorf("an unreadable free block: %+v, error %v", res, err)
	}
	for i := range int64(8) {
		patch(t, path, 128<<10+i<<10, func(b []byte) { copy(b, "\x0c\xb1\xba\x00\x00\x00\x00\x00") })
	}
	if res, err := probe(t, path); err != nil || res.Used != nil || !strings.Contains(res.Whole, "ext4 and zfs_member") {
		t.Errorf("%+v, error %v", res, err)
	}
}

// TestLostTable is TestNested where the table has lost its protective MBR.
func TestLostTable(t *testing.T) {
	path := newFile(t, 128*mib)
	run(t, "mkfs.btrfs", "-q", path)
	run(t, "sh", "-c", `printf 'label: gpt\nstart=4MiB,size=64MiB\n' | sfdisk -q --wipe never --wipe-partitions never `+path)
	patch(t, path, 512-64, func(b []byte) { clear(b) })
	if res, err := probe(t, path); err != nil || res.Used != nil || res.Whole == "" {
		t.Errorf("%+v, error %v", res, err)
	}
}

// TestTail has data behind the end of what tells no more than where it ends.
func TestTail(t *testing.T) {
	for content, mk := range map[string]string{"vfat": "mkfs.vfat", "swap": "mkswap"} {
		path := newFile(t, 8*mib)
		args := append(strings.Fields(mk), path)
		run(t, args[0], args[1:]...)
		if res, err := probe(t, path); err != nil || res.Used == nil || len(res.Warnings) > 0 {
			t.Errorf("%s: %+v, error %v", content, res, err)
		}
		if err := os.Truncate(path, 9*mib); err != nil {
			t.Fatal(err)
		}
		res, err := probe(t, path)
		if err != nil || res.Used == nil || !strings.Contains(strings.Join(res.Warnings, "\n"), " bytes between the ") {
			t.Errorf("%s: %+v, error %v", content, res, err)
		}
	}
}

// flaky is a disk with an unreadable sector at off.
type flaky struct {
	io.ReaderAt
	off int64
}

func (f flaky) ReadAt(b []byte, at int64) (int, error) {
	if at <= f.off && f.off < at+int64(len(b)) {
		return 0, os.ErrDeadlineExceeded
	}
	return f.ReaderAt.ReadAt(b, at)
}

// TestReadErrors reads filesystems with an unreadable sector in each place
// that is looked at.
func TestReadErrors(t *testing.T) {
	ext := mke2fs(t, "")
	fat := makeFAT(t, fatCase{size: 34 * mib, args: "-F 32 -s 1"})
	for _, c := range []struct {
		path string
		off  int64
	}{{ext, 0}, {ext, 1024}, {ext, 2048}, {ext, 20 * mib}, {fat, 510}, {fat, 32*512 + 5000}, {fat, 32*512 + 300000}} {
		b, err := os.ReadFile(c.path)
		if err != nil {
			t.Fatal(err)
		}
		res, err := usedmap.Probe(flaky{bytes.NewReader(b), c.off}, int64(len(b)))
		if c.off == 20*mib { // data, which nobody reads
			if err != nil || res.Used == nil {
				t.Errorf("%s at %d: %+v, error %v", filepath.Base(c.path), c.off, res, err)
			}
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || res.Used != nil || !strings.Contains(res.Whole, "could not be read") || res.Content == "" {
			t.Errorf("%s at %d: %+v, error %v", c.path, c.off, res, err)
		}
	}
	if _, err := usedmap.Probe(bytes.NewReader(nil), 512); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a partition shorter than it says: %v", err)
	}
	if _, err := usedmap.Probe(bytes.NewReader(nil), -1); err == nil {
		t.Error("negative size")
	}
}
