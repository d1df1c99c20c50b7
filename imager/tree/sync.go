package tree

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"huck/imager/disk"
)

// syncing makes the folder to have what the folder from has: contents, links
// among the files, owners, modes, extended attributes and times of change. A file
// that is the same is not written to; one that is not is made anew.
type syncing struct {
	from, to string
	// made are the files made or found so far that have several names, by what
	// they are in from; the path is one of their names.
	made map[inodeID]string
	// claimed are the inodes of to that are files of from. Another file with the
	// same inode is a link of before.
	claimed     map[uint64]bool
	tell        func(done, total int64)
	done, total int64 // bytes that files take
	a, b        [256 << 10]byte
}

type inodeID struct{ dev, ino uint64 }

// named gives files that an error is about the names they have in the tree,
// wherever the filesystem is mounted.
func (s *syncing) named(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		p.Path = strings.TrimPrefix(p.Path, s.to)
	}
	if l := (*os.LinkError)(nil); errors.As(err, &l) {
		l.Old, l.New = strings.TrimPrefix(l.Old, s.to), strings.TrimPrefix(l.New, s.to)
	}
	return err
}

// lostFound is the folder for what fsck finds. mkfs makes it, and a tree need not
// have it.
const lostFound = "lost+found"

// dir makes a folder that is there, path name below to, the same as in from.
func (s *syncing) dir(ctx context.Context, name string) error {
	from, to := filepath.Join(s.from, name), filepath.Join(s.to, name)
	if err := unlock(to + "/."); err != nil { // the root may be a link
		return err
	}
	want, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	have, err := os.ReadDir(to)
	if err != nil {
		return err
	}
	names := make(map[string]bool, len(want))
	for _, d := range want {
		// Nobody listens to a socket that was copied; mkfs.ext4 leaves them out, too.
		names[d.Name()] = d.Type()&fs.ModeSocket == 0
	}
	for _, d := range have {
		if names[d.Name()] {
			continue
		}
		if name == "" && d.Name() == lostFound && d.IsDir() {
			if err := removeIn(filepath.Join(to, lostFound)); err != nil {
				return err
			}
			continue
		}
		if err := removeAll(filepath.Join(to, d.Name())); err != nil {
			return err
		}
	}
	for _, d := range want {
		if !names[d.Name()] {
			continue
		}
		if err := s.file(ctx, filepath.Join(name, d.Name())); err != nil {
			return err
		}
	}
	if name == "" { // as mkfs.ext4 has it, too; and either may be a link
		return copyXattrs(from+"/.", to+"/.")
	}
	return copyAttributes(from, to)
}

// file makes one file or folder the same as in from.
func (s *syncing) file(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	from, to := filepath.Join(s.from, name), filepath.Join(s.to, name)
	want, err := lstat(from)
	if err != nil {
		return err
	}
	have, err := lstat(to)
	there := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if there && have.Mode&modeType != want.Mode&modeType {
		if err := removeAll(to); err != nil {
			return err
		}
		there = false
	}
	if want.Mode&modeType == modeDir {
		if !there {
			if err := os.Mkdir(to, 0o700); err != nil {
				return err
			}
		}
		return s.dir(ctx, name)
	}
	id := inodeID{want.Dev, want.Ino}
	if other, ok := s.made[id]; ok {
		return s.link(filepath.Join(s.to, other), to, have.Ino)
	}
	if there {
		if err := unlock(to); err != nil {
			return err
		}
	}
	if there && !s.claimed[have.Ino] {
		if there, err = s.sameContent(ctx, from, to, want, have); err != nil {
			return err
		}
	} else {
		there = false
	}
	if !there {
		if err := s.create(ctx, from, to, want); err != nil {
			return err
		}
	}
	return s.claim(id, name, want)
}

