package ptable_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"huck/imager/image"
	"huck/imager/ptable"
)

const mib = 1 << 20

// tool returns the path of a program a test needs as its judge.
func tool(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p
		}
	}
	if os.Getenv("REQUIRE_TOOLS") == "1" {
		t.Fatalf("%s is not installed (REQUIRE_TOOLS=1)", name)
	}
	t.Skipf("%s is not installed (REQUIRE_TOOLS=1 makes this a failure)", name)
	return ""
}

func run(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(tool(t, name), args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// newDisk makes a sparse file, in memory where that can be: the tools sync what
// they write, and the rest of the machine's work with it.
func newDisk(t testing.TB, size int64) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ptable-test-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func readTable(t testing.TB, path string, sector int) *ptable.Table {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := ptable.Read(f, st.Size(), sector)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// sfdiskList is what sfdisk makes of a disk, in our terms.
func sfdiskList(t *testing.T, path string) (kind string, parts []ptable.Part) {
	t.Helper()
	var doc struct {
		Table struct {
			Label      string
			Partitions []struct {
				Node             string
				Start, Size      int64
				Type, UUID, Name string
			}
		} `json:"partitiontable"`
	}
	if err := json.Unmarshal([]byte(run(t, "", "sfdisk", "--json", path)), &doc); err != nil {
		t.Fatal(err)
	}
	for _, p := range doc.Table.Partitions {
		if p.Type == "5" || p.Type == "f" || p.Type == "85" {
			continue
		}
		part := ptable.Part{Start: p.Start * 512, Size: p.Size * 512, Type: strings.ToLower(p.Type), UUID: strings.ToLower(p.UUID), Name: p.Name}
		if len(part.Type) == 1 {
			part.Type = "0" + part.Type
		}
		if _, err := fmt.Sscanf(strings.TrimPrefix(p.Node, path), "%d", &part.Number); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, part)
	}
	slices.SortFunc(parts, func(a, b ptable.Part) int { return int(a.Start/512 - b.Start/512) })
	return strings.Replace(doc.Table.Label, "dos", "mbr", 1), parts
}

func TestReadAgainstSfdisk(t *testing.T) {
	for name, script := range map[string]string{
		"gpt":              "label: gpt\n2048,8M,U,\n,16M,L,\nstart=80M,size=4M,type=S,name=\"Größe, 36 characters are the most: aé\"\n",
		"gpt out of order": "label: gpt\n3: start=2048,size=2048\n1: start=40960,size=2048\n7: start=20480,size=1,name=seven\n",
		"gpt 4 entries":    "label: gpt\ntable-length: 4\nfirst-lba: 34\n,1M\n,\n",
		"mbr":              "label: dos\n2048,8M,c,*\n,16M,83\n,4M,82\n",
		"mbr out of order": "label: dos\n1: start=40960,size=2048\n4: start=2048,size=2048,type=7\n",
		"mbr logical":      "label: dos\n,8M\n,60M,E\n,4M,82\n,4M\n,8M,82\n,1M,7\n,3M\n,\n",
		"mbr lba extended": "label: dos\nstart=63,size=8000\n3: start=10000,size=100000,type=f\n5: start=10063,size=5000\n6: start=20000,size=5000,type=b\n",
		"mbr empty chain":  "label: dos\n,8M\n,60M,E\n",
	} {
		t.Run(name, func(t *testing.T) {
			path := newDisk(t, 100*mib)
			run(t, script, "sfdisk", path)
			got := readTable(t, path, 512)
			kind, want := sfdiskList(t, path)
			if got.Kind != kind || !slices.Equal(got.Parts, want) {
				t.Errorf("read %s\n%+v\nsfdisk has %s\n%+v", got.Kind, got.Parts, kind, want)
			}
			if len(got.Warnings) != 0 {
				t.Errorf("warnings: %q", got.Warnings)
			}
			if (got.GPT != nil) != (kind == "gpt") {
				t.Errorf("GPT fields %+v", got.GPT)
			}
			checkCover(t, got, 100*mib)
		})
	}
}

// checkCover tests that partitions, metadata, backup and gaps are the whole
// disk and meet nowhere.
func checkCover(t *testing.T, table *ptable.Table, size int64) {
	t.Helper()
	all := slices.Concat(table.Metadata, table.Backup, table.Gaps())
	for _, p := range table.Parts {
		all = append(all, image.Extent{Start: p.Start, Size: p.Size})
	}
	slices.SortFunc(all, func(a, b image.Extent) int { return int((a.Start - b.Start) / 512) })
	var at int64
	for _, e := range all {
		if e.Start != at {
			t.Errorf("at byte %d: next extent is %+v", at, e)
		}
		at = e.Start + e.Size
	}
	if at != size {
		t.Errorf("extents end at %d, the disk at %d", at, size)
	}
}

// TestOnlyMetadata clears all a table does not call its own and asks sfdisk
// whether anything is missing.
func TestOnlyMetadata(t *testing.T) {
	for name, script := range map[string]string{
		"gpt": "label: gpt\n2048,8M,U,\n,16M,L,\n",
		"mbr": "label: dos\n,8M\n,60M,E\n,4M,82\n,4M\n,8M,82\n,1M,7\n,3M\n,\n",
	} {
		t.Run(name, func(t *testing.T) {
			path := newDisk(t, 100*mib)
			run(t, script, "sfdisk", path)
			_, want := sfdiskList(t, path)
			table := readTable(t, path, 512)
			old, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, len(old))
			for i := range b {
				b[i] = 0xa5
			}
			for _, e := range slices.Concat(table.Metadata, table.Backup) {
				copy(b[e.Start:e.Start+e.Size], old[e.Start:])
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, got := sfdiskList(t, path); !slices.Equal(got, want) {
				t.Errorf("sfdisk had\n%+v\nnow has\n%+v", want, got)
			}
			if name == "gpt" {
				verifyGPT(t, path)
			}
		})
	}
}

// verifyGPT lets sgdisk judge a GPT.
func verifyGPT(t *testing.T, path string) {
	t.Helper()
	out := run(t, "", "sgdisk", "-v", path)
	if !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v:\n%s", out)
	}
	if out := run(t, "", "sfdisk", "--verify", path); strings.Contains(out, "mismatch") || strings.Contains(out, "corrupt") {
		t.Errorf("sfdisk --verify:\n%s", out)
	}
}

// fit lays the table of path's disk on a new disk of size bytes, as an install does.
func fit(t *testing.T, path string, size int64, sector int) (string, *ptable.Fitted) {
	t.Helper()
	src, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	b := make([]byte, mib)
	if _, err := io.ReadFull(src, b); err != nil {
		t.Fatal(err)
	}
	n, err := ptable.HeadSize(b[:2*sector], sector)
	if err != nil {
		t.Fatal(err)
	}
	f, err := ptable.Fit(b[:n], sector, size)
	if err != nil {
		t.Fatal(err)
	}
	to := newDisk(t, size)
	w, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for at, b := range map[int64][]byte{0: f.Head, int64(2 * sector): b[2*sector : n], f.BackupAt: f.Backup} {
		if _, err := w.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	return to, f
}

func TestFitJudgedBySgdisk(t *testing.T) {
	for name, script := range map[string]string{
		"usual":     "label: gpt\nsize=8M,type=U\nsize=16M,type=L,name=root\nsize=1M,type=S\n",
		"4 entries": "label: gpt\ntable-length: 4\nfirst-lba: 34\n,1M\n,20M\n",
	} {
		for _, size := range []int64{40 * mib, 100 * mib, 100*mib + 512, 3 << 40} {
			t.Run(fmt.Sprintf("%s to %d", name, size), func(t *testing.T) {
				t.Parallel() // sgdisk sleeps a second after each change
				path := newDisk(t, 100*mib)
				run(t, script, "sfdisk", path)
				to, f := fit(t, path, size, 512)
				verifyGPT(t, to)
				_, want := sfdiskList(t, path)
				if _, got := sfdiskList(t, to); !slices.Equal(got, want) {
					t.Errorf("fitted:\n%+v\nimage:\n%+v", got, want)
				}
				if end := f.BackupAt + int64(len(f.Backup)); end != size {
					t.Errorf("backup ends at %d", end)
				}
				if got := readTable(t, to, 512); len(got.Warnings) != 0 {
					t.Errorf("warnings: %q", got.Warnings)
				}
				run(t, "", "sgdisk", "-e", "-n", "0:0:0", to) // the room at the end can be used
			})
		}
	}
}

// TestRepairAgainstSgdisk takes from a disk what sgdisk put at its start; what
// is made anew must be the same to the byte.
func TestRepairAgainstSgdisk(t *testing.T) {
	for name, c := range map[string]struct{ sfdisk, sgdisk string }{
		"usual":          {"label: gpt\n,8M,U\n,16M,L\n", ""},
		"4 entries":      {"label: gpt\ntable-length: 4\nfirst-lba: 34\n,1M\n,20M\n", ""},
		"moved entries":  {"label: gpt\n,8M,U\n,16M,L\n", "--move-main-table=1024"},
		"many entries":   {"label: gpt\n,8M,U\n,16M,L\n", "--resize-table=1024"},
		"entries at end": {"label: gpt\n,8M,U\n,16M,L\n", "--move-main-table=2016"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // sgdisk sleeps a second after each change
			path := newDisk(t, 100*mib)
			run(t, c.sfdisk, "sfdisk", path)
			if c.sgdisk != "" {
				run(t, "", "sgdisk", c.sgdisk, path)
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := readTable(t, path, 512); len(got.Warnings) != 0 {
				t.Errorf("warnings: %q", got.Warnings)
			}
			patchFile(t, path, ptable.Patch{Start: 512, Data: make([]byte, 512)})
			table := readTable(t, path, 512)
			if len(table.Repair) == 0 {
				t.Fatalf("%+v", table)
			}
			patchFile(t, path, table.Repair...)
			verifyGPT(t, path)
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the repaired disk is not the one before, error %v", err)
			}
			to, _ := fit(t, path, 150*mib, 512)
			verifyGPT(t, to)
		})
	}
}

func patchFile(t *testing.T, path string, patches ...ptable.Patch) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range patches {
		if _, err := f.WriteAt(p.Data, p.Start); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSectors4096 has fdisk make and check a GPT of 4096-byte sectors.
func TestSectors4096(t *testing.T) {
	path := newDisk(t, 100*mib)
	run(t, "g\nn\n1\n\n+8M\nn\n2\n\n+16M\nw\n", "fdisk", "-b", "4096", path)
	table := readTable(t, path, 4096)
	if table.Kind != "gpt" || len(table.Parts) != 2 || len(table.Warnings) != 0 {
		t.Fatalf("%+v", table)
	}
	if p := table.Parts[1]; p.Start != 9*mib || p.Size != 16*mib {
		t.Errorf("partition 2: %+v", p)
	}
	checkCover(t, table, 100*mib)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := ptable.Read(f, 100*mib, 512); err == nil || !strings.Contains(err.Error(), "sectors of 4096 bytes") {
		t.Errorf("read with 512-byte sectors: %v", err)
	}
	to, _ := fit(t, path, 300*mib, 4096)
	if out := run(t, "v\nq\n", "fdisk", "-b", "4096", to); !strings.Contains(out, "No errors detected") || strings.Contains(out, "mismatch") {
		t.Errorf("fdisk's v:\n%s", out)
	}
	if got := readTable(t, to, 4096); len(got.Warnings) != 0 || !slices.Equal(got.Parts, table.Parts) {
		t.Errorf("fitted: %+v", got)
	}
}
