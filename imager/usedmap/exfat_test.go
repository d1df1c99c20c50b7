package usedmap_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"huck/imager/usedmap"
)

// exfatCase is a filesystem as mkfs.exfat makes it.
type exfatCase struct {
	name string
	size int64
	args string
	fill int64 // bytes of files
}

func exfatCases() []exfatCase {
	return []exfatCase{
		{"exfat default", 60 * mib, "", 6 * mib},
		{"exfat odd size", 60*mib + 512, "", 6 * mib},
		{"exfat clusters of 512", 30 * mib, "-c 512", 6 * mib},
		{"exfat clusters of 128k", 300 * mib, "-c 128K", 6 * mib},
		{"exfat clusters of 32M", 2 * gib, "-c 32M", 50 * kib},
		{"exfat packed bitmap", 60 * mib, "--pack-bitmap", 6 * mib},
		{"exfat boundary", 60 * mib, "-b 8M", 6 * mib},
		{"exfat large", 200 * gib, "", 6 * mib},
		{"exfat many clusters", 4 * gib, "-c 512", 1 * mib},
	}
}

func makeExFAT(t testing.TB, size int64, args string) string {
	t.Helper()
	path := newFile(t, size)
	run(t, "mkfs.exfat", append(strings.Fields(args), "-L", "Data label", path)...)
	return path
}

// exfat writes files into an exFAT filesystem: neither every kernel nor
// exfatprogs can. Files are in one piece or scattered, by turns.
type exfat struct {
	t                  testing.TB
	f                  *os.File
	fat, heap, cluster int64
	bitmap             []byte
	bitmapAt           int64
	root               []uint32
	entries            []byte // of the root directory
	rover              uint32
	scatter            bool
	files              map[string][]byte
	places             map[string][]uint32
}

func openExFAT(t testing.TB, path string) *exfat {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	x := &exfat{t: t, f: f, files: make(map[string][]byte), places: make(map[string][]uint32)}
	b := x.read(0, 512)
	le := binary.LittleEndian
	sector := int64(1) << b[108]
	x.fat, x.heap, x.cluster = int64(le.Uint32(b[80:]))*sector, int64(le.Uint32(b[88:]))*sector, sector<<b[109]
	x.root = []uint32{le.Uint32(b[96:])}
	all := x.read(x.offset(x.root[0]), min(x.cluster, 4096))
	for at := 0; at < len(all) && all[at] != 0; at += 32 {
		if all[at] == 0x81 {
			x.bitmapAt = x.offset(le.Uint32(all[at+20:]))
			x.bitmap = x.read(x.bitmapAt, int64(le.Uint64(all[at+24:])))
		}
		x.entries = append(x.entries, all[at:at+32]...)
	}
	x.rover = x.root[0] + 1
	return x
}

func (x *exfat) offset(c uint32) int64 { return x.heap + int64(c-2)*x.cluster }

func (x *exfat) read(at, n int64) []byte {
	b := make([]byte, n)
	if _, err := x.f.ReadAt(b, at); err != nil {
		x.t.Fatal(err)
	}
	return b
}

func (x *exfat) write(b []byte, at int64) {
	if _, err := x.f.WriteAt(b, at); err != nil {
		x.t.Fatal(err)
	}
}

// link writes the chain of a file's clusters into the table.
func (x *exfat) link(cs []uint32) {
	for i, c := range cs {
		next := uint32(0xffffffff)
		if i+1 < len(cs) {
			next = cs[i+1]
		}
		x.write(binary.LittleEndian.AppendUint32(nil, next), x.fat+4*int64(c))
	}
}

// store writes data into new clusters.
func (x *exfat) store(data []byte, chained bool) []uint32 {
	var cs []uint32
	for at := int64(0); at < int64(len(data)); at += x.cluster {
		cs = append(cs, x.rover)
		x.bitmap[(x.rover-2)/8] |= 1 << ((x.rover - 2) % 8)
		x.write(data[at:min(at+x.cluster, int64(len(data)))], x.offset(x.rover))
		x.rover++
		if chained {
			x.rover += 1 + x.rover%3
		}
	}
	if chained {
		x.link(cs)
	}
	return cs
}

