package usedmap_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"huck/imager/usedmap"
)

// xfsCase is a filesystem as mkfs.xfs makes it.
type xfsCase struct {
	name string
	size int64
	args string
	fill int64 // bytes of files
}

func xfsCases() []xfsCase {
	return []xfsCase{
		{"default", 320 * mib, "", 16 * mib},
		{"smallest", 16 * mib, "", 1 * mib},
		{"one group", 64 * mib, "-d agcount=1", 6 * mib},
		{"short last group", 92*mib + 12*kib, "-d agsize=24m", 6 * mib},
		{"40 groups", 700 * mib, "-d agcount=40", 40 * mib},
		{"large", 50 * gib, "", 6 * mib},
		{"1k", 100 * mib, "-b size=1024", 20 * mib},
		{"2k", 100 * mib, "-b size=2048", 6 * mib},
		{"16k", 300 * mib, "-b size=16384", 6 * mib},
		{"64k", 512 * mib, "-b size=65536", 20 * mib},
		{"sectors of 4096", 100 * mib, "-s size=4096", 6 * mib},
		{"sectors of 1024", 100 * mib, "-b size=1024 -s size=1024", 6 * mib},
		{"sectors of 32k", 512 * mib, "-b size=65536 -s size=32768", 6 * mib},
		{"rmapbt", 100 * mib, "-m rmapbt=1,reflink=1", 6 * mib},
		{"rmapbt 1k", 100 * mib, "-m rmapbt=1 -b size=1024", 20 * mib},
		{"all features", 100 * mib, "-m rmapbt=1,reflink=1,finobt=1,inobtcount=1,bigtime=1 -i nrext64=1,sparse=1,size=1024", 6 * mib},
		{"no features", 100 * mib, "-m rmapbt=0,reflink=0,finobt=0,inobtcount=0,bigtime=0 -i nrext64=0,sparse=0", 6 * mib},
		{"log at the end", 100 * mib, "-l agnum=3", 6 * mib},
		{"log stripes", 600 * mib, "-l su=256k", 6 * mib},
		{"stripes", 96 * mib, "-d su=64k,sw=4,agsize=24m", 6 * mib},
		{"v4", 100 * mib, "-m crc=0", 16 * mib},
		{"v4 512", 100 * mib, "-m crc=0 -b size=512", 20 * mib},
		{"v4 1k", 100 * mib, "-m crc=0 -b size=1024 -i attr=1,projid32bit=0", 20 * mib},
		{"v4 64k", 512 * mib, "-m crc=0 -b size=65536", 6 * mib},
		{"v4 log v1", 100 * mib, "-m crc=0 -l version=1", 6 * mib},
		{"v4 no lazy count", 100 * mib, "-m crc=0 -b size=1024 -l lazy-count=0", 20 * mib},
		{"v4 sectors of 4096", 100 * mib, "-m crc=0 -s size=4096", 6 * mib},
		{"v4 short last group", 92*mib + 12*kib, "-m crc=0 -d agsize=24m", 6 * mib},
	}
}

const xfsUUID = "b3b1a2c4-1111-4000-8000-000000000001"

// mkfsXFS makes a filesystem of a size that mkfs.xfs may call too small.
func mkfsXFS(t testing.TB, size int64, args string) string {
	t.Helper()
	path := newFile(t, size)
	run(t, "mkfs.xfs", append([]string{"-q", "--unsupported", "-L", "lab"}, append(strings.Fields(args), path)...)...)
	return path
}

// makeXFS makes a filesystem of a tree of files.
func makeXFS(t testing.TB, c xfsCase) string {
	t.Helper()
	return fillXFS(t, c, tree(t, c.fill))
}

