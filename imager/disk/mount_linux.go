package disk

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// OnMount mounts the block device at path with the kernel's driver and mount
// options, "name" or "name=value", calls f with the filesystem's root and unmounts it.
// Nothing that the filesystem still had to write is lost without an error. The
// mount is a detached one (fsmount(2)): it stands nowhere in the tree of files,
// nobody else sees it, and it ends with the process. It takes root.
func OnMount(path, driver string, options []string, f func(root *os.File) error) (err error) {
	mount, err := mount(path, driver, options)
	if err != nil {
		return fmt.Errorf("mount %s as %s: %w", path, driver, err)
	}
	defer func() { err = errors.Join(err, unix.Close(mount)) }()
	// The mount's own descriptor is one for paths only.
	fd, err := unix.Openat(mount, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	root := os.NewFile(uintptr(fd), path)
	defer root.Close() // opened for reading
	if err := f(root); err != nil {
		return err
	}
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

func mount(path, driver string, options []string) (mount int, err error) {
	fs, err := unix.Fsopen(driver, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs) // only a description of what to mount
	err = unix.FsconfigSetString(fs, "source", path)
	for _, option := range options {
		name, value, ok := strings.Cut(option, "=")
		switch {
		case err != nil:
		case ok:
			err = unix.FsconfigSetString(fs, name, value)
		default:
			err = unix.FsconfigSetFlag(fs, name)
		}
	}
	if err == nil {
		err = unix.FsconfigCreate(fs)
	}
	if err != nil {
		if said := complaint(fs); said != nil {
			return -1, errors.Join(err, said)
		}
		return -1, fmt.Errorf("%w (the kernel's log may say why: dmesg)", err)
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_NOATIME)
}

// complaint returns what the kernel has to say of a mount that failed, nil if
// nothing: it waits to be read, one message each time, "e " before an error.
func complaint(fs int) error {
	var errs []error
	b := make([]byte, 1024)
	for range 8 {
		n, err := unix.Read(fs, b)
		if err != nil || n <= 0 {
			break
		}
		if text, ok := strings.CutPrefix(string(b[:n]), "e "); ok {
			errs = append(errs, errors.New(strings.TrimSpace(text)))
		}
	}
	return errors.Join(errs...)
}
