package usedmap_test

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"huck/imager/usedmap"
)

// btrfsCase is a filesystem as mkfs.btrfs makes it.
type btrfsCase struct {
	name string
	size int64
	args string
	fill int64 // bytes of files
}

func btrfsCases() []btrfsCase {
	return []btrfsCase{
		{"btrfs default", 200 * mib, "", 16 * mib},
		{"btrfs odd size", 200*mib + 3*512, "", 6 * mib},
		{"btrfs single", 200 * mib, "-m single", 6 * mib},
		{"btrfs dup", 300 * mib, "-d dup -m dup", 6 * mib},
		{"btrfs mixed", 60 * mib, "--mixed", 6 * mib},
		{"btrfs mixed dup", 300 * mib, "--mixed -m dup -d dup", 6 * mib},
		{"btrfs nodes of 4k", 200 * mib, "-n 4096", 6 * mib},
		{"btrfs nodes of 64k", 200 * mib, "-n 65536", 6 * mib},
		{"btrfs old", 200 * mib, "-O ^extref,^skinny-metadata,^no-holes -R ^free-space-tree", 6 * mib},
		{"btrfs quota", 200 * mib, "-R quota", 6 * mib},
		{"btrfs xxhash", 200 * mib, "--csum xxhash", 6 * mib},
		{"btrfs sha256", 200 * mib, "--csum sha256", 6 * mib},
		{"btrfs blake2", 200 * mib, "--csum blake2", 6 * mib},
		{"btrfs three superblocks", 300 * gib, "", 6 * mib},
		{"btrfs smaller than its device", 200 * mib, "-b 150M", 6 * mib},
	}
}

const btrfsUUID = "b3b1a2c4-1111-4000-8000-000000000001"

func makeBtrfs(t testing.TB, size int64, args ...string) string {
	t.Helper()
	path := newFile(t, size)
	run(t, "mkfs.btrfs", append(args, "-q", "-L", "a label", "-U", btrfsUUID, path)...)
	return path
}

func TestBtrfs(t *testing.T) {
	for _, c := range btrfsCases() {
		t.Run(c.name, func(t *testing.T) {
			dir := tree(t, c.fill)
			path := makeBtrfs(t, c.size, append(strings.Fields(c.args), "--rootdir", dir)...)
			if err := os.Truncate(path, c.size); err != nil {
				t.Fatal(err)
			}
			res, err := probe(t, path)
			if err != nil || res.Content != "btrfs" || res.UUID != btrfsUUID || res.Label != "a label" || res.Used == nil {
				t.Fatalf("%+v, error %v", res, err)
			}
			if tail := len(res.Warnings) == 1 && strings.Contains(res.Warnings[0], "52428800 bytes between"); tail != strings.Contains(c.args, "-b") {
				t.Errorf("warnings %q", res.Warnings)
			}
			compareBtrfs(t, path, res.Used)
			copied := garbageCopy(t, path, res.Used)
			sameBtrfs(t, path, copied)
			if c.args == "" { // all sizes
				sameSupers(t, path, copied)
			}
		})
	}
}

// sameBtrfs wants a filesystem and its copy to be sound, and their files to be
// equal.
func sameBtrfs(t *testing.T, path, copied string) {
	t.Helper()
	run(t, "btrfs", "check", "--check-data-csum", copied)
	a, b := tempDir(t), tempDir(t)
	for p, to := range map[string]string{path: a, copied: b} {
		run(t, "btrfs", "restore", "-S", "-x", "-m", "-s", p, to)
	}
	sameTree(t, a, b)
}

// sameSupers lets btrfs check work from each superblock: it must find on the
// copy what it finds on the original.
func sameSupers(t *testing.T, path, copied string) {
	t.Helper()
	for i := range 3 {
		want, code := try(t, "btrfs", "check", "--super", string(rune('0'+i)), path)
		got, code2 := try(t, "btrfs", "check", "--super", string(rune('0'+i)), copied)
		if strings.ReplaceAll(got, copied, path) != want || code != code2 {
			t.Errorf("with superblock %d: exit codes %d and %d\noriginal:\n%s\ncopy:\n%s", i, code, code2, want, got)
		}
	}
}

var (
	groupRE = regexp.MustCompile(`block group used (\d+) chunk_objectid \d+ flags (\S+)`)
	superRE = regexp.MustCompile(`(?m)^dev_item.total_bytes\s+(\d+)`)
	usedRE  = regexp.MustCompile(`(?m)^bytes_used\s+(\d+)`)
)