// fillXFS makes a filesystem of the files in dir, some of them removed again.
func fillXFS(t testing.TB, c xfsCase, dir string) string {
	t.Helper()
	path := mkfsXFS(t, c.size, c.args+" -m uuid="+xfsUUID+" -p "+protofile(t, dir))
	// Where files lose their mode, xfs_repair drops them and makes the btrees anew.
	edits := []string{"-x"}
	for line := range strings.Lines(run(t, "xfs_db", "-r", "-c", "blockget -n", "-c", "ncheck", path)) {
		if inode, name, _ := strings.Cut(strings.TrimSpace(line), " "); strings.Contains(name, "gone-") {
			edits = append(edits, "-c", "inode "+inode, "-c", "write core.mode 0")
		}
	}
	run(t, "xfs_db", append(edits, path)...)
	run(t, "xfs_repair", "-o", "force_geometry", path)
	return path
}

// protofile describes the tree in dir to mkfs.xfs.
func protofile(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("boot\n0 0\nd--755 0 0\n")
	subs, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, sub := range subs {
		fmt.Fprintf(&b, "%s d--755 0 0\n", sub.Name())
		files, err := os.ReadDir(filepath.Join(dir, sub.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			fmt.Fprintf(&b, "%s ---644 0 0 %s\n", f.Name(), filepath.Join(dir, sub.Name(), f.Name()))
		}
		b.WriteString("$\n")
	}
	b.WriteString("$\n")
	path := filepath.Join(tempDir(t), "proto")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestXFS(t *testing.T) {
	for _, c := range xfsCases() {
		t.Run(c.name, func(t *testing.T) {
			path := makeXFS(t, c)
			res, err := probe(t, path)
			if err != nil || res.UUID != xfsUUID || res.Label != "lab" {
				t.Errorf("%+v, error %v", res, err)
			}
			compareXFS(t, path)
		})
	}
}

// compareXFS holds the used set against xfs_db and lets xfs_repair judge a
// filesystem of it alone.
func compareXFS(t *testing.T, path string) {
	t.Helper()
	used := mustProbe(t, path, "xfs")
	isFree, size := compareFreesp(t, path, used)
	copied := garbageCopy(t, path, used)
	run(t, "xfs_repair", "-n", "-o", "force_geometry", path)
	run(t, "xfs_repair", "-n", "-o", "force_geometry", copied)
	a, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := os.Open(copied)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	want, got := make([]byte, size), make([]byte, size)
	for off, n := range used.All() {
		for at := off; at < off+n; at += size {
			if isFree(at / size) {
				continue
			}
			if _, err := a.ReadAt(want, at); err != nil {
				t.Fatal(err)
			}
			if _, err := b.ReadAt(got, at); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, got) {
				t.Fatalf("block %d of %d bytes differs in the copy", at/size, size)
			}
		}
	}
}

// xfsField returns a number that xfs_db prints of a header.
func xfsField(t testing.TB, path, header, field string) int64 {
	t.Helper()
	var n int64
	scan(t, run(t, "xfs_db", "-r", "-c", header, "-c", "p "+field, path), field+" = %v", &n)
	return n
}

var freeExtentRE = regexp.MustCompile(`(?m)^ +(\d+) +(\d+) +(\d+)$`)

// compareFreesp wants the used set to be the complement of the free extents that
// xfs_db lists, block by block, but for the free list: xfs_db has its blocks
// among the free ones, we among the used.
func compareFreesp(t *testing.T, path string, used *usedmap.Set) (isFree func(block int64) bool, size int64) {
	t.Helper()
	size = xfsField(t, path, "sb 0", "blocksize")
	count, per := xfsField(t, path, "sb 0", "dblocks"), xfsField(t, path, "sb 0", "agblocks")
	free := make([]bool, count)
	for _, m := range freeExtentRE.FindAllStringSubmatch(run(t, "xfs_db", "-r", "-c", "freesp -d", path), -1) {
		at := number(t, m[1])*per + number(t, m[2])
		for b := at; b < at+number(t, m[3]); b++ {
			free[b] = true
		}
	}
	isUsed := make([]bool, count)
	for off, n := range used.All() {
		for b := off / size; b < (off+n)/size; b++ {
			isUsed[b] = true
		}
	}
	var listed, want int64
	for n := range xfsField(t, path, "sb 0", "agcount") {
		want += xfsField(t, path, fmt.Sprintf("agf %d", n), "flcount")
	}
	for b := range free {
		if free[b] && isUsed[b] {
			listed++
		}
		if !free[b] && !isUsed[b] {
			t.Fatalf("block %d of %d is lost: xfs_db does not call it free", b, count)
		}
	}
	if listed != want {
		t.Errorf("%d free blocks are called used, the free lists have %d", listed, want)
	}
	return func(b int64) bool { return free[b] }, size
}

// TestXFSKernel probes filesystems that the kernel wrote to: it needs root.
func TestXFSKernel(t *testing.T) {
	needRoot(t)
	for name, args := range map[string]string{
		"default":        "",
		"1k rmapbt":      "-b size=1024 -m rmapbt=1",
		"4 KiB sectors":  "-s size=4096",
		"small log":      "-l size=9m,su=64k -d agcount=2",
		"old v5":         "-m finobt=0,reflink=0,bigtime=0,inobtcount=0 -i sparse=0,nrext64=0",
		"inodes scatter": "-b size=1024 -i sparse=1 -d agcount=1",
	} {
		t.Run(name, func(t *testing.T) {
			path, busy := mkfsXFS(t, 512*mib, args), newFile(t, 0)
			files := tree(t, 8*mib)
			mounted(t, path, `cp -a "$1/." . && sync -f . && echo more > more && sync -f . && cp --sparse=always "$2" "$3"`, files, path, busy)
			wantRefused(t, busy, "unmounted cleanly")
			run(t, "xfs_repair", "-L", "-o", "force_geometry", busy) // which begins the log anew
			compareXFS(t, busy)
			// Every second of many blocks is freed, so that btrees have more levels.
			mounted(t, path, fragment, files)
			if n := xfsLevels(t, path); n < 2 {
				t.Errorf("the btrees by block have %d level", n)
			}
			compareXFS(t, path)
			mounted(t, path, "rm -r d0 d1 many; cp -a d3 again; ln -s x y; ln more less")
			compareXFS(t, path)
			copied := garbageCopy(t, path, mustProbe(t, path, "xfs"))
			mounted(t, path, `mkdir "$2" && mount -o loop,nouuid "$1" "$2" && diff -r --no-dereference . "$2"; umount "$2"`, copied, t.TempDir()+"/b")
		})
	}
}

// xfsLevels returns how many levels the highest btree by block has.
func xfsLevels(t *testing.T, path string) (levels int64) {
	t.Helper()
	for n := range xfsField(t, path, "sb 0", "agcount") {
		levels = max(levels, xfsField(t, path, fmt.Sprintf("agf %d", n), "bnolevel"))
	}
	return levels
}

// TestXFSManyExtents has btrees of three levels.
func TestXFSManyExtents(t *testing.T) {
	dir := tempDir(t)
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 8000 {
		name := filepath.Join(dir, "d", fmt.Sprintf("%05d", i))
		if i%2 == 0 {
			name += "-gone-"
		}
		if err := os.WriteFile(name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := fillXFS(t, xfsCase{size: 64 * mib, args: "-m crc=0 -b size=512 -d agcount=1"}, dir)
	if n := xfsLevels(t, path); n != 3 {
		t.Errorf("%d levels", n)
	}
	compareXFS(t, path)
}

// TestXFSBackups has xfs_repair find the backup superblocks in the copy.
func TestXFSBackups(t *testing.T) {
	path := makeXFS(t, xfsCase{size: 64 * mib, args: "-d agcount=4", fill: 4 * mib})
	copied := garbageCopy(t, path, mustProbe(t, path, "xfs"))
	patch(t, copied, 0, func(b []byte) { clear(b) })
	if out := run(t, "xfs_repair", copied); !strings.Contains(out, "found candidate secondary superblock") {
		t.Errorf("xfs_repair:\n%s", out)
	}
	run(t, "xfs_repair", "-n", copied)
	compareFreesp(t, copied, mustProbe(t, copied, "xfs"))
}

// fragment punches holes and, where the filesystem can, shares blocks.
const fragment = `
mkdir many
head -c 40000000 /dev/urandom > many/comb
i=0
while [ $i -lt 4000 ]; do
	echo "fpunch $((i * 8192)) 4096"
	i=$((i + 1))
done | xfs_io many/comb > /dev/null
i=0
while [ $i -lt 1500 ]; do
	echo $i > many/$i
	i=$((i + 1))
done
rm many/*3 many/*7
cp --reflink=auto many/comb many/shared
setfattr -n user.x -v "$(head -c 3000 /dev/zero | tr '\0' x)" many/1 2> /dev/null || true
`

func TestXFSRefused(t *testing.T) {
	for name, c := range map[string]struct{ args, request, cause string }{ // of xfs_db
		"mkfs":    {"", "write -d inprogress 1", "did not finish"},
		"mkfs v4": {"-m crc=0", "write inprogress 1", "did not finish"},
		"damaged": {"", "write -d features_incompat 0x1b", "run xfs_repair"},
	} {
		t.Run(name, func(t *testing.T) {
			path := mkfsXFS(t, 64*mib, c.args)
			run(t, "xfs_db", "-x", "-c", "sb 0", "-c", c.request, path)
			wantRefused(t, path, c.cause)
		})
	}
}

// TestXFSLog changes the record of the unmount, which is in the log's second
// block, behind its header.
func TestXFSLog(t *testing.T) {
	for name, c := range map[string]struct {
		at    int64
		edit  func(b []byte)
		clean bool
	}{
		"sound":          {512, func([]byte) {}, true},
		"no unmount":     {512, func(b []byte) { b[9] = 0 }, false},
		"more to it":     {0, func(b []byte) { b[43] = 2 }, false},
		"of other place": {0, func(b []byte) { b[23] = 8 }, false},
		"longer":         {0, func(b []byte) { b[14] += 2 }, false},
		"no record":      {0, func(b []byte) { b[0] = 0 }, false},
		"one more block": {1024, func(b []byte) { b[3] = 1 }, false},
		"all zeros":      {0, func(b []byte) { clear(b[:8]) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			path := mkfsXFS(t, 64*mib, "-d agcount=1 -m crc=0")
			at := xfsField(t, path, "sb 0", "logstart") * 4096
			patch(t, path, at+c.at, c.edit)
			if c.clean {
				mustProbe(t, path, "xfs")
				return
			}
			wantRefused(t, path, "log needs recovery")
		})
	}
}

// TestXFSWhole damages filesystems in ways that make their free space unworthy
// of belief.
func TestXFSWhole(t *testing.T) {
	const v4, sb = "-m crc=0 -d agcount=4", 0
	agf, bno, cnt := func(n int64) int64 { return n*16*mib + 512 }, int64(4096), int64(8192)
	for name, c := range map[string]struct {
		args string
		at   int64
		edit func(b []byte)
		want string
	}{
		"superblock":        {"", sb + 144, func(b []byte) { b[7]++ }, "its superblock has checksum"},
		"sectors of 0":      {"", sb + 102, func(b []byte) { b[0] = 0 }, "its superblock makes no sense: sectors of 0 bytes"},
		"version":           {v4, sb + 100, func(b []byte) { b[1] = b[1]&^0xf | 6 }, "version 6"},
		"features2":         {v4, sb + 200, func(b []byte) { b[0] = 1 }, "features2 0x1000000"},
		"block size":        {v4, sb + 4, func(b []byte) { b[2] = 0x20 }, "blocks of 8192 bytes"},
		"block log":         {v4, sb + 120, func(b []byte) { b[0] = 70 }, "blocks of 4096 bytes, 2^70"},
		"sector log":        {v4, sb + 121, func(b []byte) { b[0]++ }, "sectors of 512 bytes"},
		"too many blocks":   {v4, sb + 8, func(b []byte) { b[0] = 1 }, "the partition has 67108864 bytes"},
		"group size":        {v4, sb + 84, func(b []byte) { b[0] = 0x7f }, "allocation groups of"},
		"group count":       {v4, sb + 88, func(b []byte) { b[0] = 0x7f }, "allocation groups of 4096"},
		"no groups":         {v4, sb + 88, func(b []byte) { clear(b[:4]) }, "16384 blocks in 0 allocation groups"},
		"inode size":        {v4, sb + 104, func(b []byte) { b[0] = 8 }, "inodes of"},
		"one block less":    {v4, sb + 8, func(b []byte) { b[6]-- }, "allocation group 3: a header is of group 3 with 4096 blocks"},
		"log elsewhere":     {v4, sb + 48, func(b []byte) { b[0] = 1 }, "its log, "},
		"no log":            {v4, sb + 96, func(b []byte) { clear(b[:4]) }, "its log, 0 blocks"},
		"log outside":       {v4, sb + 48, func(b []byte) { clear(b[:8]) }, "log is on another device"},
		"log too long":      {v4, sb + 96, func(b []byte) { b[1] = 1 }, "its log, "},
		"realtime":          {v4, sb + 16, func(b []byte) { b[7] = 1 }, "realtime section"},
		"root elsewhere":    {v4, sb + 56, func(b []byte) { b[0] = 1 }, "its root directory"},
		"root in free":      {v4, sb + 56, func(b []byte) { b[6] = 0x20 }, "is metadata, but in a free extent"},
		"free count":        {v4, sb + 144, func(b []byte) { b[7]++ }, "free blocks, its superblock"},
		"no AGF":            {v4, agf(2), func(b []byte) { b[0]++ }, "allocation group 2: no AGF"},
		"no AGI":            {v4, agf(1) + 512, func(b []byte) { b[0]++ }, "allocation group 1: no AGI"},
		"AGF of another":    {v4, agf(2) + 8, func(b []byte) { b[3]++ }, "a header is of group 3"},
		"AGF checksum":      {"", agf(1) + 52, func(b []byte) { b[3]++ }, "allocation group 1: AGF has checksum"},
		"AGI checksum":      {"", agf(1) + 512 + 30, func(b []byte) { b[0]++ }, "allocation group 1: AGI has checksum"},
		"AGFL checksum":     {"", agf(1) + 1024 + 50, func(b []byte) { b[0]++ }, "allocation group 1: AGFL has checksum"},
		"group's count":     {v4, agf(0) + 52, func(b []byte) { b[3]++ }, "blocks are free, it counts"},
		"longest":           {v4, agf(0) + 56, func(b []byte) { b[3]++ }, "the longest free extent"},
		"root outside":      {v4, agf(0) + 16, func(b []byte) { b[0] = 1 }, "btree by block in block 16777217"},
		"root in header":    {v4, agf(0) + 16, func(b []byte) { b[3] = 0 }, "btree by block in block 0 of"},
		"other root":        {v4, agf(0) + 20, func(b []byte) { b[3] = 1 }, "btree by size: block 1 is none of its level 0"},
		"levels":            {v4, agf(0) + 28, func(b []byte) { b[3]++ }, "none of its level 1"},
		"many levels":       {v4, agf(0) + 28, func(b []byte) { b[0]++ }, "btree by block of 16777217 levels"},
		"free list":         {v4, agf(0) + 48, func(b []byte) { b[0]++ }, "free list of"},
		"list elsewhere":    {v4, agf(0) + 1024 + 4, func(b []byte) { b[0]++ }, "free list in block"},
		"list in free":      {v4, agf(0) + 1024 + 4, func(b []byte) { b[2]++ }, "is metadata, but in a free extent"},
		"btree checksum":    {"", bno + 60, func(b []byte) { b[3]++ }, "btree by block: block 1 has checksum"},
		"btree checksum 2":  {"", cnt + 60, func(b []byte) { b[3]++ }, "btree by size: block 2 has checksum"},
		"extent shorter":    {v4, bno + 16, func(b []byte) { b[3]++; b[7]-- }, "btrees differ: run xfs_repair"},
		"extent shorter 2":  {v4, cnt + 16, func(b []byte) { b[3]++; b[7]-- }, "btrees differ: run xfs_repair"},
		"extent too long":   {v4, bno + 16, func(b []byte) { b[4] = 1 }, "a free extent of"},
		"extent empty":      {v4, bno + 16, func(b []byte) { clear(b[4:8]) }, "a free extent of 0 blocks"},
		"extent over AG":    {v4, bno + 16, func(b []byte) { clear(b[:4]) }, "block 0 is metadata"},
		"extent over btree": {v4, bno + 16, func(b []byte) { copy(b, "\x00\x00\x00\x02") }, "block 2 is metadata"},
		"entries":           {v4, bno + 4, func(b []byte) { b[2] = 0xff }, "entries, at most 510"},
		"no entries":        {v4, bno + 4, func(b []byte) { b[2], b[3] = 0, 0 }, "btrees differ: run xfs_repair"},
		"level of block":    {v4, bno + 4, func(b []byte) { b[1] = 1 }, "none of its level 0"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.args == "" {
				c.args = "-d agcount=4"
			}
			path := mkfsXFS(t, 64*mib, c.args)
			patch(t, path, c.at, c.edit)
			res, err := probe(t, path)
			if err != nil || res.Used != nil || res.Content != "xfs" || res.Whole == "" || !strings.Contains(res.Whole, c.want) {
				t.Errorf("%+v, error %v, want %q", res, err, c.want)
			}
		})
	}
}

// TestXFSExternal has filesystems that are not on one device.
func TestXFSExternal(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"-l size=16m,logdev=", "its log is on another device"},
		{"-r rtdev=", "realtime section"},
	} {
		other := newFile(t, 320*mib)
		path := mkfsXFS(t, 320*mib, c.args+other)
		if res, err := probe(t, path); err != nil || res.Content != "xfs" || !strings.Contains(res.Whole, c.want) {
			t.Errorf("%+v, error %v, want %q", res, err, c.want)
		}
	}
}

