package usedmap_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/usedmap"
)

type fatCase struct {
	name string
	size int64
	args string
	fill int64
}

func fatCases() []fatCase {
	return []fatCase{
		{"fat12 floppy", 1440 * kib, "-F 12", 600 * kib},
		{"fat12", 8 * mib, "-F 12 -s 8", 2 * mib},
		{"fat12 odd", 3*mib + 512, "-F 12 -s 4 -f 1", 1 * mib},
		{"fat12 most clusters", 4129 * 512, "-F 12 -s 1 -f 1 -a", 1 * mib},
		{"fat16", 64 * mib, "-F 16", 6 * mib},
		{"fat16 most clusters", 65813 * 512, "-F 16 -s 1 -f 1 -a", 6 * mib},
		{"fat16 sectors of 4096", 64 * mib, "-F 16 -S 4096", 6 * mib},
		{"fat32", 300 * mib, "-F 32", 6 * mib},
		{"fat32 few clusters", 34 * mib, "-F 32 -s 1", 6 * mib},
		{"fat32 one table", 100 * mib, "-F 32 -f 1 -s 1", 6 * mib},
		{"fat32 many clusters", 600 * mib, "-F 32 -s 1", 6 * mib},
		{"fat32 sectors of 4096", 600 * mib, "-F 32 -S 4096 -s 1", 6 * mib},
	}
}

func makeFAT(t testing.TB, c fatCase) string {
	t.Helper()
	path := newFile(t, c.size)
	run(t, "mkfs.vfat", append(strings.Fields(c.args), "-n", "LABEL", "-i", "1234abcd", path)...)
	dir := tree(t, c.fill)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		run(t, "mcopy", "-s", "-i", path, filepath.Join(dir, e.Name()), "::")
		if gone, err := filepath.Glob(filepath.Join(dir, e.Name(), "gone-*")); err != nil {
			t.Fatal(err)
		} else if len(gone) > 0 {
			run(t, "mdel", "-i", path, fmt.Sprintf("::%s/gone-*", e.Name()))
		}
	}
	run(t, "fsck.vfat", "-n", path)
	return path
}

func TestFAT(t *testing.T) {
	for _, c := range fatCases() {
		t.Run(c.name, func(t *testing.T) {
			path := makeFAT(t, c)
			res, err := probe(t, path)
			if err != nil || res.UUID != "1234-ABCD" || res.Label != "LABEL" {
				t.Errorf("%+v, error %v", res, err)
			}
			used := mustProbe(t, path, "vfat")
			compareFsck(t, path, used)
			copied := garbageCopy(t, path, used)
			run(t, "fsck.vfat", "-n", copied)
			a, b := tempDir(t), tempDir(t)
			run(t, "mcopy", "-s", "-i", path, "::", a)
			run(t, "mcopy", "-s", "-i", copied, "::", b)
			sameTree(t, a, b)
		})
	}
}

// compareFsck compares the number of clusters with what fsck.vfat says is in use:
// "FILE: 12 files, 345/6789 clusters".
func compareFsck(t *testing.T, path string, used *usedmap.Set) {
	t.Helper()
	out := run(t, "fsck.vfat", "-n", "-v", path)
	var dataAt, cluster, files, clusters int64
	for line := range strings.SplitSeq(out, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "Data area starts at byte"):
			scan(t, line, "Data area starts at byte %d", &dataAt)
		case strings.HasSuffix(line, "bytes per cluster"):
			scan(t, line, "%d bytes per cluster", &cluster)
		case strings.HasSuffix(line, "clusters") && strings.HasPrefix(line, path):
			scan(t, strings.TrimPrefix(line, path+": "), "%d files, %d/", &files, &clusters)
		}
	}
	if got, want := used.Bytes(), dataAt+clusters*cluster; got != want || clusters == 0 {
		t.Errorf("%d bytes used; by fsck.vfat %d + %d clusters of %d = %d", got, dataAt, clusters, cluster, want)
	}
}

