// Package disks makes the disks that VM tests capture and install: a tiny
// operating system in about a second, and a real Debian. It needs neither loop
// devices nor mounts: filesystems are made in files and copied into place.
package disks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"huck/qemu-tests/proc"
)

const (
	mib    = 1 << 20
	sector = 512
)

// partition is a line for sfdisk and the file with what goes there.
type partition struct {
	start, size int64 // bytes
	kind        string
	name        string
	uuid        string
	content     string // a file; empty leaves the partition blank
}

// writeDisk makes a sparse GPT disk of size bytes at path.
func writeDisk(ctx context.Context, path string, size int64, uuid string, parts []partition) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("disks: %v", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("disks: %v", err)
	}
	var script strings.Builder
	fmt.Fprintf(&script, "label: gpt\nlabel-id: %s\n", uuid)
	for _, p := range parts {
		fmt.Fprintf(&script, "start=%d, size=%d, type=%s, name=%q, uuid=%s\n",
			p.start/sector, p.size/sector, p.kind, p.name, p.uuid)
	}
	sfdisk := proc.Command{Args: []string{"sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", path}}
	if _, err := proc.RunInput(ctx, sfdisk, []byte(script.String())); err != nil {
		return fmt.Errorf("disks: %w", err)
	}
	for _, p := range parts {
		if p.content == "" {
			continue
		}
		if err := copyInto(f, p); err != nil {
			return fmt.Errorf("disks: fill partition %s: %v", p.name, err)
		}
	}
	return nil
}

// copyInto copies a partition's content to its place and leaves its zeros as holes.
func copyInto(disk *os.File, p partition) error {
	src, err := os.Open(p.content)
	if err != nil {
		return err
	}
	defer src.Close()
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := io.ReadFull(src, buf)
		if at+int64(n) > p.size {
			return errors.New("content is larger than the partition")
		}
		if !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := disk.WriteAt(buf[:n], p.start+at); err != nil {
				return err
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// blank makes a sparse file for a filesystem.
func blank(path string, size int64) error {
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return fmt.Errorf("disks: %v", err)
	}
	if err := os.Truncate(path, size); err != nil {
		return fmt.Errorf("disks: %v", err)
	}
	return nil
}

func runAll(ctx context.Context, commands ...[]string) error {
	for _, args := range commands {
		if _, err := proc.Run(ctx, proc.Command{Args: args}); err != nil {
			return fmt.Errorf("disks: %w", err)
		}
	}
	return nil
}

// extract writes a sparse copy of r.
func extract(path string, r *io.SectionReader) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(r.Size()); err != nil {
		return err
	}
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); at < r.Size(); {
		n, err := r.ReadAt(buf, at)
		if n == 0 && err != nil {
			return err
		}
		if !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := f.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	return nil
}

// CacheDir is where things that take long to make are kept: $HUCK_CACHE, or
// huck in the user's cache folder.
func CacheDir() string {
	if dir := os.Getenv("HUCK_CACHE"); dir != "" {
		return dir
	}
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	return filepath.Join(base, "huck")
}
