package usedmap_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"huck/imager/usedmap"
)

// ntfsCase is a filesystem as mkntfs makes it.
type ntfsCase struct {
	name string
	size int64
	args string
	fill int64 // bytes of files
}

func ntfsCases() []ntfsCase {
	return []ntfsCase{
		{"ntfs default", 60 * mib, "", 10 * mib},
		{"ntfs odd size", 60*mib + 3*512, "", 6 * mib},
		{"ntfs small", 2 * mib, "", 300 * kib},
		{"ntfs clusters of 512", 30 * mib, "-c 512", 6 * mib},
		{"ntfs clusters of 1k", 30 * mib, "-c 1024", 6 * mib},
		{"ntfs clusters of 64k", 200 * mib, "-c 65536", 6 * mib},
		{"ntfs clusters of 128k", 600 * mib, "-c 131072", 6 * mib},
		{"ntfs clusters of 2M", 20 * gib, "-c 2097152", 2 * mib},
		{"ntfs sectors of 4k", 100 * mib, "-s 4096", 6 * mib},
		{"ntfs large", 100*gib + 512, "", 2 * mib},
	}
}

const ntfsLabel = "Daten älter"

func makeNTFS(t testing.TB, size int64, args string) string {
	t.Helper()
	path := newFile(t, size)
	run(t, "mkntfs", append(strings.Fields(args), "-q", "-F", "-Q", "-p", "2048", "-H", "255", "-S", "63", "-L", ntfsLabel, path)...)
	return path
}

// ntfsMounted runs a shell script in the mounted filesystem of the file at
// path, as mounted does. Its first argument is the folder it is mounted on.
func ntfsMounted(t *testing.T, path, script string, args ...string) {
	t.Helper()
	needRoot(t)
	tool(t, "ntfs-3g")
	at := t.TempDir()
	// ntfs-3g goes on writing after umount. It inherits descriptor 9, so that
	// who reads from the other end of it waits for its end.
	const mount = `exec 9>&1; ntfs-3g "$1" "$2" || exit 77; cd "$2"; shift; trap "cd /; umount '$1'" EXIT; set -e; `
	out, code := try(t, "unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c",
		mount + script, "sh", path, at}, args...)...)
	switch {
	case code == 77:
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatalf("ntfs-3g cannot mount here: %s", out)
		}
		t.Skipf("ntfs-3g cannot mount here: %s", out)
	case code != 0:
		t.Fatalf("%s: exit code %d\n%s", script, code, out)
	}
}

// fillNTFS makes files of many kinds and removes some: fragments, a directory
// that needs an index of its own, streams, compressed and sparse files, links.
const fillNTFS = `
cp -r "$2/." .
rm -f d*/gone-*
[ "$(stat -f -c %S .)" -lt 1000000 ] || exit 0 # or it would take half a minute
i=0; mkdir many; while [ $i -lt 300 ]; do echo $i >"many/a file with a long name $i"; i=$((i+1)); done
dd if=/dev/zero of=sparse bs=4096 count=1 seek=3000 2>/dev/null
i=0; while [ $i -lt 200 ]; do printf %600s $i >>frag1; printf %600s $i >>frag2; i=$((i+1)); done; rm frag1
ln "many/a file with a long name 99" hard; ln -s hard soft
`

func TestNTFS(t *testing.T) {
	for _, c := range ntfsCases() {
		t.Run(c.name, func(t *testing.T) {
			path := makeNTFS(t, c.size, c.args)
			mustProbe(t, path, "ntfs")
			ntfsMounted(t, path, fillNTFS, tree(t, c.fill))
			res, err := probe(t, path)
			if uuid := strings.TrimSpace(run(t, "blkid", "-p", "-s", "UUID", "-o", "value", path)); err != nil || res.UUID != uuid || res.Label != ntfsLabel {
				t.Errorf("%+v, error %v, UUID by blkid %s", res, err, uuid)
			}
			used := mustProbe(t, path, "ntfs")
			compareNTFS(t, path, used)
			comparePartclone(t, "ntfs", path, used, 0)
			copied := garbageCopy(t, path, used)
			run(t, "ntfsfix", "-n", copied)
			sameFiles(t, path, copied, ntfsMounted)
			sameBackup(t, path, copied)
		})
	}
}

// ntfsNumbers returns what ntfscluster says of a volume.
func ntfsNumbers(t *testing.T, path string) map[string]int64 {
	t.Helper()
	numbers := make(map[string]int64)
	for line := range strings.SplitSeq(run(t, "ntfscluster", "-i", path), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			if n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64); err == nil {
				numbers[strings.TrimSpace(name)] = n
			}
		}
	}
	return numbers
}