func scan(t testing.TB, line, format string, a ...any) {
	t.Helper()
	if _, err := fmt.Sscanf(line, format, a...); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
}

func TestFATOdd(t *testing.T) {
	fat32 := fatCase{size: 34 * mib, args: "-F 32 -s 1"}
	fat16 := fatCase{size: 20 * mib, args: "-F 16"}
	table := int64(32 * 512) // of fat32
	for name, c := range map[string]struct {
		fatCase
		at   int64
		edit func(b []byte)
		warn string
		want string // why it is whole
	}{
		"dirty by Linux":        {fatCase: fat32, at: 65, edit: func(b []byte) { b[0] |= 1 }, warn: "not unmounted"},
		"dirty by Windows":      {fatCase: fat32, at: table + 4, edit: func(b []byte) { b[3] &^= 8 }, want: "copies 1 and 2"},
		"fat16 dirty by Linux":  {fatCase: fat16, at: 37, edit: func(b []byte) { b[0] |= 1 }, warn: "not unmounted"},
		"copies differ":         {fatCase: fat32, at: table + 70000, edit: func(b []byte) { b[0] ^= 1 }, want: "copies 1 and 2 of its table disagree"},
		"copies not mirrored":   {fatCase: fat32, at: 40, edit: func(b []byte) { b[0] = 0x81 }},
		"active table missing":  {fatCase: fat32, at: 40, edit: func(b []byte) { b[0] = 0x82 }, want: "table 2 of 2"},
		"larger than partition": {fatCase: fat32, at: 32, edit: func(b []byte) { b[0]++ }, want: "it has 35652096 bytes"},
		"small table":           {fatCase: fat32, at: 36, edit: func(b []byte) { b[0], b[1] = 9, 0 }, want: "a FAT32 table of"},
		"no table":              {fatCase: fat32, at: 36, edit: func(b []byte) { clear(b[:4]) }, want: "data begins at"},
		"table too large":       {fatCase: fat32, at: 36, edit: func(b []byte) { b[3] = 0xff }, want: "data begins at"},
	} {
		t.Run(name, func(t *testing.T) {
			path := makeFAT(t, c.fatCase)
			patch(t, path, c.at, c.edit)
			res, err := probe(t, path)
			if err != nil || res.Content != "vfat" || (res.Used == nil) != (c.want != "") || !strings.Contains(res.Whole, c.want) {
				t.Errorf("%+v, error %v", res, err)
			}
			if warn := strings.Join(res.Warnings, "\n"); !strings.Contains(warn, c.warn) || (c.warn == "") != (warn == "") {
				t.Errorf("warnings %q", warn)
			}
		})
	}
}

// TestFATBad has a cluster marked bad, which is not read.
func TestFATBad(t *testing.T) {
	path := makeFAT(t, fatCase{size: 34 * mib, args: "-F 32 -s 1"})
	before := mustProbe(t, path, "vfat").Bytes()
	size := int64(0)
	for line := range strings.SplitSeq(run(t, "fsck.vfat", "-n", "-v", path), "\n") {
		if strings.Contains(line, "bytes per FAT") {
			scan(t, strings.TrimSpace(line), "%d bytes per FAT", &size)
		}
	}
	for i := range int64(2) {
		patch(t, path, 32*512+i*size+4*1000, func(b []byte) { copy(b, "\xf7\xff\xff\x0f") })
	}
	if after := mustProbe(t, path, "vfat").Bytes(); after != before {
		t.Errorf("%d bytes used with a bad cluster, %d without", after, before)
	}
	for i := range int64(2) {
		patch(t, path, 32*512+i*size+4*1000, func(b []byte) { copy(b, "\xf8\xff\xff\xff") })
	}
	if after := mustProbe(t, path, "vfat").Bytes(); after != before+512 {
		t.Errorf("%d bytes used with one more cluster, %d without", after, before)
	}
}
