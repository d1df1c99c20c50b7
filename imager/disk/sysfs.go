package disk

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// system reads what the kernel tells in /sys and /proc; root is "/" but in
// tests.
type system struct{ root string }

func (s system) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

// attr returns a sysfs attribute without surrounding space, "" if it is not
// there. Attributes come and go with drivers; none is worth failing for.
func attr(dir string, elem ...string) string {
	b, err := os.ReadFile(filepath.Join(append([]string{dir}, elem...)...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// attrInt returns a numeric sysfs attribute, 0 if it is not there.
func attrInt(dir string, elem ...string) int64 {
	n, err := strconv.ParseInt(attr(dir, elem...), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// node returns the sysfs folder of the block device with this number,
// MAJOR:MINOR.
func (s system) node(number string) (string, error) {
	dir, err := filepath.EvalSymlinks(s.path("sys/dev/block", number))
	if err != nil {
		return "", fmt.Errorf("disk: block device %s: %w", number, err)
	}
	return dir, nil
}

// number returns MAJOR:MINOR of the block device at path, "" if it is none.
func number(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("disk: %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "", nil
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}

// devPath returns the device node of a block device by its sysfs folder, which
// has ! where the node has /.
func devPath(dir string) string {
	return "/dev/" + strings.ReplaceAll(filepath.Base(dir), "!", "/")
}

// Partition is one partition of a disk as the kernel sees it now.
type Partition struct {
	// Number is the partition's number in the table.
	Number int
	// Path is its device node.
	Path string
	// Start and Size are in bytes.
	Start, Size int64
}

// Partitions returns the partitions that the kernel has found on the block
// device at path, by number.
func Partitions(path string) ([]Partition, error) {
	n, err := number(path)
	if err != nil {
		return nil, err
	}
	if n == "" {
		return nil, fmt.Errorf("disk: partitions of %s: it is not a block device", path)
	}
	return system{"/"}.partitions(n)
}

func (s system) partitions(number string) ([]Partition, error) {
	dir, err := s.node(number)
	if err != nil {
		return nil, err
	}
	var parts []Partition
	for _, p := range partitionDirs(dir) {
		parts = append(parts, Partition{
			Number: int(attrInt(p, "partition")),
			Path:   devPath(p),
			// The kernel counts in 512 bytes whatever the sector size.
			Start: attrInt(p, "start") * 512,
			Size:  attrInt(p, "size") * 512,
		})
	}
	slices.SortFunc(parts, func(a, b Partition) int { return cmp.Compare(a.Number, b.Number) })
	return parts, nil
}

func partitionDirs(dir string) []string {
	// Glob fails on bad patterns only, and there is none in a device's name.
	attrs, _ := filepath.Glob(filepath.Join(dir, "*", "partition"))
	for i, a := range attrs {
		attrs[i] = filepath.Dir(a)
	}
	return attrs
}

func inUse(path string) (string, error) {
	n, err := number(path)
	if err != nil {
		return "", err
	}
	s := system{"/"}
	if n != "" {
		if use, err := s.inUse(n); use != "" || err != nil {
			return use, err
		}
		if claimed(path) {
			return otherUse, nil
		}
	} else if inMachine(path, permWrite) {
		return "a virtual machine writes to it", nil
	}
	return s.loopInUse(path)
}

// otherUse is that of which nothing more is known.
const otherUse = "the kernel or another program is using it"

// claimed reports whether somebody has a block device for himself, as we do when
// we write to one: no file of the kernel's names programs that have.
func claimed(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0)
	if err == nil {
		f.Close() // nothing is written to it
	}
	return errors.Is(err, unix.EBUSY)
}

// QEMU locks a byte of a file for each thing it does with it (block/file-posix.c,
// RAW_LOCK_PERM_BASE; BLK_PERM_CONSISTENT_READ, BLK_PERM_WRITE).
const (
	permRead  = 100
	permWrite = 101
)

// inMachine reports whether QEMU has a byte of the file at path locked. A file
// that cannot be asked has none.
func inMachine(path string, perm int64) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close() // opened for reading
	l := unix.Flock_t{Type: unix.F_WRLCK, Start: perm, Len: 1}
	err = unix.FcntlFlock(f.Fd(), unix.F_GETLK, &l)
	return err == nil && l.Type != unix.F_UNLCK
}

// loopInUse tells how a loop device of the file or block device at path is used.
func (s system) loopInUse(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("disk: %w", err)
	}
	// Glob fails on bad patterns only.
	dirs, _ := filepath.Glob(s.path("sys/block/loop*/loop"))
	for _, dir := range dirs {
		file, err := os.Stat(attr(dir, "backing_file"))
		if err != nil || !os.SameFile(st, file) {
			continue // detached meanwhile, or a file without a name
		}
		dir = filepath.Dir(dir)
		if use, err := s.inUse(attr(dir, "dev")); use != "" || err != nil {
			return fmt.Sprintf("%s is made of it, and %s", devPath(dir), use), err
		}
	}
	return "", nil
}

// inUse tells how the block device, a partition of it or a device built on one
// of those is used.
func (s system) inUse(number string) (string, error) {
	dir, err := s.node(number)
	if err != nil {
		return "", err
	}
	nodes := []string{dir}
	nodes = append(nodes, partitionDirs(dir)...)
	built := ""
	for i := 0; i < len(nodes); i++ { // grows while we look
		holders, _ := filepath.Glob(filepath.Join(nodes[i], "holders", "*"))
		for _, h := range holders {
			h, err := filepath.EvalSymlinks(h)
			if err != nil || slices.Contains(nodes, h) {
				continue
			}
			if built == "" {
				built = fmt.Sprintf("%s is part of %s", devPath(nodes[i]), describe(h))
			}
			nodes = append(nodes, h)
		}
	}
	if use, err := s.mounted(nodes); use != "" || err != nil {
		return use, err
	}
	if use, err := s.swap(nodes); use != "" || err != nil {
		return use, err
	}
	return built, nil
}

func describe(dir string) string {
	if name := attr(dir, "dm/name"); name != "" {
		return fmt.Sprintf("%s (%s)", devPath(dir), name)
	}
	return devPath(dir)
}

// mounted looks for the nodes in /proc/self/mountinfo (proc(5)). Filesystems
// of more than one device show a number of their own there, hence the look at
// the source.
func (s system) mounted(nodes []string) (string, error) {
	b, err := os.ReadFile(s.path("proc/self/mountinfo"))
	if err != nil {
		return "", fmt.Errorf("disk: mounts: %w", err)
	}
	for line := range bytes.Lines(b) {
		before, after, _ := strings.Cut(string(line), " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(rest) < 2 {
			continue
		}
		for _, n := range nodes {
			if attr(n, "dev") == fields[2] || s.isNode(rest[1], n) {
				return fmt.Sprintf("%s is mounted on %s", devPath(n), unescape(fields[4])), nil
			}
		}
	}
	return "", nil
}

// isNode tells whether source, as a mount or swap names it, is the device with
// the sysfs folder dir.
func (s system) isNode(source, dir string) bool {
	if !strings.HasPrefix(source, "/dev/") {
		return false
	}
	if source == devPath(dir) {
		return true
	}
	// /dev/mapper, /dev/disk/by-uuid and their like are links.
	to, err := filepath.EvalSymlinks(s.path(unescape(source)))
	return err == nil && to == s.path(devPath(dir))
}

func (s system) swap(nodes []string) (string, error) {
	f, err := os.Open(s.path("proc/swaps"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // a kernel without swap
	}
	if err != nil {
		return "", fmt.Errorf("disk: swaps: %w", err)
	}
	defer f.Close() // opened for reading
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		source, _, _ := strings.Cut(lines.Text(), " ")
		for _, n := range nodes {
			if s.isNode(source, n) {
				return fmt.Sprintf("%s is used as swap", devPath(n)), nil
			}
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("disk: swaps: %w", err)
	}
	return "", nil
}

// unescape undoes the \ooo that the kernel writes for space, tab, newline and
// backslash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