// add makes the entries of a file and stores its data.
func (x *exfat) add(name string, attributes uint16, data []byte) []byte {
	x.scatter = !x.scatter
	cs := x.store(data, x.scatter)
	if attributes == 0 {
		x.files[name], x.places[name] = data, cs
	}
	u := utf16.Encode([]rune(name))
	names := (len(u) + 14) / 15
	b := make([]byte, 32*(2+names))
	le := binary.LittleEndian
	b[0], b[1], b[32], b[33], b[35] = 0x85, byte(1+names), 0xc0, 1, byte(len(u))
	le.PutUint16(b[4:], attributes)
	for _, at := range []int{8, 12, 16} {
		le.PutUint32(b[at:], 40<<25|1<<21|1<<16)
	}
	if !x.scatter {
		b[33] |= 2
	}
	for i, c := range u {
		le.PutUint16(b[64+i/15*32+2+i%15*2:], c)
	}
	le.PutUint16(b[36:], exfatHash(u))
	for i := range names {
		b[64+32*i] = 0xc1
	}
	le.PutUint64(b[40:], uint64(len(data)))
	le.PutUint64(b[56:], uint64(len(data)))
	if len(cs) > 0 {
		le.PutUint32(b[52:], cs[0])
	} else {
		b[33] &^= 2
	}
	le.PutUint16(b[2:], exfatSum(b))
	return b
}

// exfatHash is that of an ASCII name.
func exfatHash(u []uint16) uint16 {
	var sum uint16
	for _, c := range u {
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		for _, b := range []uint16{c & 0xff, c >> 8} {
			sum = sum<<15 | sum>>1
			sum += b
		}
	}
	return sum
}

// exfatSum is the checksum of a file's entries.
func exfatSum(b []byte) uint16 {
	var sum uint16
	for i, c := range b {
		if i != 2 && i != 3 {
			sum = sum<<15 | sum>>1
			sum += uint16(c)
		}
	}
	return sum
}

// remove marks a file's entries as deleted and its clusters as free.
func (x *exfat) remove(name string, entries []byte) {
	for at := 0; at < len(entries); at += 32 {
		entries[at] &^= 0x80
	}
	for _, c := range x.places[name] {
		x.bitmap[(c-2)/8] &^= 1 << ((c - 2) % 8)
	}
	delete(x.files, name)
	delete(x.places, name)
}

// fill adds the files in dir, but for those that are there to be removed.
func (x *exfat) fill(dir string) {
	subs, err := os.ReadDir(dir)
	if err != nil {
		x.t.Fatal(err)
	}
	for _, sub := range subs {
		paths, err := filepath.Glob(filepath.Join(dir, sub.Name(), "*"))
		if err != nil {
			x.t.Fatal(err)
		}
		var entries []byte
		for _, p := range paths {
			data, err := os.ReadFile(p)
			if err != nil {
				x.t.Fatal(err)
			}
			name := filepath.Base(p)
			e := x.add(name, 0, data)
			if strings.HasPrefix(name, "gone-") {
				x.remove(name, e)
			}
			entries = append(entries, e...)
		}
		entries = append(entries, make([]byte, (x.cluster-int64(len(entries))%x.cluster)%x.cluster)...)
		x.entries = append(x.entries, x.add(sub.Name(), 0x10, entries)...)
	}
	x.entries = append(x.entries, x.add(strings.Repeat("a long name ", 20), 0, []byte("short"))...)
	x.entries = append(x.entries, x.add("empty", 0, nil)...)
}

// finish writes the root directory, in as many clusters as it takes, and the
// bitmap.
func (x *exfat) finish() {
	rest := x.entries[min(len(x.entries), int(x.cluster)):]
	x.write(x.entries[:len(x.entries)-len(rest)], x.offset(x.root[0]))
	x.root = append(x.root, x.store(rest, false)...)
	x.link(x.root)
	x.write(x.bitmap, x.bitmapAt)
}

// compare reads all files from another copy of the filesystem.
func (x *exfat) compare(path string) {
	y := openExFAT(x.t, path)
	for name, data := range x.files {
		var got []byte
		for _, c := range x.places[name] {
			got = append(got, y.read(y.offset(c), x.cluster)...)
		}
		if !bytes.Equal(got[:len(data)], data) {
			x.t.Errorf("%s differs", name)
		}
	}
}

func TestExFAT(t *testing.T) {
	for _, c := range exfatCases() {
		t.Run(c.name, func(t *testing.T) {
			path := makeExFAT(t, c.size, c.args)
			mustProbe(t, path, "exfat")
			x := openExFAT(t, path)
			x.fill(tree(t, c.fill))
			x.finish()
			if len(x.files) < 3 {
				t.Fatalf("%d files", len(x.files))
			}
			run(t, "fsck.exfat", "-n", path)
			res, err := probe(t, path)
			if uuid := strings.TrimSpace(run(t, "blkid", "-p", "-s", "UUID", "-o", "value", path)); err != nil || res.UUID != uuid || res.Label != "Data label" {
				t.Errorf("%+v, error %v, UUID by blkid %s", res, err, uuid)
			}
			used := mustProbe(t, path, "exfat")
			compareExFAT(t, path, used)
			comparePartclone(t, "exfat", path, used, x.heap) // it takes all before the clusters
			copied := garbageCopy(t, path, used)
			run(t, "fsck.exfat", "-n", copied)
			x.compare(copied)
			writeAt(t, copied, 0, make([]byte, 512)) // fsck takes the copy of the boot region
			if out, code := try(t, "fsck.exfat", "-y", "-b", copied); code > 1 {
				t.Errorf("without the boot sector: exit code %d\n%s", code, out)
			}
		})
	}
}

