package install_test

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"huck/imager/capture"
	"huck/imager/disk"
	"huck/imager/disk/disktest"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/install/prooftest"
	"huck/imager/store"
)

// proof is a row of the matrix: a filesystem as its own mkfs makes it, that has
// to go through capture and install and be none the worse for it.
type proof struct {
	name   string
	kind   string // as blkid has it
	size   int64  // MiB
	mkfs   string
	table  string // gpt if empty; hybrid, mbr, logical, none
	sector int    // 512 if 0
	// fine says that the filesystem's blocks may be finer than the image's: what
	// was rounded outward may hold deleted bytes, and is told.
	fine bool
	// after is a shell script that changes the filesystem on the device $1.
	after string
	// filler puts files in and removes a third of them; nil mounts it.
	filler func(t *testing.T, dev string)
	// skipPaging leaves Windows' paging files out.
	skipPaging bool
	// same compares the files of two devices; nil mounts them.
	same func(t *testing.T, a, b string)
}

func proofs() []proof {
	ext := func(name, mkfs string) proof {
		return proof{name: name, kind: "ext4", size: 96, mkfs: "mke2fs -q -F -t ext4 " + mkfs}
	}
	fine := func(p proof) proof { p.fine = true; return p }
	on := func(p proof, table string, sector int) proof { p.table, p.sector = table, sector; return p }
	return []proof{
		{name: "ext2 1k", kind: "ext2", size: 96, mkfs: "mke2fs -q -F -t ext2 -b 1024", table: "mbr", fine: true},
		{name: "ext3", kind: "ext3", size: 96, mkfs: "mke2fs -q -F -t ext3 -b 4096", table: "logical"},
		fine(ext("ext4", "")),
		on(ext("ext4 on 4096-byte sectors", "-b 4096"), "", 4096),
		on(ext("ext4 on the whole disk", "-b 4096"), "none", 0),
		on(ext("ext4 behind a hybrid MBR", "-b 4096"), "hybrid", 0),
		on(ext("ext4 behind an MBR, 4096-byte sectors", "-b 4096"), "logical", 4096), // of which the MBR says nothing
		fine(ext("ext4 1k", "-b 1024")),
		fine(ext("ext4 2k", "-b 2048 -O ^flex_bg")),
		{name: "ext4 16k", kind: "ext4", size: 128, mkfs: "mke2fs -q -F -t ext4 -b 16384", filler: fillExt, same: sameExt},
		{name: "ext4 64k", kind: "ext4", size: 192, mkfs: "mke2fs -q -F -t ext4 -b 65536", filler: fillExt, same: sameExt},
		ext("ext4 bigalloc", "-b 4096 -O bigalloc -C 65536"),
		fine(ext("ext4 meta_bg", "-b 1024 -O meta_bg,^resize_inode")),
		{name: "ext4 with a first meta_bg", kind: "ext4", size: 160, mkfs: "mke2fs -q -F -t ext4 -b 1024 -O meta_bg,^resize_inode", fine: true, after: firstMetaBG},
		fine(ext("ext4 sparse_super2", "-b 1024 -O sparse_super2,^resize_inode")),
		fine(ext("ext4 inline_data", "-b 1024 -O inline_data")),
		fine(ext("ext4 uninit groups", "-b 1024 -O ^metadata_csum,uninit_bg,^64bit -E lazy_itable_init=1")),
		ext("ext4 orphan_file", "-b 4096 -O orphan_file,ea_inode,large_dir"),
		{name: "xfs v4", kind: "xfs", size: 320, mkfs: "mkfs.xfs -q -f --unsupported -m crc=0", filler: fillXFS, same: sameXFS},
		{name: "xfs v5 reflink rmapbt", kind: "xfs", size: 320, mkfs: "mkfs.xfs -q -f --unsupported -m reflink=1,rmapbt=1"},
		{name: "xfs 20 groups, 4096-byte sectors", kind: "xfs", size: 400, mkfs: "mkfs.xfs -q -f --unsupported -d agcount=20", sector: 4096},
		{name: "xfs 1k", kind: "xfs", size: 320, mkfs: "mkfs.xfs -q -f --unsupported -b size=1024", table: "mbr", fine: true},
		{name: "btrfs", kind: "btrfs", size: 256, mkfs: "mkfs.btrfs -q -f -m dup"},
		{name: "btrfs single", kind: "btrfs", size: 256, mkfs: "mkfs.btrfs -q -f -m single -d single --csum xxhash", table: "none"},
		{name: "btrfs mixed dup", kind: "btrfs", size: 256, mkfs: "mkfs.btrfs -q -f --mixed -m dup -d dup"},
		{name: "ntfs", kind: "ntfs", size: 128, mkfs: "mkntfs -q -F -Q -p 2048 -H 255 -S 63", table: "mbr", filler: fillNTFS, same: sameNTFS},
		{name: "ntfs 64k", kind: "ntfs", size: 192, mkfs: "mkntfs -q -F -Q -c 65536 -p 2048 -H 255 -S 63", filler: fillNTFS, same: sameNTFS},
		{name: "fat12", kind: "vfat", size: 64, mkfs: "mkfs.vfat -F 12 -s 64", table: "mbr", filler: fillFAT, same: sameFAT},
		{name: "fat16", kind: "vfat", size: 96, mkfs: "mkfs.vfat -F 16", table: "logical", fine: true, filler: fillFAT, same: sameFAT},
		{name: "fat32", kind: "vfat", size: 288, mkfs: "mkfs.vfat -F 32 -s 8", filler: fillFAT, same: sameFAT},
		{name: "exfat", kind: "exfat", size: 96, mkfs: "mkfs.exfat", filler: fillExFAT, same: sameExFAT},
		{name: "f2fs", kind: "f2fs", size: 160, mkfs: "mkfs.f2fs -q -f", filler: fillF2FS, same: sameF2FS},
	}
}