// compareNTFS compares the used bytes with ntfscluster's count of free
// clusters. Beside the clusters there are the sectors after the last one, the
// copy of the boot sector among them, and the boot code before the second.
func compareNTFS(t *testing.T, path string, used *usedmap.Set) {
	t.Helper()
	n := ntfsNumbers(t, path)
	cluster := n["bytes per cluster"]
	clusters := n["bytes per volume"] / cluster
	var whole, rest int64
	for off, l := range used.All() {
		in := max(0, min(off+l, clusters*cluster)-off)
		whole, rest = whole+in, rest+l-in
	}
	if want := (clusters - n["clusters of free space"]) * cluster; whole != want || want == 0 {
		t.Errorf("%d bytes used of %d clusters of %d, by ntfscluster %d", whole, clusters, cluster, want)
	}
	if rest < 512 || rest > cluster+2*4096 {
		t.Errorf("%d bytes used past the last cluster of %d", rest, cluster)
	}
}

// comparePartclone compares with the map that partclone makes, where it is
// installed: what it copies, from offset from on, must be used.
func comparePartclone(t *testing.T, kind, path string, used *usedmap.Set, from int64) {
	t.Helper()
	if _, err := exec.LookPath("partclone." + kind); err != nil {
		return
	}
	dir := tempDir(t)
	domain := filepath.Join(dir, "domain")
	run(t, "partclone."+kind, "-D", "-s", path, "-o", domain, "-L", filepath.Join(dir, "log"), "-q")
	text, err := os.ReadFile(domain)
	if err != nil {
		t.Fatal(err)
	}
	theirs := new(usedmap.Set)
	for line := range strings.SplitSeq(string(text), "\n") {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "+" {
			continue
		}
		at, err1 := strconv.ParseInt(f[0], 0, 64)
		n, err2 := strconv.ParseInt(f[1], 0, 64)
		if err1 != nil || err2 != nil {
			t.Fatalf("%q: %v, %v", line, err1, err2)
		}
		skip := max(0, from-at)
		theirs.Add(at+skip, n-skip)
	}
	ours, partclone, lost := used.Bytes(), theirs.Bytes(), missing(theirs, used)
	t.Logf("%d bytes used; by partclone %d, %d of them not by us", ours, partclone, lost)
	if partclone == 0 || lost != 0 {
		t.Errorf("%d bytes used; by partclone %d, %d of them not by us", ours, partclone, lost)
	}
}

// sameFiles compares the files of two filesystems.
func sameFiles(t *testing.T, a, b string, mounted func(t *testing.T, path, script string, args ...string)) {
	t.Helper()
	x, y := tempDir(t), tempDir(t)
	for path, to := range map[string]string{a: x, b: y} {
		mounted(t, path, `for to; do :; done; cp -a --sparse=always . "$to"`, to)
	}
	sameTree(t, x, y)
}

// sameBackup wants the copy of the boot sector in the last sector to be there.
func sameBackup(t *testing.T, a, b string) {
	t.Helper()
	var last [2][]byte
	for i, path := range []string{a, b} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		last[i] = make([]byte, 512)
		if _, err := f.ReadAt(last[i], st.Size()-512); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(last[0], last[1]) {
		t.Error("the last sector differs")
	}
}

// ntfsRecord returns where record n of the MFT is: mkntfs makes the first ones
// in one piece.
func ntfsRecord(t *testing.T, path string, n int64) int64 {
	t.Helper()
	b := readAt(t, path, 0, 512)
	le := binary.LittleEndian
	return int64(le.Uint64(b[48:]))*int64(le.Uint16(b[11:]))*int64(b[13]) + n*1024
}

// ntfsAttribute returns where the first attribute of a kind is in record n.
func ntfsAttribute(t *testing.T, path string, n int64, kind uint32) int64 {
	t.Helper()
	at := ntfsRecord(t, path, n)
	b := readAt(t, path, at, 1024)
	le := binary.LittleEndian
	for i := int64(le.Uint16(b[20:])); i < 1000; i += int64(le.Uint32(b[i+4:])) {
		if le.Uint32(b[i:]) == kind {
			return at + i
		}
	}
	t.Fatalf("record %d has no attribute %x", n, kind)
	return 0
}

