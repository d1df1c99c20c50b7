package usedmap_test

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
	"regexp"
	"strings"
	"testing"

	"huck/imager/usedmap"
)

// f2fsCase is a filesystem as mkfs.f2fs makes it.
type f2fsCase struct {
	name string
	size int64
	args string
	fill int64 // bytes of files; sload.f2fs cannot cope with all filesystems
}

func f2fsCases() []f2fsCase {
	return []f2fsCase{
		{"default", 200 * mib, "", 20 * mib},
		{"smallest", 52 * mib, "", 0},
		{"odd size", 100*mib + 37*kib, "", 6 * mib},
		{"sections", 400 * mib, "-s 4", 6 * mib},
		{"zones", 400 * mib, "-s 2 -z 2", 6 * mib},
		{"sectors of 4096", 100 * mib, "-w 4096", 6 * mib},
		{"large NAT", 200 * mib, "-i", 6 * mib},
		{"overprovision", 200 * mib, "-o 20", 6 * mib},
		{"features", 300 * mib, "-O encrypt,extra_attr,project_quota,inode_checksum,inode_crtime,verity,sb_checksum,compression", 6 * mib},
		{"features with files", 300 * mib, "-O extra_attr,flexible_inline_xattr,quota,lost_found", 0},
		{"casefold", 100 * mib, "-O casefold -C utf8", 6 * mib},
		{"read-only", 100 * mib, "-O ro", 6 * mib},
		{"large", 20 * gib, "", 6 * mib},
	}
}

func mkfsF2FS(t testing.TB, size int64, args string) string {
	t.Helper()
	path := newFile(t, size)
	run(t, "mkfs.f2fs", append([]string{"-q", "-f", "-l", "läbel", "-U", "b3b1a2c4-1111-4000-8000-000000000001"}, append(strings.Fields(args), path)...)...)
	return path
}

func TestF2FS(t *testing.T) {
	for _, c := range f2fsCases() {
		t.Run(c.name, func(t *testing.T) {
			path := mkfsF2FS(t, c.size, c.args)
			if c.fill != 0 {
				run(t, "sload.f2fs", "-f", tree(t, c.fill), path)
			}
			res, err := probe(t, path)
			if err != nil || res.UUID != "b3b1a2c4-1111-4000-8000-000000000001" || res.Label != "läbel" {
				t.Errorf("%+v, error %v", res, err)
			}
			compareF2FS(t, path)
			if c.name != "default" {
				return
			}
			// Blocks that are moved leave holes.
			at := f2fsField(t, path, "main_blkaddr") + 512*f2fsField(t, path, "cur_data_segno[1]")
			run(t, "defrag.f2fs", "-s", fmt.Sprint(at), "-l", "200", "-t", fmt.Sprint(at+20*512), path)
			compareF2FS(t, path)
		})
	}
}

// TestF2FSKernel has filesystems that Linux 6.18 wrote to.
func TestF2FSKernel(t *testing.T) {
	for _, name := range []string{"kernel", "large_nat", "normal"} {
		compareF2FS(t, f2fsImage(t, name))
	}
	// It was unmounted and mounted again; then a file was synced.
	wantRefused(t, f2fsImage(t, "synced"), "files were synced to it")
}