// compareExFAT compares the used bytes with the clusters that dump.exfat says
// are not free, and the table and boot regions.
func compareExFAT(t *testing.T, path string, used *usedmap.Set) {
	t.Helper()
	n := make(map[string]int64)
	for line := range strings.SplitSeq(run(t, "dump.exfat", path), "\n") {
		name, value, ok := strings.Cut(line, ":")
		if value = strings.TrimSpace(value); ok && value != "" && strings.Trim(value, "0123456789") == "" {
			n[strings.TrimSpace(name)] = number(t, value)
		}
	}
	sector := int64(1) << n["Sector Size Bits"]
	want := (24+n["FAT Length(sectors)"])*sector + (n["Total Clusters"]-n["Free Clusters"])*n["Cluster size"]
	if got := used.Bytes(); got != want || n["Free Clusters"] == 0 {
		t.Errorf("%d bytes used, by dump.exfat %d: %v", got, want, n)
	}
}

func TestExFATDirty(t *testing.T) {
	path := makeExFAT(t, 8*mib, "")
	patch(t, path, 106, func(b []byte) { b[0] |= 2 })
	wantRefused(t, path, "marked dirty")
}

// exfatBoot changes the boot sector and sets the checksum of its region.
func exfatBoot(t *testing.T, path string, edit func(b []byte)) {
	t.Helper()
	region := readAt(t, path, 0, 12*512)
	edit(region)
	var sum uint32
	for i, c := range region[:11*512] {
		if i != 106 && i != 107 && i != 112 {
			sum = sum<<31 | sum>>1
			sum += uint32(c)
		}
	}
	for i := 11 * 512; i < len(region); i += 4 {
		binary.LittleEndian.PutUint32(region[i:], sum)
	}
	writeAt(t, path, 0, region)
}

// TestExFATWhole damages filesystems in ways that make their bitmaps unworthy
// of belief.
func TestExFATWhole(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(b []byte)
		want string
	}{
		"signature":     {func(b []byte) { b[510] = 0 }, "its signature"},
		"FAT":           {func(b []byte) { b[11] = 1 }, "it has FAT's fields"},
		"revision":      {func(b []byte) { b[105] = 2 }, "its revision is 2.0"},
		"sector size":   {func(b []byte) { b[108] = 13 }, "sectors of 2^13 bytes"},
		"cluster size":  {func(b []byte) { b[109] = 17 }, "2^17 of them"},
		"tables":        {func(b []byte) { b[110] = 3 }, "3 tables"},
		"length":        {func(b []byte) { b[79] = 0x80 }, "the partition has"},
		"table at":      {func(b []byte) { b[80], b[81] = 1, 0 }, "from sector 1 on"},
		"short table":   {func(b []byte) { b[84] = 1 }, "tables of 1 sectors"},
		"long table":    {func(b []byte) { b[87] = 0xff }, "1 tables of"},
		"heap":          {func(b []byte) { b[91] = 0x7f }, "sectors in all"},
		"all clusters":  {func(b []byte) { copy(b[92:96], "\xff\xff\xff\xff") }, "4294967295 clusters"},
		"root":          {func(b []byte) { b[96], b[97] = 1, 0 }, "its root in cluster 1"},
		"root is data":  {func(b []byte) { b[96] = 200 }, "its root directory: cluster 0"},
		"root is table": {func(b []byte) { b[96] = 3 }, ""},
		"two tables":    {func(b []byte) { b[110] = 2 }, "the two copies of its table disagree"},
	} {
		t.Run(name, func(t *testing.T) {
			path := makeExFAT(t, 8*mib, "")
			exfatBoot(t, path, c.edit)
			res, err := probe(t, path)
			if err != nil || res.Content != "exfat" || res.Used != nil || res.Whole == "" || !strings.Contains(res.Whole, c.want) {
				t.Errorf("%+v, error %v, want %q", res, err, c.want)
			}
		})
	}
	path := makeExFAT(t, 8*mib, "")
	patch(t, path, 100, func(b []byte) { b[0]++ })
	if res, err := probe(t, path); err != nil || res.Used != nil || !strings.Contains(res.Whole, "its boot region has checksum") {
		t.Errorf("%+v, error %v", res, err)
	}
}