// ntfsData returns where the first run of record n's data is.
func ntfsData(t *testing.T, path string, n int64) int64 {
	t.Helper()
	boot := readAt(t, path, 0, 512)
	b := readAt(t, path, ntfsAttribute(t, path, n, 0x80), 80)
	run := b[binary.LittleEndian.Uint16(b[32:]):]
	var lcn int64
	for i := range int64(run[0] >> 4) {
		lcn |= int64(run[1+int64(run[0]&0xf)+i]) << (8 * i)
	}
	return lcn * int64(binary.LittleEndian.Uint16(boot[11:])) * int64(boot[13])
}

func readAt(t *testing.T, path string, at, n int64) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	return b
}

func writeAt(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func TestNTFSDirty(t *testing.T) {
	path := makeNTFS(t, 8*mib, "")
	patch(t, path, ntfsAttribute(t, path, 3, 0x70)+24+10, func(b []byte) { b[0] |= 1 })
	wantRefused(t, path, "marked dirty")
	run(t, "ntfsfix", "-d", path) // clears the flag
	mustProbe(t, path, "ntfs")
}

// restartPage makes a restart page of a journal of 2 MiB (Linux,
// fs/ntfs3/fslog.c). Its only client is in one of two lists.
func restartPage(lsn uint64, open bool, flags uint16) []byte {
	const area, client = 48, 48 + 48
	b := make([]byte, 4096)
	le := binary.LittleEndian
	copy(b, "RSTR")
	for at, n := range map[int]uint16{
		4: 30, 6: 9, // fix-ups
		24: area, 26: 1, 28: 1, // version 1.1
		area + 8: 1, area + 10: 0xffff, area + 12: 0xffff, area + 14: flags,
		area + 20: 48 + 160, area + 22: client - area, area + 32: 48, area + 34: 64,
		client + 16: 0xffff, client + 18: 0xffff,
	} {
		le.PutUint16(b[at:], n)
	}
	le.PutUint32(b[16:], 4096)
	le.PutUint32(b[20:], 4096)
	le.PutUint64(b[area:], lsn)
	le.PutUint32(b[area+16:], 67-22)
	le.PutUint64(b[area+24:], 2*mib)
	if open {
		le.PutUint16(b[area+12:], 0)
	} else {
		le.PutUint16(b[area+10:], 0)
	}
	b[30] = 7 // the fix-up; what it replaces is zero
	for i := 512; i <= len(b); i += 512 {
		b[i-2] = 7
	}
	return b
}

// TestNTFSJournal has journals as Windows leaves them. ntfs-3g, which refuses
// to mount what is not clean, is the judge.
func TestNTFSJournal(t *testing.T) {
	const clean = 2
	torn := restartPage(9, true, 0)
	torn[510]++
	for name, c := range map[string]struct {
		first, second []byte
		refused       bool
	}{
		"closed":            {restartPage(5, false, 0), restartPage(4, true, 0), false},
		"closed by XP":      {restartPage(5, true, clean), restartPage(4, true, 0), false},
		"open":              {restartPage(5, true, 0), restartPage(4, false, clean), true},
		"opened last":       {restartPage(5, false, clean), restartPage(6, true, 0), true},
		"first one damaged": {torn, restartPage(6, false, 0), false},
	} {
		t.Run(name, func(t *testing.T) {
			path := makeNTFS(t, 8*mib, "")
			writeAt(t, path, ntfsData(t, path, 2), append(c.first, c.second...))
			out, code := try(t, "ntfs-3g.probe", "--readwrite", path)
			if name != "first one damaged" && (code != 0) != c.refused {
				t.Errorf("ntfs-3g.probe: exit code %d\n%s", code, out)
			}
			if c.refused {
				wantRefused(t, path, "its journal is open")
				return
			}
			mustProbe(t, path, "ntfs")
		})
	}
}

func TestNTFSHibernated(t *testing.T) {
	for name, c := range map[string]struct {
		script  string
		refused bool
	}{
		"hibernated":         {`(printf hibr; head -c 8188 /dev/zero) >hiberfil.sys`, true},
		"resuming":           {`(printf RSTR; head -c 8188 /dev/zero) >HIBERFIL.SYS`, true},
		"small":              {`printf hibr >hiberfil.sys`, true},
		"awake":              {`head -c 100000 /dev/zero >hiberfil.sys`, false},
		"empty":              {`: >hiberfil.sys`, false},
		"in another folder":  {`mkdir d; (printf hibr; head -c 8188 /dev/zero) >d/hiberfil.sys`, false},
		"another file there": {`(printf hibr; head -c 8188 /dev/zero) >hiberfil.bak`, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := makeNTFS(t, 8*mib, "")
			ntfsMounted(t, path, c.script)
			if c.refused {
				wantRefused(t, path, "Windows is hibernated")
				return
			}
			mustProbe(t, path, "ntfs")
		})
	}
}