// claim notes that file name is there, and gives it its attributes.
func (s *syncing) claim(id inodeID, name string, want unix.Stat_t) error {
	to := filepath.Join(s.to, name)
	have, err := lstat(to)
	if err != nil {
		return err
	}
	s.claimed[have.Ino] = true
	if want.Nlink > 1 {
		s.made[id] = name
	}
	if want.Mode&modeType == modeFile {
		s.done += want.Blocks * 512
		s.tell(min(s.done, s.total), s.total)
	}
	return copyAttributes(filepath.Join(s.from, name), to)
}

// link makes to, whose inode is ino, another name of the file other.
func (s *syncing) link(other, to string, ino uint64) error {
	st, err := lstat(other)
	if err != nil || st.Ino == ino {
		return err
	}
	if err := remove(to); err != nil {
		return err
	}
	return os.Link(other, to)
}

// create makes the file to, in place of another one if need be, with the content
// of from.
func (s *syncing) create(ctx context.Context, from, to string, want unix.Stat_t) error {
	if err := remove(to); err != nil {
		return err
	}
	switch want.Mode & modeType {
	case modeFile:
		return s.copyFile(ctx, from, to, want.Size)
	case modeLink:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	if err := unix.Mknod(to, want.Mode&modeType|0o600, int(want.Rdev)); err != nil {
		return &fs.PathError{Op: "mknod", Path: to, Err: err}
	}
	return nil
}

func lstat(path string) (st unix.Stat_t, err error) {
	if err = unix.Lstat(path, &st); err != nil {
		err = &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return st, err
}

// sameContent reports whether two files of the same type have the same content.
func (s *syncing) sameContent(ctx context.Context, from, to string, want, have unix.Stat_t) (bool, error) {
	switch want.Mode & modeType {
	case modeFile:
		if want.Size != have.Size {
			return false, nil
		}
		return s.sameBytes(ctx, from, to, want.Size)
	case modeLink:
		a, err := os.Readlink(from)
		if err != nil {
			return false, err
		}
		b, err := os.Readlink(to)
		return a == b, err
	}
	return want.Rdev == have.Rdev, nil
}

// sameBytes reports whether two files of size bytes have the same bytes. What is
// a hole in both is not read: a lastlog is a few blocks of a terabyte.
func (s *syncing) sameBytes(ctx context.Context, from, to string, size int64) (bool, error) {
	a, err := open(from)
	if err != nil {
		return false, err
	}
	defer a.Close() // opened for reading
	b, err := open(to)
	if err != nil {
		return false, err
	}
	defer b.Close() // opened for reading
	for at := int64(0); ; {
		next, err := data(a, at, size)
		if err != nil {
			return false, err
		}
		next2, err := data(b, at, size)
		if err != nil {
			return false, err
		}
		if at = min(next, next2); at == size {
			return true, ctx.Err()
		}
		n, err := a.ReadAt(s.a[:], at)
		m, err2 := b.ReadAt(s.b[:], at)
		for _, err := range []error{err, err2, ctx.Err()} {
			if err != nil && !errors.Is(err, io.EOF) {
				return false, err
			}
		}
		if n == 0 || !bytes.Equal(s.a[:n], s.b[:m]) { // none: it has been made shorter
			return false, nil
		}
		at += int64(n)
	}
}

// open opens a file for reading, and nothing else that may stand there by now.
func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

// data returns where in a file of size bytes there is something else than a hole,
// from the offset at on; size if nowhere.
func data(f *os.File, at, size int64) (int64, error) {
	next, err := f.Seek(at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, nil
	}
	return min(next, size), err
}

// copyFile makes a new file with the bytes of from. Blocks of zeros are holes, as
// mkfs.ext4 has it: an archive unpacked has no holes, and the tree is to fit
// whichever of the two writes it.
func (s *syncing) copyFile(ctx context.Context, from, to string, size int64) (err error) {
	in, err := open(from)
	if err != nil {
		return err
	}
	defer in.Close() // opened for reading
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	for at := int64(0); ; {
		if at, err = data(in, at, size); err != nil {
			return err
		}
		n, err := in.ReadAt(s.a[:min(int64(len(s.a)), size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 { // the end, or it has been made shorter
			return out.Truncate(size)
		}
		if err := errors.Join(writeData(out, s.a[:n], at), ctx.Err()); err != nil {
			return err
		}
		at += int64(n)
	}
}

// writeData writes those blocks of b that are not all zeros.
func writeData(f *os.File, b []byte, off int64) error {
	const block = 4096
	for len(b) > 0 {
		n := min(block-int(off%block), len(b))
		zero := disk.IsZero(b[:n])
		for n < len(b) {
			more := min(n+block, len(b))
			if disk.IsZero(b[n:more]) != zero {
				break
			}
			n = more
		}
		if !zero {
			if _, err := f.WriteAt(b[:n], off); err != nil {
				return err
			}
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// copyAttributes gives a file the owner, mode, extended attributes and time of
// change of another of its type, as far as it has others.
func copyAttributes(from, to string) error {
	want, err := lstat(from)
	if err != nil {
		return err
	}
	have, err := lstat(to)
	if err != nil {
		return err
	}
	if want.Mode&modeType != have.Mode&modeType {
		return &fs.PathError{Op: "copy attributes", Path: from, Err: errors.New("it has become another kind of file meanwhile")}
	}
	chown := want.Uid != have.Uid || want.Gid != have.Gid
	if chown {
		if err := os.Lchown(to, int(want.Uid), int(want.Gid)); err != nil {
			return err
		}
	}
	const bits = 0o7777
	// A new owner takes some of them away.
	if (chown || want.Mode&bits != have.Mode&bits) && have.Mode&modeType != modeLink { // it would be followed
		if err := unix.Chmod(to, want.Mode&bits); err != nil {
			return &fs.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	if want.Mtim == have.Mtim {
		return nil
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{want.Atim, want.Mtim}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: to, Err: err}
	}
	return nil
}

// copyXattrs gives a file the extended attributes of another, and no others.
func copyXattrs(from, to string) error {
	want, err := xattrs(from)
	if err != nil {
		return err
	}
	have, err := xattrs(to)
	if err != nil {
		return err
	}
	for name := range have {
		if _, ok := want[name]; ok {
			continue
		}
		if err := unix.Lremovexattr(to, name); err != nil {
			return &fs.PathError{Op: "remove " + name + " of", Path: to, Err: err}
		}
	}
	for name, value := range want {
		if v, ok := have[name]; ok && v == value {
			continue
		}
		if err := unix.Lsetxattr(to, name, []byte(value), 0); err != nil {
			return &fs.PathError{Op: "set " + name + " of", Path: to, Err: err}
		}
	}
	return nil
}

// xattrs returns a file's extended attributes of the kinds that all filesystems
// know (xattr(7)): what Btrfs or NTFS calls one of its own is none elsewhere.
func xattrs(path string) (map[string]string, error) {
	list, err := sized(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: path, Err: err}
	}
	all := make(map[string]string)
	for name := range strings.SplitSeq(strings.Trim(string(list), "\x00"), "\x00") {
		if !strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "trusted.") && !strings.HasPrefix(name, "security.") && !strings.HasPrefix(name, "system.posix_acl_") {
			continue
		}
		value, err := sized(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
		if err != nil {
			return nil, &fs.PathError{Op: "get " + name + " of", Path: path, Err: err}
		}
		all[name] = string(value)
	}
	return all, nil
}

// sized returns what get puts into a buffer that is large enough.
func sized(get func([]byte) (int, error)) ([]byte, error) {
	b := make([]byte, 1024)
	n, err := get(b)
	if errors.Is(err, unix.ERANGE) {
		b = make([]byte, 64<<10) // the kernel's limit, of either (xattr(7))
		n, err = get(b)
	}
	return b[:max(n, 0)], err
}
