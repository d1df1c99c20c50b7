package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/term"

	"huck/imager/archive"
	"huck/imager/capture"
	"huck/imager/image"
	"huck/imager/store"
	"huck/imager/tree"
)

// stream is the FILE that stands for standard input or output.
const stream = "-"

type exportCmd struct {
	refArg
	File string `arg:"" help:"The file to make; - writes a .huck file to standard output, and the result to standard error."`
	storeFlag
	Format    string `enum:"huck,raw,qcow2" default:"huck" help:"huck (the image itself), raw (a sparse disk) or qcow2 (by qemu-img)."`
	DeltaFrom string `placeholder:"REF" help:"Leave out the chunks that this image has; only for huck."`
	Force     bool   `help:"Overwrite a file that is there."`
}

// Run exports an image to a file.
func (c *exportCmd) Run(a *app) error {
	if c.Format != archive.Huck && (c.DeltaFrom != "" || c.File == stream) {
		return usageError{errors.New("export: --delta-from and standard output are for --format huck")}
	}
	st, err := c.open(a, false)
	if err != nil {
		return err
	}
	tag, err := resolve(a.ctx, st, c.Ref)
	if err != nil {
		return err
	}
	cfg := archive.ExportConfig{Store: st, Tag: tag, Format: c.Format, Force: c.Force}
	if c.DeltaFrom != "" {
		parent, err := resolve(a.ctx, st, c.DeltaFrom)
		if err != nil {
			return err
		}
		cfg.Parent = parent.Digest
	}
	p := a.ui.progress("export " + c.Ref)
	cfg.Progress, cfg.Converting = p.Step(""), p.Step("convert")
	var r archive.Exported
	out := *a.ui
	if c.File == stream {
		out.env.Stdout = a.env.Stderr // standard output is the file
		r, err = c.write(a, cfg)
	} else {
		r, err = archive.Export(a.ctx, c.File, cfg)
	}
	p.Stop()
	if err != nil {
		return err
	}
	return out.result(r, "%s: @%s as %s, %d chunks, %s, %.1f s", r.File, r.Digest.Short(), r.Format, r.Chunks, size(r.FileBytes), r.Seconds)
}

// write writes the file to standard output.
func (c *exportCmd) write(a *app, cfg archive.ExportConfig) (archive.Exported, error) {
	if f, ok := a.env.Stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return archive.Exported{}, usageError{errors.New("export: standard output is a terminal: redirect it, or name a file")}
	}
	return archive.Write(a.ctx, a.env.Stdout, cfg)
}

type importCmd struct {
	File   string `arg:"" optional:"" help:"A .huck file (- for standard input), a raw disk, qcow2, VMDK, VHD or VHDX, a folder of Clonezilla or one partclone image."`
	Tree   string `placeholder:"DIR" help:"Instead of a file: make a bootable disk of this folder, tar archive or OCI image layout."`
	Layout string `placeholder:"FILE" help:"The disk to make of --tree, as JSON."`
	Parent string `placeholder:"REF" help:"With --tree, as root: bring a copy of this image up to date instead of making all anew. What has not changed is then shared with it."`
	storeFlag
	Name    string `required:"" help:"The image's name; its next version is created."`
	Workers int    `help:"Cores to use; all by default." default:"0"`
	verifyFlag
}

// Run imports a file or a tree into a store.
func (c *importCmd) Run(a *app) error {
	if err := image.CheckName(c.Name); err != nil {
		return usageError{err}
	}
	if (c.File == "") == (c.Tree == "") || (c.Tree == "") != (c.Layout == "") {
		return usageError{errors.New("import: name a FILE, or --tree and --layout")}
	}
	if c.Parent != "" && c.Tree == "" {
		return usageError{errors.New("import: --parent goes with --tree; an image that is one file names its own")}
	}
	var layout tree.Layout
	if c.Tree != "" {
		var err error
		if layout, err = readLayout(c.Layout); err != nil {
			return usageError{err}
		}
	}
	st, err := c.open(a, true)
	if err != nil {
		return err
	}
	p := a.ui.progress("import " + c.File + c.Tree)
	cfg := archive.ImportConfig{Store: st, Name: c.Name, TempDir: largeTempDir(), Workers: c.Workers, Log: a.log,
		Progress: p.Step(""), Unpacking: p.Step("unpack")}
	var r capture.Result
	switch c.File {
	case "":
		r, err = c.importTree(a, tree.Config{Tree: c.Tree, Layout: layout, Log: a.log,
			Progress: func(step string, done, total int64) { p.Step(step)(done, total) }}, cfg, p.Step("parent"))
	case stream:
		r, err = archive.Read(a.ctx, "standard input", a.env.Stdin, cfg)
	default:
		r, err = archive.Import(a.ctx, c.File, cfg)
	}
	if err == nil {
		err = c.readBack(a, st, r.Digest, p.Step("verify"))
	}
	p.Stop()
	if err != nil {
		return err
	}
	return a.ui.result(r, "%s@%s: %s used, %s encoded, %s new in the store, %.1f s",
		r.Ref, r.Digest.Short(), size(r.ImageBytes), size(r.EncodedBytes), size(r.NewBytes), r.Seconds)
}

func readLayout(file string) (tree.Layout, error) {
	f, err := os.Open(file)
	if err != nil {
		return tree.Layout{}, err
	}
	defer f.Close() // opened for reading
	l, err := tree.ParseLayout(f)
	if err != nil {
		return l, fmt.Errorf("%s: %w", file, err)
	}
	return l, nil
}

// importTree imports the disk that it makes of a tree. progress is that of
// copying the parent's disk.
func (c *importCmd) importTree(a *app, t tree.Config, cfg archive.ImportConfig, progress func(done, total int64)) (capture.Result, error) {
	dir, err := os.MkdirTemp(cfg.TempDir, "huck-import-*")
	if err != nil {
		return capture.Result{}, err
	}
	defer os.RemoveAll(dir) // a copy; nothing is lost with it
	disk := filepath.Join(dir, "disk")
	if c.Parent != "" {
		tag, err := resolve(a.ctx, cfg.Store, c.Parent)
		if err != nil {
			return capture.Result{}, err
		}
		img, err := store.OpenImage(a.ctx, cfg.Store, tag.Digest)
		if err != nil {
			return capture.Result{}, err
		}
		t.Parent, cfg.Parent = img.Manifest, tag.Ref().String()
		if err := tree.CheckParent(t); err != nil {
			return capture.Result{}, err
		}
		if _, err := archive.Export(a.ctx, disk, archive.ExportConfig{Store: cfg.Store, Tag: tag, Format: archive.Raw, Progress: progress}); err != nil {
			return capture.Result{}, err
		}
	}
	if err := tree.Make(a.ctx, t, disk); err != nil {
		return capture.Result{}, err
	}
	return archive.Import(a.ctx, disk, cfg)
}

// largeTempDir is where a disk has room: /tmp is often in memory
// (file-hierarchy(7)).
func largeTempDir() string {
	if dir := os.Getenv("TMPDIR"); dir != "" {
		return dir
	}
	return "/var/tmp"
}
