package install_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"huck/imager/install/prooftest"
)

// treeState tells all of a tree.
func treeState(t *testing.T, dir string) string {
	t.Helper()
	state, err := prooftest.State(dir)
	must(t, err)
	return state
}

// wantSound asks a filesystem's own checker.
func wantSound(t *testing.T, kind, dev string) {
	t.Helper()
	switch kind {
	case "xfs":
		tool(t, "xfs_repair", "-n", "-o", "force_geometry", dev)
	case "btrfs":
		tool(t, "btrfs", "check", "--readonly", "--check-data-csum", dev)
	case "ntfs":
		tool(t, "ntfsfix", "-n", dev)
	case "vfat":
		tool(t, "fsck.vfat", "-n", dev)
	case "exfat":
		tool(t, "fsck.exfat", "-n", dev)
	case "f2fs":
		if out := tool(t, "fsck.f2fs", "--dry-run", dev); !strings.Contains(out, "Done") || strings.Contains(out, "[Fail]") {
			t.Error(out)
		}
	default:
		tool(t, "e2fsck", "-fn", dev)
	}
}

// usedByItself is how much the filesystem's own tools say is used; where they
// do not, partclone.
func usedByItself(t *testing.T, kind, dev string) int64 {
	t.Helper()
	field := func(out, name string) int64 {
		t.Helper()
		m := regexp.MustCompile(`(?m)^` + name + `\s*[:=]?\s*(\d+)`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("no %s in\n%s", name, out)
		}
		n, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	switch kind {
	case "ext2", "ext3", "ext4":
		out := tool(t, "dumpe2fs", "-h", dev)
		return (field(out, "Block count") - field(out, "Free blocks")) * field(out, "Block size")
	case "xfs":
		out := tool(t, "xfs_db", "-r", "-c", "sb 0", "-c", "p dblocks fdblocks blocksize", dev)
		return (field(out, "dblocks") - field(out, "fdblocks")) * field(out, "blocksize")
	case "btrfs":
		sum := int64(mib) // before the first chunk: boot code and superblock
		for _, m := range regexp.MustCompile(`block group used (\d+) chunk_objectid \d+ flags (\S+)`).FindAllStringSubmatch(tool(t, "btrfs", "inspect-internal", "dump-tree", "-t", "extent", dev), -1) {
			n := field("n "+m[1], "n")
			if strings.Contains(m[2], "DUP") {
				n *= 2
			}
			sum += n
		}
		return sum
	}
	if kind == "vfat" {
		out := tool(t, "fsck.vfat", "-n", "-v", dev)
		m := regexp.MustCompile(`(\d+) bytes per cluster`).FindStringSubmatch(out)
		return field(out, "Data area starts at byte") + field(out, regexp.QuoteMeta(dev)+`: \d+ files,`)*field("n "+m[1], "n")
	}
	if kind == "exfat" { // it counts clusters; before them are boot sectors, twice, and the table
		out := tool(t, "dump.exfat", dev)
		return (field(out, "Total Clusters")-field(out, "Free Clusters"))*field(out, "Cluster size") +
			(24+field(out, `FAT Length\(sectors\)`))*512
	}
	sum := int64(0)
	for _, r := range partclone(t, kind, dev) {
		sum += r[1]
	}
	return sum
}

// partclone lists the stretches that partclone would copy: offset and length.
func partclone(t *testing.T, kind, dev string) (list [][2]int64) {
	t.Helper()
	domain := filepath.Join(t.TempDir(), "domain")
	tool(t, "partclone."+kind, "-D", "-s", dev, "-o", domain, "-L", domain+".log", "-q")
	b, err := os.ReadFile(domain)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var at, n int64
		var what string
		if _, err := fmt.Sscanf(line, "%v %v %s", &at, &n, &what); err == nil && what == "+" {
			list = append(list, [2]int64{at, n})
		}
	}
	return list
}
