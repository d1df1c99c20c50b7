package tree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// removeAll removes a file, or a folder with all in it, whatever marks it has.
func removeAll(path string) error {
	err := os.RemoveAll(path)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	err = filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, unlock(path))
	})
	if err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// removeIn removes all that is in a folder.
func removeIn(dir string) error {
	if err := unlock(dir); err != nil {
		return err
	}
	have, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, d := range have {
		if err := removeAll(filepath.Join(dir, d.Name())); err != nil {
			return err
		}
	}
	return nil
}

// remove removes a file that need not be there.
func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// unlock takes the marks off a file or folder with which not even root may change
// it (chattr +i and +a). A machine that was captured can have them; a filesystem
// that mkfs.ext4 makes of a tree has none.
func unlock(path string) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &st); err != nil {
		return &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	kind := st.Mode & modeType
	if st.Attributes&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) == 0 || kind != modeFile && kind != modeDir {
		return nil
	}
	f, err := open(path)
	if err != nil {
		return err
	}
	defer f.Close()           // opened for reading
	const marks = 0x10 | 0x20 // FS_IMMUTABLE_FL, FS_APPEND_FL of linux/fs.h
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^marks)
	}
	if err != nil {
		return &fs.PathError{Op: "chattr -i -a", Path: path, Err: err}
	}
	return nil
}
