// Package rootfs is a file system that belongs to another system: absolute
// symbolic links in it lead to its own root, and none leads out of it.
package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
)

// FS is an os.Root as a file system on which absolute symbolic links, such as
// Debian's own /vmlinuz has had, lead to the volume's root. None can leave the
// volume. Names are those of package fs: without a leading slash.
//
// The root is a field and not embedded: its own Stat and ReadFile would be
// found by package fs, and follow no absolute link.
type FS struct{ Root *os.Root }

var _ fs.FS = FS{}

// maxLinks is the kernel's own limit.
const maxLinks = 40

// Open implements fs.FS.
func (r FS) Open(name string) (fs.File, error) {
	real, err := r.follow(name, false)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return r.Root.Open(real)
}

// Place resolves all links of a path as far as it exists; the rest follows as
// it is. It is where a file of that name is, or would be made.
func (r FS) Place(name string) (string, error) {
	real, err := r.follow(name, true)
	if err != nil {
		return "", &fs.PathError{Op: "resolve", Path: name, Err: err}
	}
	return real, nil
}

// follow resolves all links of a path. What is not there is an error unless
// missing is set.
func (r FS) follow(name string, missing bool) (string, error) {
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
		info, err := r.Root.Lstat(next)
		if missing && errors.Is(err, fs.ErrNotExist) {
			done = next // what follows is not there either
			continue
		}
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
		target, err := r.Root.Readlink(next)
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
