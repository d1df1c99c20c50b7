package usedmap_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"huck/imager/usedmap"
)

// extCase is a filesystem as mke2fs makes it.
type extCase struct {
	name    string
	size    int64
	content string
	args    string
	fill    int64 // bytes of files
}

func extCases() []extCase {
	return []extCase{
		{"ext2 1k", 24 * mib, "ext2", "-t ext2 -b 1024", 6 * mib},
		{"ext2 4k", 24 * mib, "ext2", "-t ext2 -b 4096", 6 * mib},
		{"ext2 tiny", 100 * kib, "ext2", "-t ext2 -b 1024 -N 16", 20 * kib},
		{"ext2 revision 0", 24 * mib, "ext2", "-t ext2 -r 0 -b 1024 -O none", 2 * mib},
		{"ext2 without sparse_super", 24 * mib, "ext2", "-t ext2 -b 1024 -g 2048 -O ^sparse_super,^resize_inode", 4 * mib},
		{"ext2 small groups", 24 * mib, "ext2", "-t ext2 -b 1024 -g 512 -N 1024", 4 * mib},
		{"ext3 1k", 24 * mib, "ext3", "-t ext3 -b 1024", 6 * mib},
		{"ext3 4k", 40 * mib, "ext3", "-t ext3 -b 4096", 6 * mib},
		{"ext4 default", 64 * mib, "ext4", "-t ext4", 16 * mib},
		{"ext4 1k", 100 * mib, "ext4", "-t ext4 -b 1024", 6 * mib},
		{"ext4 2k", 100 * mib, "ext4", "-t ext4 -b 2048", 6 * mib},
		{"ext4 1k odd size", 50*mib + 3*kib, "ext4", "-t ext4 -b 1024", 6 * mib},
		{"ext4 16k", 64 * mib, "ext4", "-t ext4 -b 16384", 6 * mib},
		{"ext4 64k", 128 * mib, "ext4", "-t ext4 -b 65536", 6 * mib},
		{"ext4 ten groups", 1200*mib + 40*kib, "ext4", "-t ext4 -b 4096", 6 * mib},
		{"ext4 160 groups", 20 * gib, "ext4", "-t ext4 -b 4096 -m 0", 6 * mib},
		{"ext4 no 64bit", 300 * mib, "ext4", "-t ext4 -b 4096 -O ^64bit", 6 * mib},
		{"ext4 no 64bit 1k", 100 * mib, "ext4", "-t ext4 -b 1024 -O ^64bit", 6 * mib},
		{"ext4 gdt_csum", 300 * mib, "ext4", "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg", 6 * mib},
		{"ext4 gdt_csum no 64bit", 300 * mib, "ext4", "-t ext4 -b 4096 -O ^metadata_csum,uninit_bg,^64bit", 6 * mib},
		{"ext4 no checksums", 300 * mib, "ext4", "-t ext4 -b 4096 -O ^metadata_csum,^uninit_bg", 6 * mib},
		{"ext4 csum_seed", 60 * mib, "ext4", "-t ext4 -b 1024 -O metadata_csum_seed", 6 * mib},
		{"ext4 no flex_bg", 100 * mib, "ext4", "-t ext4 -b 1024 -O ^flex_bg", 6 * mib},
		{"ext4 flex of 64", 200 * mib, "ext4", "-t ext4 -b 1024 -G 64", 6 * mib},
		{"ext4 packed metadata", 200 * mib, "ext4", "-t ext4 -b 1024 -E packed_meta_blocks=1", 6 * mib},
		{"ext4 meta_bg", 400 * mib, "ext4", "-t ext4 -b 1024 -O meta_bg,^resize_inode", 6 * mib},
		{"ext4 meta_bg no flex_bg", 400 * mib, "ext4", "-t ext4 -b 1024 -O meta_bg,^resize_inode,^flex_bg,^64bit", 6 * mib},
		{"ext4 meta_bg 4k", 20 * gib, "ext4", "-t ext4 -b 4096 -O meta_bg,^resize_inode", 6 * mib},
		{"ext4 sparse_super2", 100 * mib, "ext4", "-t ext4 -b 1024 -O sparse_super2,^resize_inode", 6 * mib},
		{"ext4 sparse_super2 one", 100 * mib, "ext4", "-t ext4 -b 1024 -O sparse_super2,^resize_inode -E num_backup_sb=1", 6 * mib},
		{"ext4 sparse_super2 none", 100 * mib, "ext4", "-t ext4 -b 1024 -O sparse_super2,^resize_inode -E num_backup_sb=0", 6 * mib},
		{"ext4 bigalloc", 600 * mib, "ext4", "-t ext4 -b 4096 -O bigalloc -C 65536", 6 * mib},
		{"ext4 bigalloc 1k", 300*mib + 7*kib, "ext4", "-t ext4 -b 1024 -O bigalloc -C 16384", 6 * mib},
		{"ext4 bigalloc small groups", 300 * mib, "ext4", "-t ext4 -b 1024 -O bigalloc -C 4096 -g 2048", 6 * mib},
		{"ext4 all features", 200 * mib, "ext4", "-t ext4 -b 1024 -O project,inline_data,encrypt,casefold,ea_inode,large_dir,verity,orphan_file", 6 * mib},
		{"ext4 no journal", 60 * mib, "ext4", "-t ext4 -b 1024 -O ^has_journal -I 128", 6 * mib},
		{"ext4 lazy tables", 600 * mib, "ext4", "-t ext4 -b 4096 -E lazy_itable_init=1,lazy_journal_init=1 -i 4096", 6 * mib},
	}
}