// f2fsImage unpacks a filesystem from f2fs/testdata.
func f2fsImage(t testing.TB, name string) string {
	t.Helper()
	z, err := os.Open(filepath.Join("f2fs", "testdata", name+".img.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	r, err := gzip.NewReader(z)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	path := newFile(t, 0)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// f2fsField returns a number that dump.f2fs prints of the superblock or the
// checkpoint.
func f2fsField(t testing.TB, path, field string) int64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(field) + `\s+\[0x\s*[0-9a-f]+ : (\d+)\]`).FindStringSubmatch(run(t, "dump.f2fs", "-d", "1", path))
	if m == nil {
		t.Fatalf("dump.f2fs does not tell %s", field)
	}
	return number(t, m[1])
}

// compareF2FS wants the used set to be what dump.f2fs prints as valid, block by
// block, and fsck.f2fs to find nothing in a filesystem of it alone.
func compareF2FS(t *testing.T, path string) {
	t.Helper()
	used := mustProbe(t, path, "f2fs")
	valid := f2fsValid(t, path)
	main := f2fsField(t, path, "main_blkaddr")
	next := main + 512*f2fsField(t, path, "cur_node_segno[1]") + f2fsField(t, path, "cur_node_blkoff[1]")
	isUsed := make([]bool, main+int64(len(valid)))
	for off, n := range used.All() {
		for b := off / 4096; b < (off+n)/4096; b++ {
			isUsed[b] = true
		}
	}
	for b := range isUsed {
		at := int64(b)
		if want := at < main || valid[at-main]; want != isUsed[b] && (want || at != next) {
			t.Fatalf("block %d, the main area begins at %d: dump.f2fs says used=%v, we say %v", b, main, want, isUsed[b])
		}
	}
	copied := garbageCopy(t, path, used)
	for _, f := range []string{path, copied} {
		if out := run(t, "fsck.f2fs", "--dry-run", f); strings.Contains(out, "[Fail") || !strings.Contains(out, "other corrupted bugs                           [Ok..]") {
			t.Errorf("fsck.f2fs:\n%s", out)
		}
	}
	if a, b := run(t, "fsck.f2fs", "--dry-run", "-t", path), run(t, "fsck.f2fs", "--dry-run", "-t", copied); a != b {
		t.Errorf("fsck.f2fs shows different trees:\n%s\nof the copy:\n%s", a, b)
	}
}

// f2fsValid returns a bit for each block of the main area, from a file that
// dump.f2fs writes into the current folder: "segno: 3 vblocks: 1 …", then, if
// there are any, 64 bytes as numbers.
func f2fsValid(t *testing.T, path string) []bool {
	t.Helper()
	dir := tempDir(t)
	tool(t, "dump.f2fs")
	run(t, "sh", "-c", `cd "$1" && PATH=$PATH:/usr/sbin:/sbin dump.f2fs -s 0~-1 "$2"`, "sh", dir, path)
	text, err := os.ReadFile(filepath.Join(dir, "dump_sit"))
	if err != nil {
		t.Fatal(err)
	}
	var valid []bool
	var seg, at int
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "segno:") {
			scan(t, line, "segno:%d", &seg)
			if at = 512 * seg; at != len(valid) {
				t.Fatalf("segment %d follows %d blocks", seg, len(valid))
			}
			valid = append(valid, make([]bool, 512)...)
			continue
		}
		for _, f := range strings.Fields(line) {
			var c byte
			if _, err := fmt.Sscanf(f, "%x", &c); err != nil || len(f) != 2 {
				break
			}
			for i := range 8 {
				valid[at+i] = c&(0x80>>i) != 0
			}
			at += 8
		}
	}
	return valid
}