// TestXFSNewUUID has metadata that still carry the first UUID.
func TestXFSNewUUID(t *testing.T) {
	path := mkfsXFS(t, 64*mib, "")
	run(t, "xfs_admin", "-U", xfsUUID, path)
	res, err := probe(t, path)
	if err != nil || res.UUID != xfsUUID {
		t.Errorf("%+v, error %v", res, err)
	}
	if xfsField(t, path, "sb 0", "features_incompat")&4 == 0 {
		t.Error("no meta_uuid")
	}
	compareXFS(t, path)
}

// TestXFSTail has a partition that is larger than its filesystem.
func TestXFSTail(t *testing.T) {
	path := newFile(t, 96*mib)
	run(t, "mkfs.xfs", "-q", "--unsupported", "-d", "size=64m", path)
	res, err := probe(t, path)
	if err != nil || res.Used == nil || len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "33554432 bytes between") {
		t.Errorf("%+v, error %v", res, err)
	}
}

// TestXFSBits flips, one at a time, bits of all that is read of two
// filesystems: what is then used, if anything, must hold all that was.
func TestXFSBits(t *testing.T) {
	for _, args := range []string{"-m crc=0 -d agcount=2", "-d agcount=2"} {
		path := makeXFS(t, xfsCase{size: 32 * mib, args: args, fill: 4 * mib})
		want := mustProbe(t, path, "xfs")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		group := int64(len(b)) / 2
		heads := []int64{0, group}
		for _, at := range heads { // the root of each btree by block
			heads = append(heads, at+4096*int64(binary.BigEndian.Uint32(b[at+512+16:])))
		}
		outcome := map[string]int{}
		for _, head := range heads {
			for bit := range int64(2048 * 8) {
				at := head + bit/8
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
						t.Errorf("%s: bit %d of byte %d: used blocks are lost", args, bit%8, at)
					}
				}
				b[at] ^= 1 << (bit % 8)
			}
		}
		t.Logf("%s: %v", args, outcome)
		if outcome["used"] == 0 || outcome["whole"] == 0 {
			t.Error(outcome)
		}
	}
}

// holds tells whether all of b is in a.
func holds(a, b *usedmap.Set) bool {
	both := new(usedmap.Set)
	for _, s := range []*usedmap.Set{a, b} {
		for off, n := range s.All() {
			both.Add(off, n)
		}
	}
	return both.Bytes() == a.Bytes()
}