// TestProof takes every row through capture and install onto a disk full of
// random bytes.
func TestProof(t *testing.T) {
	disktest.NeedRoot(t)
	for _, p := range proofs() {
		t.Run(p.name, func(t *testing.T) { p.run(t) })
	}
}

func (p proof) run(t *testing.T) {
	if p.sector == 0 {
		p.sector = 512
	}
	source, start := p.disk(t)
	size := p.size * mib
	dev, detach := attach(t, source, start, size, p.sector)
	mkfs := strings.Fields(p.mkfs)
	tool(t, mkfs[0], append(mkfs[1:], dev)...)
	if p.after != "" {
		tool(t, "sh", "-ec", p.after, "sh", dev)
	}
	filler, same := p.filler, p.same
	if filler == nil {
		needKernel(t, p.kind)
		filler = func(t *testing.T, dev string) {
			mounted(t, dev, p.kind, "rw", func(dir string) { must(t, prooftest.Populate(dir), prooftest.RemoveGone(dir)) })
		}
		same = func(t *testing.T, a, b string) {
			var states [2]string
			for i, dev := range []string{a, b} {
				mounted(t, dev, p.kind, "ro", func(dir string) { states[i] = treeState(t, dir) })
			}
			must(t, prooftest.Same(states[0], states[1]))
		}
	}
	filler(t, dev)
	wantSound(t, p.kind, dev)
	byItself := usedByItself(t, p.kind, dev)
	detach()

	img, st, res := p.capture(t, source)
	found := img.Manifest.Partitions[0]
	if found.Content != p.kind || found.Whole != "" || found.Start != start {
		t.Fatalf("captured %+v", found)
	}
	used := found.UsedBytes - res.SurplusBytes
	t.Logf("used: %d bytes, by itself %d (%+.2f %%), to fill blocks %d more", used, byItself, 100*float64(used-byItself)/float64(byItself), res.SurplusBytes)
	if max(used-byItself, byItself-used)*50 > byItself {
		t.Errorf("%d bytes used, the filesystem says %d", used, byItself)
	}
	if left := occurrences(t, img, st); left > 0 && !p.fine || left*int64(len(prooftest.Gone)) > res.SurplusBytes {
		t.Errorf("the image holds %d bytes of deleted files, %d were taken to fill blocks", left*int64(len(prooftest.Gone)), res.SurplusBytes)
	} else if left > 0 {
		t.Logf("%d bytes of deleted files are in blocks that others share", left*int64(len(prooftest.Gone)))
	}

	target := p.install(t, source, img, st)
	a, detachA := attach(t, source, start, size, p.sector)
	b, detachB := attach(t, target, start, size, p.sector)
	wantSound(t, p.kind, b)
	same(t, a, b)
	detachA()
	detachB()
}

