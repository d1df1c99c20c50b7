package install_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// treeState tells all of a tree: names, modes, owners, times, links, blocks,
// attributes and contents.
func treeState(t *testing.T, dir string) string {
	t.Helper()
	var s strings.Builder
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintf(&s, "%s %o %d:%d %d links %d blocks %d.%d", path[len(dir):], st.Mode, st.Uid, st.Gid, st.Nlink, st.Blocks, st.Mtim.Sec, st.Mtim.Nsec)
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			fmt.Fprintln(&s, " ->", to)
			return err
		case d.IsDir():
			fmt.Fprintln(&s)
			return nil
		}
		files++
		b, err := os.ReadFile(path)
		fmt.Fprintf(&s, " %d %x%s\n", len(b), sha256.Sum256(b), attributes(path))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 350 {
		t.Fatalf("%d files", files)
	}
	return s.String()
}

// attributes lists the extended attributes of a file.
func attributes(path string) (all string) {
	names, value := make([]byte, 4096), make([]byte, 4096)
	n, err := unix.Llistxattr(path, names)
	if err != nil || n == 0 {
		return ""
	}
	list := strings.Split(strings.Trim(string(names[:n]), "\x00"), "\x00")
	slices.Sort(list)
	for _, name := range list {
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			n = 0
		}
		all += fmt.Sprintf(" %s=%x", name, value[:n])
	}
	return all
}

// wantState compares two trees' states.
func wantState(t *testing.T, want, got string) {
	t.Helper()
	if want == got {
		return
	}
	b := strings.Split(got, "\n")
	for i, line := range strings.Split(want, "\n") {
		if i >= len(b) || line != b[i] {
			t.Errorf("the files differ, first:\n%s\n%s", line, b[min(i, len(b)-1)])
			return
		}
	}
	t.Error("there are more files than there were")
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