func makeExt(t testing.TB, c extCase) string {
	t.Helper()
	path := newFile(t, c.size)
	dir := tree(t, c.fill)
	args := strings.Fields(c.args)
	run(t, "mke2fs", append(args, "-q", "-F", "-E", "hash_seed=b3b1a2c4-0000-4000-8000-000000000001", "-L", "label of 16 bytes",
		"-U", "b3b1a2c4-1111-4000-8000-000000000001", "-d", dir, path)...)
	var script strings.Builder
	files, err := filepath.Glob(filepath.Join(dir, "*", "gone-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		fmt.Fprintf(&script, "rm %s\n", strings.TrimPrefix(f, dir))
	}
	list := filepath.Join(tempDir(t), "script")
	if err := os.WriteFile(list, []byte(script.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "debugfs", "-w", "-f", list, path)
	run(t, "e2fsck", "-fn", path)
	return path
}

func TestExt(t *testing.T) {
	for _, c := range extCases() {
		t.Run(c.name, func(t *testing.T) {
			path := makeExt(t, c)
			res, err := probe(t, path)
			if err != nil || res.UUID != "b3b1a2c4-1111-4000-8000-000000000001" || res.Label != "label of 16 byte" {
				t.Errorf("%+v, error %v", res, err)
			}
			used := mustProbe(t, path, c.content)
			compareDumpe2fs(t, path, used)
			copied := garbageCopy(t, path, used)
			run(t, "e2fsck", "-fn", copied)
			compareBackups(t, path, copied)
			a, b := tempDir(t), tempDir(t)
			run(t, "debugfs", "-R", "rdump / "+a, path)
			run(t, "debugfs", "-R", "rdump / "+b, copied)
			sameTree(t, a, b)
		})
	}
}

var (
	blockSizeRE = regexp.MustCompile(`(?m)^Block size: +(\d+)`)
	clusterRE   = regexp.MustCompile(`(?m)^Cluster size: +(\d+)`)
	countRE     = regexp.MustCompile(`(?m)^Block count: +(\d+)`)
	freeRE      = regexp.MustCompile(`(?m)^  Free blocks: (.*)$`)
	backupRE    = regexp.MustCompile(`(?m)^  Backup superblock at (\d+)`)
)

func number(t testing.TB, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// compareDumpe2fs wants the used set to be the complement of what dumpe2fs
// lists as free, block by block.
func compareDumpe2fs(t *testing.T, path string, used *usedmap.Set) {
	t.Helper()
	out := run(t, "dumpe2fs", path)
	size, count := number(t, blockSizeRE.FindStringSubmatch(out)[1]), number(t, countRE.FindStringSubmatch(out)[1])
	ratio := int64(1)
	if m := clusterRE.FindStringSubmatch(out); m != nil {
		ratio = number(t, m[1]) / size
	}
	isFree := make([]bool, count)
	for _, line := range freeRE.FindAllStringSubmatch(out, -1) {
		for r := range strings.SplitSeq(line[1], ", ") {
			if r == "" {
				continue
			}
			from, to, ok := strings.Cut(r, "-")
			if !ok {
				to = from
			}
			// A range ends with the first block of its last cluster.
			for b := number(t, from); b < min(number(t, to)+ratio, count); b++ {
				isFree[b] = true
			}
		}
	}
	isUsed := make([]bool, count)
	for off, n := range used.All() {
		for b := off / size; b < (off+n+size-1)/size; b++ {
			isUsed[b] = true
		}
	}
	for b := range isFree {
		if isFree[b] == isUsed[b] {
			t.Fatalf("block %d of %d: dumpe2fs says free=%v, we say used=%v", b, count, isFree[b], isUsed[b])
		}
	}
}

// compareBackups lets e2fsck work from backup superblocks: it must find on the
// copy what it finds on the original.
func compareBackups(t *testing.T, path, copied string) {
	t.Helper()
	out := run(t, "dumpe2fs", path)
	size := blockSizeRE.FindStringSubmatch(out)[1]
	backups := backupRE.FindAllStringSubmatch(out, -1)
	for i, m := range backups {
		for _, f := range []string{path, copied} {
			if got := run(t, "dumpe2fs", "-h", "-o", "superblock="+m[1], "-o", "blocksize="+size, f); strings.Contains(got, "invalid") {
				t.Errorf("superblock %s of %s:\n%s", m[1], f, got)
			}
		}
		if i != 0 && i != len(backups)-1 {
			continue
		}
		want, code := try(t, "e2fsck", "-fn", "-b", m[1], "-B", size, path)
		got, code2 := try(t, "e2fsck", "-fn", "-b", m[1], "-B", size, copied)
		if strings.ReplaceAll(got, copied, path) != want || code != code2 {
			t.Errorf("e2fsck -b %s: exit codes %d and %d\noriginal:\n%s\ncopy:\n%s", m[1], code, code2, want, got)
		}
	}
}

// mke2fs makes an ext4 filesystem of four groups, some without bitmaps.
func mke2fs(t testing.TB, args string) string {
	t.Helper()
	path := newFile(t, 32*mib)
	run(t, "mke2fs", append(strings.Fields("-t ext4 -q -F -b 1024 "+args), path)...)
	return path
}

// TestExtQuota has quota files and a multiple mount protection, with which
// e2fsck takes its time.
func TestExtQuota(t *testing.T) {
	path := mke2fs(t, "-O mmp,quota")
	used := mustProbe(t, path, "ext4")
	compareDumpe2fs(t, path, used)
	m := regexp.MustCompile(`MMP block number: +(\d+)`).FindStringSubmatch(run(t, "dumpe2fs", "-h", path))
	patch(t, path, number(t, m[1])*1024, func(b []byte) { b[4], b[5], b[6], b[7] = 1, 2, 3, 4 })
	wantRefused(t, path, "another machine uses it")
}

func wantRefused(t *testing.T, path, cause string) {
	t.Helper()
	res, err := probe(t, path)
	var refused *usedmap.Refused
	if !errors.As(err, &refused) || !strings.Contains(refused.Cause, cause) || !strings.Contains(err.Error(), res.Content+": ") {
		t.Fatalf("error %v, want %q", err, cause)
	}
	if res.Content == "" || res.Used != nil || res.Whole == "" || res.Dirty != refused.Cause {
		t.Errorf("%+v", res)
	}
}

func TestExtRefused(t *testing.T) {
	for name, c := range map[string]struct{ request, cause string }{ // of debugfs
		"journal":       {"feature needs_recovery", "journal needs recovery"},
		"mounted":       {"ssv state 0", "not unmounted cleanly"},
		"errors":        {"ssv state 3", "errors are recorded"},
		"other journal": {"ssv journal_inum 0", "journal is on another device"},
		"orphans":       {"ssv last_orphan 12", "deleted files wait"},
		"orphan file":   {"feature orphan_present", "deleted files wait"},
	} {
		t.Run(name, func(t *testing.T) {
			path := mke2fs(t, "-O orphan_file")
			run(t, "debugfs", "-w", "-R", c.request, path)
			wantRefused(t, path, c.cause)
		})
	}
}

// TestExtWhole damages filesystems in ways that make their bitmaps unworthy of
// belief.
func TestExtWhole(t *testing.T) {
	group := func(n int64) int64 { return 2048 + 64*n } // of 1k blocks: descriptors begin in block 2
	for name, c := range map[string]struct {
		args string
		at   int64
		edit func(b []byte)
		want string
	}{
		"superblock":         {at: 1024 + 0x30, edit: func(b []byte) { b[0]++ }, want: "its superblock has checksum"},
		"descriptor":         {at: group(1), edit: func(b []byte) { b[0]++ }, want: "group 1: descriptor has checksum"},
		"descriptor, crc16":  {args: "-O ^metadata_csum,uninit_bg", at: group(2), edit: func(b []byte) { b[0xc]++ }, want: "group 2: descriptor has checksum"},
		"free count":         {args: "-O ^metadata_csum,^uninit_bg", at: group(1), edit: func(b []byte) { b[0xc]++ }, want: "group 1: "},
		"bitmap off":         {args: "-O ^metadata_csum,^uninit_bg", at: group(1), edit: func(b []byte) { b[3] = 0xff }, want: "group 1: block bitmap in block"},
		"inode table off":    {args: "-O ^metadata_csum,^uninit_bg,^64bit", at: 2048 + 32, edit: func(b []byte) { b[8], b[9] = 0xff, 0x7f }, want: "group 1: inode table in block"},
		"bitmap elsewhere":   {args: "-O ^metadata_csum,^uninit_bg", at: group(0), edit: func(b []byte) { b[0]++ }, want: "is metadata, but free by the bitmap: run e2fsck"},
		"unknown feature":    {args: "-O ^metadata_csum", at: 1024 + 0x60, edit: func(b []byte) { b[3] = 0x40 }, want: "incompat 0x40000000"},
		"unknown ro feature": {args: "-O ^metadata_csum", at: 1024 + 0x64, edit: func(b []byte) { b[1] |= 0x40 }, want: "ro_compat 0x4000"},
		"block size":         {args: "-O ^metadata_csum", at: 1024 + 0x18, edit: func(b []byte) { b[0] = 7 }, want: "blocks of 2^7 KiB"},
		"too many blocks":    {args: "-O ^metadata_csum", at: 1024 + 4, edit: func(b []byte) { b[0]++ }, want: "32769 blocks of 1024 bytes, the partition"},
		"no blocks":          {args: "-O ^metadata_csum", at: 1024 + 4, edit: func(b []byte) { clear(b[:4]) }, want: "makes no sense: 0 blocks"},
		"group size":         {args: "-O ^metadata_csum", at: 1024 + 0x20, edit: func(b []byte) { clear(b[:4]) }, want: "groups of 0 blocks"},
		"group size odd":     {args: "-O ^metadata_csum", at: 1024 + 0x20, edit: func(b []byte) { b[0] = 1 }, want: "groups of 8193 blocks"},
		"first block":        {args: "-O ^metadata_csum", at: 1024 + 0x14, edit: func(b []byte) { b[0] = 2 }, want: "first data block is 2"},
		"descriptor size":    {args: "-O ^metadata_csum", at: 1024 + 0xfe, edit: func(b []byte) { b[0] = 32 }, want: "descriptors of 32 bytes"},
		"inodes":             {args: "-O ^metadata_csum", at: 1024 + 0x28, edit: func(b []byte) { clear(b[:4]) }, want: "0 inodes"},
		"inode size":         {args: "-O ^metadata_csum", at: 1024 + 0x58, edit: func(b []byte) { b[0] = 1 }, want: "inodes of"},
		"reserved":           {args: "-O ^metadata_csum", at: 1024 + 0xce, edit: func(b []byte) { b[1] = 0xff }, want: ""},
		"journal device":     {args: "-O journal_dev", at: 0, edit: func([]byte) {}, want: "journal of a filesystem on another device"},
	} {
		t.Run(name, func(t *testing.T) {
			path := mke2fs(t, c.args)
			patch(t, path, c.at, c.edit)
			res, err := probe(t, path)
			if err != nil || res.Used != nil || res.Whole == "" || !strings.Contains(res.Whole, c.want) {
				t.Errorf("%+v, error %v, want %q", res, err, c.want)
			}
		})
	}
}

// TestExtBitmapDamage flips single bits of a bitmap with checksums on and off.
func TestExtBitmapDamage(t *testing.T) {
	for args, want := range map[string]string{
		"":                             "group 0: block bitmap has checksum",
		"-O ^64bit":                    "group 0: block bitmap has checksum",
		"-O ^metadata_csum,^uninit_bg": "free by the",
	} {
		path := mke2fs(t, args)
		m := regexp.MustCompile(`Block bitmap at (\d+)`).FindStringSubmatch(run(t, "dumpe2fs", path))
		patch(t, path, number(t, m[1])*1024+1000, func(b []byte) { b[0] ^= 4 })
		if res, err := probe(t, path); err != nil || res.Used != nil || !strings.Contains(res.Whole, want) {
			t.Errorf("%s: %+v, error %v, want %q", args, res, err, want)
		}
	}
}

// TestExtTail has a partition that is larger than its filesystem.
func TestExtTail(t *testing.T) {
	path := newFile(t, 32*mib)
	run(t, "mke2fs", "-t", "ext4", "-q", "-F", path, "16M")
	res, err := probe(t, path)
	if err != nil || res.Used == nil || len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "16777216 bytes between") {
		t.Errorf("%+v, error %v", res, err)
	}
	for off, n := range res.Used.All() {
		if off+n > 16*mib {
			t.Errorf("used: %d+%d", off, n)
		}
	}
}
