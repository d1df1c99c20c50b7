package prooftest

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// atLeast is the number of files below which a comparison proves nothing.
const atLeast = 350

// State tells all of a tree, a line each: names, modes, owners, times, links,
// blocks, attributes and contents. A tree of few files is an error.
func State(dir string) (string, error) {
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
		fmt.Fprintf(&s, "%s %o %d:%d %d links %d blocks %d.%d", strings.TrimPrefix(path, filepath.Clean(dir)), st.Mode, st.Uid, st.Gid, st.Nlink, st.Blocks, st.Mtim.Sec, st.Mtim.Nsec)
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			fmt.Fprintln(&s, " ->", to)
			return err
		case d.IsDir():
			fmt.Fprintln(&s)
			return nil
		case !d.Type().IsRegular():
			fmt.Fprintf(&s, " device %x%s\n", st.Rdev, attributes(path))
			return nil
		}
		files++
		b, err := os.ReadFile(path)
		fmt.Fprintf(&s, " %d %x%s\n", len(b), sha256.Sum256(b), attributes(path))
		return err
	})
	if err == nil && files < atLeast {
		err = fmt.Errorf("%d files in %s, want at least %d", files, dir, atLeast)
	}
	return s.String(), err
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

// Same compares the states of two trees; the error has the first difference.
func Same(want, got string) error {
	if want == got {
		return nil
	}
	b := strings.Split(got, "\n")
	for i, line := range strings.Split(want, "\n") {
		if i >= len(b) || line != b[i] {
			return fmt.Errorf("the files differ, first:\n%s\n%s", line, b[min(i, len(b)-1)])
		}
	}
	return fmt.Errorf("there are more files than there were")
}
