// Package prooftest has what tests do with the files of a filesystem that they
// take through capture and install: fill it, delete a third, and tell all of
// what is left. It also runs in virtual machines, as a part of PID 1.
package prooftest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Gone fills the files that are deleted before the capture: no image may hold
// it.
const Gone = "\xfe\xffa deleted file\xff"

const mib = 1 << 20

// Populate makes files of all kinds in dir: many small ones, deep folders, a
// long one, sparse ones, hard links, attributes. A third of the bytes is in
// files for RemoveGone.
func Populate(dir string) error {
	if err := Plain(dir); err != nil {
		return err
	}
	deep := dir
	for i := range 40 {
		deep = filepath.Join(deep, fmt.Sprint("deep-", i))
	}
	err := cmp.Or(
		os.MkdirAll(deep, 0o750),
		os.WriteFile(filepath.Join(deep, "bottom"), []byte("of it all"), 0o4711),
		sparse(filepath.Join(dir, "sparse")),
		os.Link(filepath.Join(dir, "huge"), filepath.Join(dir, "d1", "link")),
		os.Symlink(strings.Repeat("a/long/link/", 10), filepath.Join(dir, "symlink")),
		os.Chown(filepath.Join(dir, "d3"), 1234, 4321),
	)
	for i := range 20 {
		name := filepath.Join(dir, "d2", fmt.Sprint("small-", 2+7*i))
		if err == nil {
			err = unix.Setxattr(name, "user.huck", bytes.Repeat([]byte{byte(i)}, 1+i*40), 0)
		}
	}
	return err
}

func sparse(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	for _, at := range []int64{0, 3 * mib, 7*mib + 123} {
		_, werr := f.WriteAt([]byte(strings.Repeat("data ", 3000)), at)
		err = errors.Join(err, werr)
	}
	return errors.Join(err, f.Truncate(20*mib), f.Close())
}

// Plain makes in dir what every filesystem can hold. A third of the bytes is in
// files called gone-…, to be removed.
func Plain(dir string) error {
	r := rand.NewChaCha8([32]byte{5})
	write := func(name string, n int, mode fs.FileMode) error {
		b := bytes.Repeat([]byte(Gone), n/len(Gone)+1)[:n]
		if !strings.HasPrefix(filepath.Base(name), "gone-") {
			_, _ = r.Read(b) // never fails
		}
		return os.WriteFile(filepath.Join(dir, name), b, mode)
	}
	for i := range 7 {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprint("d", i)), 0o755); err != nil {
			return err
		}
	}
	for i := range 280 {
		err := write(fmt.Sprintf("d%d/small-%d", i%7, i), int(r.Uint64()%4000), fs.FileMode(0o600+i%64))
		if err == nil && i%4 == 0 {
			err = cmp.Or(
				write(fmt.Sprintf("d%d/gone-%d", i%7, i), 9000+int(r.Uint64()%200_000), 0o644),
				write(fmt.Sprintf("d%d/large-%d", i%7, i), int(r.Uint64()%200_000), 0o644),
			)
		}
		if err != nil {
			return err
		}
	}
	return write("huge", 9*mib+17, 0o600)
}

// RemoveGone removes the files in dir that are to be, once they are written.
func RemoveGone(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(f.Fd())) // else they were never written
	if err = cmp.Or(err, f.Close()); err != nil {
		return err
	}
	list, err := filepath.Glob(filepath.Join(dir, "*", "gone-*"))
	if err == nil && len(list) != 70 {
		err = fmt.Errorf("%d files to remove", len(list))
	}
	for _, name := range list {
		err = cmp.Or(err, os.Remove(name))
	}
	return err
}
