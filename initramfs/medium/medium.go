// Package medium finds the stick or CD that the appliance was started from and
// reads what is on it for us. The kernel command line names it; the firmware's
// own word on where it booted from does not survive BIOS, and means little to
// Linux after UEFI.
package medium

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"huck/imager/api"
)

// The primary volume descriptor of ISO 9660 (ECMA-119, 8.4): sector 16 of 2048
// bytes; type 1, "CD001", version 1, and from byte 40 on 32 bytes of name.
const (
	descriptor = 16 * 2048
	nameAt     = 40
	nameLen    = 32
)

// maxAssignment is more than any assignment takes.
const maxAssignment = 64 << 10

// Name returns the name of the ISO 9660 volume that begins at r's start, empty
// if there is none.
func Name(r io.ReaderAt) string {
	var b [nameAt + nameLen]byte
	if _, err := r.ReadAt(b[:], descriptor); err != nil || string(b[:7]) != "\x01CD001\x01" {
		return ""
	}
	return strings.TrimRight(string(b[nameAt:]), " ")
}

// Is tells whether the block device at path is the volume name. One that
// cannot be read is not.
func Is(path, name string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close() // opened for reading
	return name != "" && Name(f) == name
}

// Mark sets Boot of all disks that are the volume name: a copy of the medium
// is as little to be written to as the medium itself.
func Mark(disks []api.Disk, name string) {
	for i := range disks {
		disks[i].Boot = disks[i].Boot || Is(disks[i].Path, name)
	}
}

// ErrNotFound says that no device is the medium: not yet, or not any more.
var ErrNotFound = errors.New("no such medium")

// Find returns the device node of the volume name. Block is /sys/class/block,
// and dev /dev. Partitions are not looked at: the volume is the whole device.
func Find(block, dev, name string) (string, error) {
	entries, err := os.ReadDir(block)
	if err != nil {
		return "", fmt.Errorf("medium: %w", err)
	}
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(block, e.Name(), "partition")); err == nil {
			continue
		}
		if path := filepath.Join(dev, e.Name()); Is(path, name) {
			return path, nil
		}
	}
	return "", fmt.Errorf("medium: %w: %s on none of %d devices", ErrNotFound, name, len(entries))
}

// Assignment reads what a mounted medium is to do without a server; nil if it
// is for use with one.
func Assignment(root fs.FS) (*api.Assignment, error) {
	f, err := root.Open(api.MediumAssignment)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("medium: %w", err)
	}
	defer f.Close() // opened for reading
	text, err := io.ReadAll(io.LimitReader(f, maxAssignment))
	if err != nil {
		return nil, fmt.Errorf("medium: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields() // what an older appliance does not know may be what keeps it from the wrong disk
	var a api.Assignment
	if err := d.Decode(&a); err != nil {
		return nil, fmt.Errorf("medium: %s: %v", api.MediumAssignment, err)
	}
	if err := a.CheckInstall(); err != nil {
		return nil, fmt.Errorf("medium: %s: %w", api.MediumAssignment, err)
	}
	if a.Personalise {
		return nil, fmt.Errorf("medium: %s: personalising takes a server", api.MediumAssignment)
	}
	return &a, nil
}