// compareBtrfs compares the used bytes with what the block groups count, in all
// copies, beside the boot code's room and the superblocks behind it.
func compareBtrfs(t *testing.T, path string, used *usedmap.Set) {
	t.Helper()
	super := run(t, "btrfs", "inspect-internal", "dump-super", path)
	size := number(t, superRE.FindStringSubmatch(super)[1])
	want, sum := int64(1*mib), int64(0)
	for _, at := range []int64{64 * mib, 256 * gib} {
		if at+4096 <= size {
			want += 4096
		}
	}
	for _, m := range groupRE.FindAllStringSubmatch(run(t, "btrfs", "inspect-internal", "dump-tree", "-t", "extent", path), -1) {
		n := number(t, m[1])
		sum += n
		if strings.Contains(m[2], "DUP") {
			n *= 2
		}
		want += n
	}
	if got := used.Bytes(); got != want || sum != number(t, usedRE.FindStringSubmatch(super)[1]) || sum == 0 {
		t.Errorf("%d bytes used, by its block groups %d", got, want)
	}
}

// TestBtrfsKernel probes filesystems that the kernel wrote to: subvolumes,
// snapshots, reflinks, compression, preallocation, deleted files, more chunks.
func TestBtrfsKernel(t *testing.T) {
	needRoot(t)
	for name, args := range map[string]string{
		"default": "",
		"single":  "-m single",
		"mixed":   "--mixed",
		"4k":      "-n 4096 -R ^free-space-tree",
		"sha256":  "--csum sha256",
	} {
		t.Run(name, func(t *testing.T) {
			path := makeBtrfs(t, 400*mib, strings.Fields(args)...)
			busy := filepath.Join(tempDir(t), "busy")
			mounted(t, path, `
				btrfs -q subvolume create sub || btrfs subvolume create sub
				cp -r "$1/." sub/; cp --reflink=always sub/d1/f8 sub/reflink; fallocate -l 3M sub/prealloc
				mkdir z; chattr +c z; yes | head -c 3000000 >z/compressed
				btrfs subvolume snapshot sub snap; rm sub/d*/gone-*; rm -r snap/d2
				i=0; while [ $i -lt 500 ]; do echo $i >sub/$i; i=$((i+1)); done; rm sub/1*
				head -c 60000000 /dev/zero >sub/large; sync -f .; rm sub/large; sync -f .
				for i in 1 2 3 4 5 6 7 8 9; do # the kernel may commit at any time, and the log is gone
					echo $i >fsynced; sync fsynced; cp --sparse=always "$2" "$3"
					if btrfs inspect-internal dump-super "$3" | grep -Eq "^log_root[[:space:]]+[1-9]"; then break; fi
				done`, tree(t, 8*mib), path, busy)
			wantRefused(t, busy, "log waits to be replayed")
			used := mustProbe(t, path, "btrfs")
			compareBtrfs(t, path, used)
			copied := garbageCopy(t, path, used)
			sameBtrfs(t, path, copied)
			mounted(t, copied, `btrfs scrub start -B . && echo more >more`)
			run(t, "btrfs", "check", copied)
		})
	}
}

// btrfsSuper changes the superblock and sets its checksum.
func btrfsSuper(t *testing.T, path string, edit func(b []byte)) {
	t.Helper()
	b := readAt(t, path, 64*kib, 4096)
	edit(b)
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[32:], crc32.MakeTable(crc32.Castagnoli)))
	writeAt(t, path, 64*kib, b)
}

