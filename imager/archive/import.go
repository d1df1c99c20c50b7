package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"huck/imager/archive/internal/clonezilla"
	"huck/imager/capture"
	"huck/imager/disk"
)

// Import makes an image of a file: a .huck file, a raw disk, a qcow2, VMDK, VHD
// or VHDX, or what Clonezilla saved: its folder of a disk or one partclone
// image, compressed and split as they are. It tells them by their content. A
// disk is captured, so that only its used blocks are taken, and Refused by
// capture where that is. A block device is a raw disk. As with Read, on any
// error no tag is made.
func Import(ctx context.Context, file string, cfg ImportConfig) (capture.Result, error) {
	if err := cfg.check(); err != nil {
		return capture.Result{}, err
	}
	f, err := os.Open(file)
	if err != nil {
		return capture.Result{}, fmt.Errorf("archive: import: %w", err)
	}
	defer f.Close() // opened for reading
	st, err := f.Stat()
	switch {
	case err != nil:
		return capture.Result{}, fmt.Errorf("archive: import: %w", err)
	case st.IsDir() && clonezilla.IsFolder(file):
		return cfg.unpacked(ctx, file, func(raw string) error { return clonezilla.Folder(ctx, file, raw, cfg.Log, cfg.Unpacking) })
	case st.IsDir():
		return capture.Result{}, &Refused{Device: file, Why: "it is a folder, and not one of Clonezilla"}
	case st.Mode().Type() == os.ModeDevice:
		return cfg.capture(ctx, file, file)
	case !st.Mode().IsRegular():
		return Read(ctx, file, f, cfg) // a pipe
	}
	switch image, err := clonezilla.IsImage(ctx, file); {
	case err != nil:
		return capture.Result{}, fmt.Errorf("archive: import %s: %w", file, err)
	case image:
		return cfg.unpacked(ctx, file, func(raw string) error { return clonezilla.Image(ctx, file, raw, cfg.Unpacking) })
	}
	kind, err := detect(file, f, st.Size())
	if err != nil {
		return capture.Result{}, err
	}
	switch kind {
	case formatHuck:
		return Read(ctx, file, f, cfg)
	case formatRaw:
		return cfg.capture(ctx, file, file)
	}
	if err := checkAlone(file, kind, f, st.Size()); err != nil {
		return capture.Result{}, err
	}
	return cfg.foreign(ctx, kind, file)
}

// foreign captures a disk in a virtual machine's format by way of a raw one.
func (c ImportConfig) foreign(ctx context.Context, kind format, file string) (capture.Result, error) {
	tool, err := findQemuImg("import of " + file)
	if err != nil {
		return capture.Result{}, err
	}
	source, err := filepath.Abs(file)
	if err != nil {
		return capture.Result{}, fmt.Errorf("archive: import %s: %w", file, err)
	}
	return c.unpacked(ctx, file, func(raw string) error { return tool.unpack(ctx, kind, source, raw, c.Unpacking) })
}

// unpacked captures the raw disk that unpack makes of file, at an absolute path.
func (c ImportConfig) unpacked(ctx context.Context, file string, unpack func(raw string) error) (capture.Result, error) {
	dir, err := os.MkdirTemp(c.TempDir, "huck-import-*")
	if err != nil {
		return capture.Result{}, fmt.Errorf("archive: import %s: %w", file, err)
	}
	defer os.RemoveAll(dir) // a copy; nothing is lost with it
	raw, err := filepath.Abs(filepath.Join(dir, "disk"))
	if err != nil {
		return capture.Result{}, fmt.Errorf("archive: import %s: %w", file, err)
	}
	var refused *Refused
	switch err := unpack(raw); {
	case errors.As(err, &refused):
		return capture.Result{}, err
	case err != nil:
		return capture.Result{}, fmt.Errorf("archive: import %s, by way of %s: %w", file, dir, interrupted(ctx, err))
	}
	return c.capture(ctx, raw, file)
}

// capture captures the raw disk at path; messages call it name.
func (c ImportConfig) capture(ctx context.Context, path, name string) (capture.Result, error) {
	dev, err := disk.Open(path, false)
	if err != nil {
		return capture.Result{}, err
	}
	defer dev.Close() // opened for reading
	return capture.Run(ctx, capture.Config{Device: named{dev, name}, Store: c.Store, Name: c.Name, Parent: c.Parent,
		Workers: c.Workers, Progress: c.Progress, Log: c.Log})
}

// named is a device that messages call by another name.
type named struct {
	disk.Device
	name string
}

// Name implements disk.Device.
func (n named) Name() string { return n.name }