// TestNTFSWhole damages filesystems in ways that make their bitmaps unworthy
// of belief.
func TestNTFSWhole(t *testing.T) {
	boot := func(at int64) func(*testing.T, string) int64 {
		return func(*testing.T, string) int64 { return at }
	}
	record := func(n int64) func(*testing.T, string) int64 {
		return func(t *testing.T, path string) int64 { return ntfsRecord(t, path, n) }
	}
	attribute := func(n int64, kind uint32) func(*testing.T, string) int64 {
		return func(t *testing.T, path string) int64 { return ntfsAttribute(t, path, n, kind) }
	}
	for name, c := range map[string]struct {
		at   func(*testing.T, string) int64
		edit func(b []byte)
		want string
	}{
		"signature":        {boot(510), func(b []byte) { b[0] = 0 }, "its signature is 00aa"},
		"sector size":      {boot(11), func(b []byte) { b[0] = 1 }, "sectors of 513 bytes"},
		"cluster size":     {boot(13), func(b []byte) { b[0] = 3 }, "clusters of 3 sectors"},
		"no cluster size":  {boot(13), func(b []byte) { b[0] = 0 }, "clusters of 0 sectors"},
		"huge clusters":    {boot(13), func(b []byte) { b[0] = 0x81 }, "clusters of"},
		"other clusters":   {boot(13), func(b []byte) { b[0] = 16 }, ""},
		"too many sectors": {boot(40), func(b []byte) { b[7] = 0x80 }, "sectors of 512 bytes, the partition has"},
		"no sectors":       {boot(40), func(b []byte) { clear(b[:8]) }, "its MFT in cluster"},
		"no MFT":           {boot(48), func(b []byte) { clear(b[:8]) }, "its MFT in cluster 0"},
		"MFT elsewhere":    {boot(48), func(b []byte) { b[0]++ }, "the MFT begins with cluster"},
		"MFT far":          {boot(48), func(b []byte) { b[7] = 0x80 }, "its MFT in cluster"},
		"record size":      {boot(64), func(b []byte) { b[0] = 0 }, "records of 0 bytes"},
		"huge records":     {boot(64), func(b []byte) { b[0] = 0x80 }, "records of"},
		"fix-up":           {record(6), func(b []byte) { b[4]++ }, "MFT record 6 is damaged"},
		"not in use":       {record(6), func(b []byte) { b[22] = 0 }, "MFT record 6 is damaged or not in use"},
		"an extension":     {record(6), func(b []byte) { b[32] = 7 }, "MFT record 6 belongs to another"},
		"torn":             {record(9), func(b []byte) { copy(b, "BAAD") }, "MFT record 9 was written in part"},
		"version":          {attribute(3, 0x70), func(b []byte) { b[24+8] = 9 }, "its version"},
		"no version":       {attribute(3, 0x70), func(b []byte) { b[0] = 0x71 }, "its version"},
		"attribute size":   {attribute(6, 0x80), func(b []byte) { b[7] = 0x80 }, "MFT record 6 has an attribute of"},
		"no attribute":     {attribute(6, 0x80), func(b []byte) { b[4], b[5] = 0, 0 }, "MFT record 6 has an attribute of 0 bytes"},
		"bitmap size":      {attribute(6, 0x80), func(b []byte) { clear(b[48:64]) }, "its bitmap has 0 bytes for"},
		"bitmap unwritten": {attribute(6, 0x80), func(b []byte) { clear(b[56:64]) }, "its bitmap has 0 bytes for"},
		"bitmap large":     {attribute(6, 0x80), func(b []byte) { b[54], b[62] = 1, 1 }, "the data of MFT record 6 has"},
		"part missing":     {attribute(6, 0x80), func(b []byte) { b[24]++ }, "ends after"},
		"run list":         {attribute(9, 0x80), func(b []byte) { b[33] = 0xff }, "makes no sense"},
	} {
		t.Run(name, func(t *testing.T) {
			path := makeNTFS(t, 8*mib, "")
			patch(t, path, c.at(t, path), c.edit)
			res, err := probe(t, path)
			if err != nil || res.Content != "ntfs" || res.Used != nil || res.Whole == "" || !strings.Contains(res.Whole, c.want) {
				t.Errorf("%+v, error %v, want %q", res, err, c.want)
			}
		})
	}
}