// TestBtrfsWhole has superblocks of filesystems that this program does not know
// or that cannot be right.
func TestBtrfsWhole(t *testing.T) {
	whole := func(name, path, want string) {
		t.Helper()
		res, err := probe(t, path)
		if err != nil || res.Content != "btrfs" || res.Used != nil || !strings.Contains(res.Whole, want) {
			t.Errorf("%s: %+v, error %v, want %q", name, res, err, want)
		}
	}
	for name, c := range map[string]struct {
		edit func(b []byte)
		want string
	}{
		"checksum kind":     {func(b []byte) { b[0xc4] = 4 }, "checksums are of kind 4"},
		"raid56":            {func(b []byte) { b[0xbc] |= 0x80 }, "incompat 0x80"},
		"zoned":             {func(b []byte) { b[0xbd] |= 0x10 }, "incompat 0x1000"},
		"read-only feature": {func(b []byte) { b[0xb4] |= 0x10 }, "ro_compat 0x10"},
		"being changed":     {func(b []byte) { b[0x38+4] |= 8 }, "flags 0x800000000"},
		"place":             {func(b []byte) { b[0x32]++ }, "it says it stands at"},
		"sector size":       {func(b []byte) { b[0x90] = 1 }, "sectors of 4097"},
		"node size":         {func(b []byte) { b[0x96] = 2 }, "nodes of"},
		"device":            {func(b []byte) { b[0xc9+8+4] = 1 }, "its device has"},
		"other device":      {func(b []byte) { b[0xc9] = 2 }, "of device 1"},
		"chunk array":       {func(b []byte) { b[0xa1] = 0x10 }, "a chunk array of"},
		"no chunk array":    {func(b []byte) { b[0xa0] = 0 }, "are in no chunk"},
		"short chunk array": {func(b []byte) { b[0xa0]-- }, "has an item of"},
		"no chunk":          {func(b []byte) { b[0x32b+8] = 1 }, "the chunk array in its superblock"},
		"chunk elsewhere":   {func(b []byte) { b[0x32b+17+48+10]++ }, ""},
		"striped":           {func(b []byte) { b[0x32b+17+24] |= 8 }, "single and dup only"},
		"chunk too long":    {func(b []byte) { b[0x32b+17+5] = 1 }, "has 1099"},
		"root":              {func(b []byte) { b[0x51] += 0x40 }, "node "},
		"root far":          {func(b []byte) { b[0x57] = 0x40 }, "are in no chunk"},
		"chunk root":        {func(b []byte) { b[0x59] += 0x40 }, "node "},
		"level":             {func(b []byte) { b[0xc6] = 1 }, "and level 0"},
		"generation":        {func(b []byte) { b[0x48]++ }, "is of generation"},
		"used":              {func(b []byte) { b[0x79]++ }, "bytes used by the superblock"},
		"UUID":              {func(b []byte) { b[0x20]++ }, "of another filesystem"},
	} {
		path := makeBtrfs(t, 120*mib)
		btrfsSuper(t, path, c.edit)
		whole(name, path, c.want)
	}
	path := makeBtrfs(t, 120*mib)
	patch(t, path, 64*kib+0x200, func(b []byte) { b[0]++ })
	whole("checksum", path, "its superblock has checksum")
	path = makeBtrfs(t, 200*mib, "-d", "raid0")
	whole("raid0 of one", path, "single and dup only")
}

func TestBtrfsRefused(t *testing.T) {
	for cause, edit := range map[string]func(b []byte){
		"errors are recorded": func(b []byte) { b[0x38] |= 4 },
		"log waits":           func(b []byte) { b[0x61] = 1 },
	} {
		path := makeBtrfs(t, 120*mib)
		btrfsSuper(t, path, edit)
		wantRefused(t, path, cause)
	}
}

// TestBtrfsDevices has a filesystem of two devices.
func TestBtrfsDevices(t *testing.T) {
	other := newFile(t, 200*mib)
	path := makeBtrfs(t, 200*mib, other)
	for _, p := range []string{path, other} {
		res, err := probe(t, p)
		if err != nil || res.Used != nil || !strings.Contains(res.Whole, "one of 2 devices") || len(res.Warnings) != 1 {
			t.Errorf("%+v, error %v", res, err)
		}
	}
}

// TestBtrfsUUID has a filesystem whose UUID was changed without its nodes.
func TestBtrfsUUID(t *testing.T) {
	path := makeBtrfs(t, 120*mib)
	run(t, "btrfstune", "-f", "-m", path)
	used := mustProbe(t, path, "btrfs")
	compareBtrfs(t, path, used)
	if res, err := probe(t, path); err != nil || res.UUID == btrfsUUID || res.UUID == "" {
		t.Errorf("%+v, error %v", res, err)
	}
}

// TestBtrfsDamage flips bits in all that the probe looks at: with one copy of
// the nodes it is told, with two the other one is taken.
func TestBtrfsDamage(t *testing.T) {
	for _, profile := range []string{"single", "dup"} {
		path := makeBtrfs(t, 120*mib, "-n", "4096", "-m", profile)
		ranges := [][2]int64{{64 * kib, 65 * kib}, {64*kib + 0x32b, 64*kib + 0x3ff}}
		res, err := probe(t, path)
		if err != nil || res.Used == nil {
			t.Fatalf("%+v, error %v", res, err)
		}
		for at, n := range res.Used.All() {
			if at > 1*mib {
				for ; n > 0; at, n = at+4096, n-4096 { // the head of each node, and its last items
					ranges = append(ranges, [2]int64{at + 30, at + 150}, [2]int64{at + 4000, at + 4096})
				}
			}
		}
		flipBits(t, path, ranges)
	}
}

func TestBtrfsReadErrors(t *testing.T) {
	path := makeBtrfs(t, 120*mib, "-m", "single")
	used := mustProbe(t, path, "btrfs")
	var chunkTree int64 // is the first thing behind the boot code's room
	for at := range used.All() {
		if at > 1*mib && chunkTree == 0 {
			chunkTree = at
		}
	}
	unreadable(t, path, "btrfs", 64*kib, chunkTree)
}
