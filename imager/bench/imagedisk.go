package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

const (
	// maxFile keeps one file from being all of the disk.
	maxFile = 64 << 20
	// deletedPart: one of so many files is deleted again, so that free blocks
	// hold old data as on any disk that has been used.
	deletedPart = 5
)

// candidate is a file to fill the disk with.
type candidate struct {
	path string
	size int64
	// key puts files of all kinds into one order, the same on every run.
	key [sha256.Size]byte
}

// makeDisk makes a file that is an ext4 filesystem of twice size, filled with
// about size bytes of files from under from, some deleted again. It needs no
// root.
func makeDisk(ctx context.Context, path, from string, size int64) error {
	files, err := candidates(from)
	if err != nil {
		return err
	}
	tree := path + ".tree"
	defer os.RemoveAll(tree)
	var sum int64
	var deleted bytes.Buffer
	for i, f := range files {
		if sum >= size*deletedPart/(deletedPart-1) {
			break
		}
		err := copyFile(f.path, filepath.Join(tree, f.path))
		if errors.Is(err, fs.ErrPermission) {
			continue // of those only root may read there are few
		}
		if err != nil {
			return err
		}
		sum += f.size
		if i%deletedPart == 0 {
			fmt.Fprintf(&deleted, "rm %q\n", f.path)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if sum == 0 {
		return fmt.Errorf("no files under %s to fill a disk with", from)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(path, max(2*sum>>20, 64)<<20); err != nil {
		return err
	}
	if _, err := output(ctx, "mkfs.ext4", "-q", "-F", "-d", tree, path); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "debugfs", "-w", "-f", "-", path)
	cmd.Stdin = &deleted
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("debugfs: %w: %s", err, out)
	}
	// A filesystem that does not check is nothing to measure with.
	_, err = output(ctx, "e2fsck", "-fn", path)
	return err
}

// candidates returns the plain files under from in an order that mixes them.
func candidates(from string) ([]candidate, error) {
	var files []candidate
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Size() > 0 && info.Size() <= maxFile {
			files = append(files, candidate{path, info.Size(), sha256.Sum256([]byte(path))})
		}
		return nil
	})
	slices.SortFunc(files, func(a, b candidate) int {
		return cmp.Or(bytes.Compare(a.key[:], b.key[:]), cmp.Compare(a.path, b.path))
	})
	return files, err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() // opened for reading
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
