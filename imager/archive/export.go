package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"huck/imager/api"
	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/store"
)

// Export writes an image to a file. The file appears under its name when it is
// complete and durable; an error leaves none behind. One that is there is a
// *Refused, unless cfg.Force is set.
func Export(ctx context.Context, file string, cfg ExportConfig) (Exported, error) {
	start := time.Now()
	if err := checkTarget(file, cfg.Force); err != nil {
		return Exported{}, err
	}
	// Everything is made in a folder beside the file, on the same filesystem.
	dir, err := os.MkdirTemp(filepath.Dir(file), ".huck-export-*")
	if err != nil {
		return Exported{}, fmt.Errorf("archive: export to %s: %w", file, err)
	}
	defer os.RemoveAll(dir) // what is left of a failure; the error tells of that
	made, err := filepath.Abs(filepath.Join(dir, "image"))
	if err != nil {
		return Exported{}, fmt.Errorf("archive: export to %s: %w", file, err)
	}
	res, err := cfg.make(ctx, made)
	if err != nil {
		return Exported{}, interrupted(ctx, err)
	}
	st, err := os.Stat(made)
	if err != nil {
		return Exported{}, fmt.Errorf("archive: export to %s: %w", file, err)
	}
	if err := publish(made, file, cfg.Force); err != nil {
		return Exported{}, err
	}
	res.File, res.FileBytes, res.Seconds = file, st.Size(), time.Since(start).Seconds()
	return res, nil
}

// checkTarget refuses what publish would refuse after all the work, and what
// is no file at all.
func checkTarget(file string, force bool) error {
	st, err := os.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return disk.CheckNew(file)
	case err != nil:
		return fmt.Errorf("archive: export to %s: %w", file, err)
	case !st.Mode().IsRegular():
		return &Refused{Device: file, Why: "it is there and no regular file; to write an image to a disk, install it"}
	case !force:
		return errExists(file)
	}
	return nil
}

func errExists(file string) error {
	return &Refused{Device: file, Why: "it exists; --force overwrites it"}
}

// make makes the file, durable, at an absolute path that nobody looks at.
func (c ExportConfig) make(ctx context.Context, path string) (Exported, error) {
	switch c.Format {
	case Huck:
		return c.makeHuck(ctx, path)
	case Raw, QCOW2:
		return c.makeDisk(ctx, path)
	}
	return Exported{}, fmt.Errorf("archive: format %q is none of huck, raw, qcow2", c.Format)
}

func (c ExportConfig) makeHuck(ctx context.Context, path string) (_ Exported, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return Exported{}, fmt.Errorf("archive: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("archive: %w", cerr)
		}
	}()
	res, err := Write(ctx, f, c)
	if err != nil {
		return Exported{}, err
	}
	if err := f.Sync(); err != nil {
		return Exported{}, fmt.Errorf("archive: %w", err)
	}
	return res, nil
}

// makeDisk installs the image to a file, and converts that where it is not to
// stay raw.
func (c ExportConfig) makeDisk(ctx context.Context, path string) (Exported, error) {
	if !c.Parent.IsZero() {
		return Exported{}, fmt.Errorf("archive: a delta goes into a .huck file only")
	}
	img, err := store.OpenImage(ctx, c.Store, c.Tag.Digest)
	if err != nil {
		return Exported{}, err
	}
	if c.Format == Raw {
		return exported(c, img, path, Raw), c.install(ctx, img, path)
	}
	tool, err := findQemuImg("export to qcow2")
	if err != nil {
		return Exported{}, err
	}
	raw := path + ".raw"
	if err := c.install(ctx, img, raw); err != nil {
		return Exported{}, err
	}
	tell := share(img.Layout.UsedBytes(), c.Converting)
	if err := tool.convert(ctx, tell, "-f", "raw", "-O", "qcow2", raw, path); err != nil {
		return Exported{}, fmt.Errorf("archive: export image @%s to qcow2: %w", c.Tag.Digest.Short(), err)
	}
	return exported(c, img, path, QCOW2), syncFile(path)
}

func (c ExportConfig) install(ctx context.Context, img *image.Image, path string) (err error) {
	dev, err := disk.Create(path, img.Manifest.DiskSize)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := dev.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("archive: close %s: %w", path, cerr)
		}
	}()
	opt := install.Options{}
	if c.Progress != nil {
		opt.Progress = func(p api.Progress) { c.Progress(p.InPlace+p.Written, p.Total) }
	}
	job, err := install.New(img, dev, opt)
	if err != nil {
		return err
	}
	_, err = job.Run(ctx, install.FromStore(c.Store))
	return err
}

// syncFile makes durable what another program wrote.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer f.Close() // opened for reading
	if err := f.Sync(); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}

// publish gives a durable file its name, durably.
func publish(made, file string, force bool) error {
	rename := renameNew
	if force {
		rename = os.Rename
	}
	err := rename(made, file)
	if errors.Is(err, fs.ErrExist) {
		return errExists(file)
	}
	if err != nil {
		return fmt.Errorf("archive: export to %s: %w", file, err)
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return fmt.Errorf("archive: export to %s: %w", file, err)
	}
	defer dir.Close() // opened for reading
	// Some network filesystems cannot sync a folder and need not.
	if err := dir.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("archive: export to %s: %w", file, err)
	}
	return nil
}

// renameNew renames a file unless that name is taken. The error wraps
// fs.ErrExist if it is.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// NFS, for one, does not do that, but has links.
		return os.Link(from, to)
	}
	return err
}