// TestNTFSBitmap marks clusters of files as free, and free ones as used.
func TestNTFSBitmap(t *testing.T) {
	path := makeNTFS(t, 8*mib, "")
	before := mustProbe(t, path, "ntfs").Bytes()
	bitmap := ntfsData(t, path, 6)
	patch(t, path, bitmap+1000/8, func(b []byte) { b[0] ^= 1 })
	if after := mustProbe(t, path, "ntfs").Bytes(); after != before+4096 {
		t.Errorf("%d bytes used with one more cluster, %d without", after, before)
	}
	for _, n := range []int64{0, 1, 2, 4, 6, 10} {
		first := ntfsData(t, path, n) / 4096
		patch(t, path, bitmap+first/8, func(b []byte) { b[0] ^= 1 << (first % 8) })
		res, err := probe(t, path)
		if err != nil || res.Used != nil || !strings.Contains(res.Whole, "but free by the bitmap") {
			t.Errorf("record %d: %+v, error %v", n, res, err)
		}
		patch(t, path, bitmap+first/8, func(b []byte) { b[0] ^= 1 << (first % 8) })
	}
}

// TestNTFSTail has a partition that is larger than its filesystem.
func TestNTFSTail(t *testing.T) {
	path := makeNTFS(t, 8*mib, "")
	if err := os.Truncate(path, 9*mib); err != nil {
		t.Fatal(err)
	}
	res, err := probe(t, path)
	if err != nil || res.Used == nil || len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "1048576 bytes between") {
		t.Errorf("%+v, error %v", res, err)
	}
}

// TestNTFSDamage flips bits in all that the probe looks at.
func TestNTFSDamage(t *testing.T) {
	path := makeNTFS(t, 4*mib, "")
	mft := ntfsRecord(t, path, 0)
	flipBits(t, path, [][2]int64{{0, 512}, {mft, mft + 12*1024}, {ntfsData(t, path, 6), ntfsData(t, path, 6) + 128}, {ntfsData(t, path, 2), ntfsData(t, path, 2) + 64}})
}

// TestNTFSReadErrors has an unreadable sector in each place that is looked at.
func TestNTFSReadErrors(t *testing.T) {
	path := makeNTFS(t, 8*mib, "")
	at := []int64{0}
	for _, n := range []int64{0, 2, 3, 6, 9} {
		at = append(at, ntfsRecord(t, path, n))
	}
	for _, n := range []int64{2, 6} {
		at = append(at, ntfsData(t, path, n))
	}
	unreadable(t, path, "ntfs", at...)
}

// unreadable probes a filesystem with an unreadable sector at each of some
// offsets. In the first 65 KiB it hides what the content is from the first who
// looks.
func unreadable(t *testing.T, path, content string, offsets ...int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range offsets {
		res, err := usedmap.Probe(flaky{bytes.NewReader(b), off}, int64(len(b)))
		if !errors.Is(err, os.ErrDeadlineExceeded) || res.Used != nil || !strings.Contains(res.Whole, "could not be read") || off >= 65*kib && res.Content != content {
			t.Errorf("at %d: %+v, error %v", off, res, err)
		}
	}
}

// flipBits flips one bit after the other in some ranges of a filesystem: each
// time it must be refused, be taken whole, or have no used byte fewer. A few
// may make something else of it.
func flipBits(t *testing.T, path string, ranges [][2]int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all, err := usedmap.Probe(bytes.NewReader(b), int64(len(b)))
	if err != nil || all.Used == nil {
		t.Fatalf("%+v, error %v", all, err)
	}
	var refused, whole, right int
	for _, r := range ranges {
		for at := r[0]; at < r[1]; at++ {
			bit := byte(1) << (at * 5 % 8)
			b[at] ^= bit
			res, err := usedmap.Probe(bytes.NewReader(b), int64(len(b)))
			b[at] ^= bit
			var no *usedmap.Refused
			switch {
			case errors.As(err, &no) && res.Used == nil:
				refused++
			case err != nil:
				t.Fatalf("byte %d: %v", at, err)
			case res.Used == nil && res.Whole != "":
				whole++
			default:
				right++
				if lost := missing(all.Used, res.Used); lost > 0 {
					t.Errorf("byte %d, bit %02x: %d used bytes are not taken: %+v", at, bit, lost, res)
				}
			}
		}
	}
	t.Logf("%d times refused, %d whole, %d right", refused, whole, right)
	if whole == 0 || right == 0 {
		t.Error("the ranges are not those that the probe looks at")
	}
}

// missing returns how many bytes of want are not in got.
func missing(want, got *usedmap.Set) int64 {
	both := new(usedmap.Set)
	for _, s := range []*usedmap.Set{want, got} {
		for at, n := range s.All() {
			both.Add(at, n)
		}
	}
	return both.Bytes() - got.Bytes()
}