// disk makes a disk with room for the filesystem, which begins at start.
func (p proof) disk(t *testing.T) (file string, start int64) {
	t.Helper()
	file, start = inMemory(t), mib
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, (p.size+4)*mib); err != nil {
		t.Fatal(err)
	}
	sectors := func(n int64) int64 { return n * mib / int64(p.sector) }
	script := ""
	switch p.table {
	case "", "hybrid":
		script = fmt.Sprintf("label: gpt\nstart=%d,size=%d\n", sectors(1), sectors(p.size))
	case "mbr":
		script = fmt.Sprintf("label: dos\nstart=%d,size=%d,type=83\n", sectors(1), sectors(p.size))
	case "logical":
		script, start = fmt.Sprintf("label: dos\nstart=%d,size=%d,type=5\nstart=%d,size=%d,type=83\n", sectors(1), sectors(p.size+2), sectors(2), sectors(p.size)), 2*mib
	case "none":
		if err := os.Truncate(file, p.size*mib); err != nil {
			t.Fatal(err)
		}
		return file, 0
	}
	dev, detach := attach(t, file, 0, (p.size+4)*mib, p.sector)
	defer detach()
	toolInput(t, script, "sfdisk", "-q", "--no-reread", "--no-tell-kernel", dev)
	if p.table == "hybrid" {
		tool(t, "sgdisk", "--hybrid=1", dev)
	}
	return file, start
}

func (p proof) capture(t *testing.T, source string) (*image.Image, *store.Dir, capture.Result) {
	t.Helper()
	st, err := store.Open(t.TempDir(), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	dev, err := disk.Open(source, false)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	res, err := capture.Run(t.Context(), capture.Config{Device: dev, Store: st, Name: "x", SkipPaging: p.skipPaging})
	if err != nil {
		t.Fatal(err)
	}
	odd := slices.DeleteFunc(slices.Clone(res.Warnings), func(w string) bool { return p.table == "hybrid" && strings.Contains(w, "hybrid MBR") })
	if len(odd) != 0 || p.table == "hybrid" && len(res.Warnings) != 1 {
		t.Errorf("warnings %q", res.Warnings)
	}
	img, err := store.OpenImage(t.Context(), st, res.Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img, st, res
}

// install puts the image on a file full of random bytes, larger where the table
// is one that goes with that.
func (p proof) install(t *testing.T, source string, img *image.Image, st store.Store) string {
	t.Helper()
	size := img.Manifest.DiskSize
	if p.table != "none" {
		size += 7*mib + int64(p.sector)
	}
	target := inMemory(t)
	f, err := os.Create(target)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{9}), size)
	if err = cmp.Or(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	dev, err := disk.Open(target, true)
	if err != nil {
		t.Fatal(err)
	}
	j, err := install.New(img, dev, install.Options{Verify: true})
	if err == nil {
		_, err = j.Run(t.Context(), install.FromStore(st))
	}
	if err = cmp.Or(err, dev.Close()); err != nil {
		t.Fatal(err)
	}
	if p.table == "hybrid" {
		tool(t, "cmp", "-n", "512", source, target) // to the last record: this one's size is not the disk's
	}
	if p.table == "" && p.sector == 512 {
		if out := tool(t, "sgdisk", "-v", target); !strings.Contains(out, "No problems found") {
			t.Error(out)
		}
	}
	return target
}

// inMemory names a file in memory, where there is room for such: the tools sync
// what they write.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "proof-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "file")
}

// occurrences counts how often the bytes of deleted files are in the image.
func occurrences(t *testing.T, img *image.Image, st store.Store) (n int64) {
	t.Helper()
	dec, buf := image.NewDecoder(), make([]byte, image.RegionSize)
	for _, e := range img.Layout.Entries() {
		encoded, err := st.Chunk(t.Context(), e.ID)
		if err != nil {
			t.Fatal(err)
		}
		chunk, err := dec.Decode(buf, encoded, e.ID, e.Size(img.Manifest.DiskSize))
		if err != nil {
			t.Fatal(err)
		}
		n += int64(bytes.Count(chunk, []byte(prooftest.Gone)))
	}
	return n
}
