package bootos

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
)

// rootFS is an os.Root as a file system on which absolute symbolic links, such
// as Debian's own /vmlinuz has had, lead to the volume's root. None can leave
// the volume.
//
// The root is a field and not embedded: its own Stat and ReadFile would be
// found by package fs, and follow no absolute link.
type rootFS struct{ root *os.Root }

// maxLinks is the kernel's own limit.
const maxLinks = 40

// Open implements fs.FS.
func (r rootFS) Open(name string) (fs.File, error) {
	real, err := r.follow(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return r.root.Open(real)
}

// follow resolves all links of a path.
func (r rootFS) follow(name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", fs.ErrInvalid
	}
	todo, done := strings.Split(name, "/"), "."
	for links := 0; len(todo) > 0; {
		next := path.Join(done, todo[0])
		todo = todo[1:]
		if next == ".." || strings.HasPrefix(next, "../") {
			next = "." // the root's parent is the root
		}
		info, err := r.root.Lstat(next)
		if err != nil {
			return "", errors.Unwrap(err)
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", errors.New("too many symbolic links")
		}
		target, err := r.root.Readlink(next)
		if err != nil {
			return "", errors.Unwrap(err)
		}
		if path.IsAbs(target) {
			done = "."
		}
		todo = append(strings.Split(strings.Trim(target, "/"), "/"), todo...)
	}
	return done, nil
}
