package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"huck/imager/api"
	"huck/imager/store"
	"huck/initramfs/medium"
)

// mediumDir is where the medium that we were started from is mounted, and
// stays, for people in the rescue shell as well.
const mediumDir = "/run/huck-medium"

// Medium mounts the medium and reads it.
func (m *thisMachine) Medium(name string) (on onMedium, path string, err error) {
	path, err = medium.Find("/sys/class/block", "/dev", name)
	if err != nil {
		return on, "", err
	}
	if err := os.MkdirAll(mediumDir, 0o755); err != nil {
		return on, "", err
	}
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount(path, mediumDir, "iso9660", flags, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return on, "", fmt.Errorf("mount %s: %w", path, err)
	}
	if on.Assignment, err = medium.Assignment(os.DirFS(mediumDir)); err != nil || on.Assignment == nil {
		return on, path, err
	}
	on.Images, err = store.Open(filepath.Join(mediumDir, api.MediumImages), store.Options{Log: m.log})
	return on, path, err
}