// TestExFATContradiction has directories and tables that cannot be right.
func TestExFATContradiction(t *testing.T) {
	le := binary.LittleEndian
	sum := func(e []byte) []byte { le.PutUint16(e[2:], exfatSum(e)); return e }
	for want, edit := range map[string]func(x *exfat){
		"a file has cluster": func(x *exfat) {
			e := x.add("a", 0, make([]byte, 3*x.cluster))
			c := x.places["a"][1] - 2
			x.bitmap[c/8] &^= 1 << (c % 8)
			x.entries = append(x.entries, e...)
		},
		"entries have checksum": func(x *exfat) {
			e := x.add("a", 0, []byte("a"))
			e[40]++
			x.entries = append(x.entries, e...)
		},
		"entries are not complete": func(x *exfat) {
			x.entries = append(x.entries, x.add("a", 0, []byte("a"))[:64]...)
		},
		"two directories begin": func(x *exfat) {
			e := x.add("a", 0x10, make([]byte, x.cluster))
			le.PutUint32(e[52:], x.root[0])
			x.entries = append(x.entries, sum(e)...)
		},
		"belongs to no file": func(x *exfat) { x.entries = append(x.entries, x.add("a", 0, nil)[32:]...) },
		"of kind 86 is not known": func(x *exfat) {
			x.entries = append(x.entries, append([]byte{0x86}, make([]byte, 31)...)...)
		},
		"bitmaps are not numbered": func(x *exfat) { x.entries = append(x.entries, x.entries[32:64]...) },
		"all clusters": func(x *exfat) {
			e := x.add("a", 0, []byte("a"))
			e[63] = 0x7f
			x.entries = append(x.entries, sum(e)...)
		},
		"and 1 more": func(x *exfat) {
			e := x.add("a", 0, []byte("a"))
			e[52], e[53], e[54], e[55], e[57] = 1, 0, 0, 0, 0x10+1
			x.entries = append(x.entries, sum(e)...)
		},
		"more clusters than there are": func(x *exfat) {
			x.scatter = true // so the next is not
			e := x.add("a", 0, make([]byte, 1800*x.cluster))
			x.entries = append(append(x.entries, e...), e...)
		},
		"with 1 to come": func(x *exfat) {
			x.scatter = false
			e := x.add("a", 0, make([]byte, 2*x.cluster))
			x.link(x.places["a"][:1])
			x.entries = append(x.entries, e...)
		},
		"with 0 to come": func(x *exfat) {
			x.scatter = false
			e := x.add("a", 0, make([]byte, 2*x.cluster))
			cs := x.places["a"]
			x.write(le.AppendUint32(nil, cs[0]), x.fat+4*int64(cs[1]))
			x.entries = append(x.entries, e...)
		},
		"one of more than": func(x *exfat) {
			e := x.add("a", 0x10, make([]byte, x.cluster))
			x.entries = append(x.entries, sum(e)...)
			le.PutUint64(e[56:], 257*mib)
			x.entries = append(x.entries[:len(x.entries)-len(e)], sum(e)...)
		},
	} {
		t.Run(want, func(t *testing.T) {
			size := int64(12 * mib)
			if want == "one of more than" {
				size = 400 * mib
			}
			path := makeExFAT(t, size, "-c 4096")
			x := openExFAT(t, path)
			if want == "one of more than" {
				x.t = t
				for i := range x.bitmap[:len(x.bitmap)-1] {
					x.bitmap[i] = 0xff
				}
			}
			edit(x)
			x.finish()
			res, err := probe(t, path)
			if err != nil || res.Content != "exfat" || res.Used != nil || !strings.Contains(res.Whole, want) {
				t.Errorf("%+v, error %v, want %q", res, err, want)
			}
		})
	}
}

// TestExFATDamage flips bits in all that the probe looks at.
func TestExFATDamage(t *testing.T) {
	path := makeExFAT(t, 8*mib, "")
	x := openExFAT(t, path)
	x.fill(tree(t, 1*mib))
	x.finish()
	root := x.offset(x.root[0])
	flipBits(t, path, [][2]int64{{0, 12 * 512}, {x.fat, x.fat + 2000}, {x.bitmapAt, x.bitmapAt + 200}, {root, root + int64(len(x.entries))}})
}

func TestExFATReadErrors(t *testing.T) {
	path := makeExFAT(t, 8*mib, "")
	x := openExFAT(t, path)
	x.fill(tree(t, 1*mib))
	x.finish()
	dir := int64(0)
	for at := 0; at < len(x.entries); at += 32 {
		if x.entries[at] == 0x85 && x.entries[at+4]&0x10 != 0 {
			dir = x.offset(binary.LittleEndian.Uint32(x.entries[at+52:]))
		}
	}
	unreadable(t, path, "exfat", 0, 5*512, x.fat, x.bitmapAt, x.offset(x.root[0]), dir)
}