// fixF2FS changes the newest checkpoint and gives it the right checksum.
func fixF2FS(t *testing.T, path string, edit func(b []byte)) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	at := 4096 * int(le.Uint32(b[1024+76:]))
	if other := at + 512*4096; le.Uint64(b[other:]) > le.Uint64(b[at:]) {
		at = other
	}
	for _, at := range []int{at, at + 4096*int(le.Uint32(b[at+136:])-1)} { // its first and its last block
		cp := b[at : at+4096]
		edit(cp)
		le.PutUint32(cp[4092:], ^crc32.Update(^uint32(0xf2f52010), crc32.IEEETable, cp[:4092]))
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestF2FSRefused(t *testing.T) {
	for name, c := range map[string]struct {
		flag  uint32
		cause string
	}{
		"mounted":  {0x80, "not unmounted cleanly"},
		"disabled": {0x1001, "not unmounted cleanly"},
		"error":    {0x9, "run fsck.f2fs"},
		"fsck":     {0x11, "run fsck.f2fs"},
		"resize":   {0x4001, "a resize did not finish"},
		"orphans":  {0x3, "deleted files wait"},
	} {
		t.Run(name, func(t *testing.T) {
			path := mkfsF2FS(t, 52*mib, "")
			fixF2FS(t, path, func(b []byte) { binary.LittleEndian.PutUint32(b[132:], c.flag) })
			wantRefused(t, path, c.cause)
		})
	}
}

// TestF2FSWhole damages filesystems in ways that make their bitmaps unworthy of
// belief.
func TestF2FSWhole(t *testing.T) {
	le := binary.LittleEndian
	const sb, sit = 1024, 6 << 20 // of a small filesystem: behind two segments of checkpoints
	for name, c := range map[string]struct {
		args string
		at   int64 // -1: the checkpoint
		edit func(b []byte)
		want string
	}{
		"superblock":        {"-O extra_attr,sb_checksum", sb + 48, func(b []byte) { b[0]++ }, "checksum "},
		"block size":        {"", sb + 16, func(b []byte) { b[0] = 14 }, "blocks of 2^14 bytes"},
		"segment size":      {"", sb + 20, func(b []byte) { b[0] = 10 }, "segments of 2^10 blocks"},
		"too many blocks":   {"", sb + 36, func(b []byte) { b[7] = 1 }, "the partition has 54525952 bytes"},
		"one block more":    {"", sb + 36, func(b []byte) { b[0]++ }, "the partition has 54525952 bytes"},
		"checkpoints":       {"", sb + 52, func(b []byte) { b[0]++ }, "its SIT, 2 segments, in block"},
		"SIT elsewhere":     {"", sb + 80, func(b []byte) { b[0]++ }, "its SIT"},
		"NAT outside":       {"", sb + 60, func(b []byte) { b[3] = 1 }, "its NAT, 16777218 segments"},
		"main too long":     {"", sb + 68, func(b []byte) { b[1]++ }, "its main area"},
		"no main area":      {"", sb + 68, func(b []byte) { clear(b[:4]) }, "its main area, 0 segments"},
		"first segment":     {"", sb + 72, func(b []byte) { clear(b[:4]) }, "its first segment is in block 0"},
		"payload":           {"", sb + 1664, func(b []byte) { b[1]++ }, "checkpoints of 256 blocks"},
		"unknown feature":   {"", sb + 2180, func(b []byte) { b[3] = 1 }, "does not know: 0x1000000"},
		"zoned":             {"", sb + 2180, func(b []byte) { b[0] = 2 }, "does not know: 0x2"},
		"several devices":   {"", sb + 2201, func(b []byte) { b[0] = '/' }, "one of several devices"},
		"free segments":     {"", -1, func(b []byte) { b[32]++ }, "segments are free, its checkpoint has"},
		"valid blocks":      {"", -1, func(b []byte) { b[16] = 1 }, "2 blocks are valid, its checkpoint has 1"},
		"current segment":   {"", -1, func(b []byte) { b[38]++ }, "a current segment"},
		"next block":        {"", -1, func(b []byte) { le.PutUint16(b[70:], 512) }, "a current segment"},
		"bitmap size":       {"", -1, func(b []byte) { le.PutUint32(b[156:], 0) }, "bitmaps of 0 and"},
		"bitmap too large":  {"", -1, func(b []byte) { le.PutUint32(b[156:], 1<<31) }, "bitmaps of 2147483648 and"},
		"summaries":         {"", -1, func(b []byte) { le.PutUint32(b[140:], 1<<20) }, "the summaries of its checkpoint"},
		"pack too long":     {"", -1, func(b []byte) { le.PutUint32(b[136:], 1<<20) }, ""},
		"nodes":             {"", -1, func(b []byte) { b[144]++ }, "1 blocks hold nodes, its checkpoint has 2"},
		"valid bit":         {"", sit + 9*74 + 2, func(b []byte) { b[0] ^= 1 }, "segment 9 has 1 valid blocks, it counts 0: run fsck.f2fs"},
		"valid count":       {"", sit + 9*74, func(b []byte) { b[0] ^= 1 }, "segment 9 has 0 valid blocks, it counts 1"},
		"more valid blocks": {"", sit + 9*74, func(b []byte) { b[0], b[2] = 1, 1 }, "3 blocks are valid, its checkpoint has 2"},
	} {
		t.Run(name, func(t *testing.T) {
			path := mkfsF2FS(t, 52*mib, c.args)
			if c.at < 0 {
				fixF2FS(t, path, c.edit)
			} else {
				patch(t, path, c.at, c.edit)
			}
			res, err := probe(t, path)
			var refused *usedmap.Refused
			if errors.As(err, &refused) && c.want == "" {
				return
			}
			if err != nil || res.Used != nil || res.Content != "f2fs" || res.Whole == "" || !strings.Contains(res.Whole, c.want) {
				t.Errorf("%+v, error %v, want %q", res, err, c.want)
			}
		})
	}
}

// TestF2FSDevices has a filesystem that is not on one device.
func TestF2FSDevices(t *testing.T) {
	other := newFile(t, 100*mib)
	path := mkfsF2FS(t, 100*mib, "-c "+other)
	if res, err := probe(t, path); err != nil || res.Used != nil || res.Content != "f2fs" {
		t.Errorf("%+v, error %v", res, err)
	}
}

// TestF2FSBits flips, one at a time, bits of all that is read of a filesystem:
// what is then used, if anything, must hold all that was.
func TestF2FSBits(t *testing.T) {
	path := f2fsImage(t, "kernel")
	want := mustProbe(t, path, "f2fs")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	cp, sit := 4096*int(le.Uint32(b[1024+76:])), 4096*int(le.Uint32(b[1024+80:]))
	outcome := map[string]int{}
	for _, p := range []struct{ at, n int }{
		{1024, 128}, {1024 + 1664, 4}, {1024 + 2180, 30}, {1024 + 3068, 4},
		{cp, 300}, {cp + 512*4096, 300}, {cp + 4096, 1100}, {cp + 513*4096, 1100},
		{sit, 1000}, {sit + 512*4096, 1000},
	} {
		for bit := range 8 * p.n {
			at := p.at + bit/8
			b[at] ^= 1 << (bit % 8)
			res, err := usedmap.Probe(bytes.NewReader(b), int64(len(b)))
			switch {
			case err != nil:
				outcome["refused"]++
			case res.Used == nil:
				outcome["whole"]++
			default:
				outcome["used"]++
				if !holds(res.Used, want) {
					t.Errorf("bit %d of byte %d: used blocks are lost", bit%8, at)
				}
			}
			b[at] ^= 1 << (bit % 8)
		}
	}
	t.Log(outcome)
	if outcome["used"] == 0 || outcome["whole"] == 0 {
		t.Error(outcome)
	}
}
