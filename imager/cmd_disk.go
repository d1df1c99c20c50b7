package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"huck/imager/api"
	"huck/imager/archive"
	"huck/imager/capture"
	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/receive"
	"huck/imager/store"
)

type captureCmd struct {
	Disk string `arg:"" help:"A block device or a file."`
	storeFlag
	Name    string  `required:"" help:"The image's name; its next version is created."`
	Parent  string  `placeholder:"REF" help:"The image this one derives from."`
	Raw     rawFlag `placeholder:"N,…" help:"Take every partition whole or, with =N,…, these."`
	Force   bool    `help:"Capture a mounted or dirty source all the same, and a file that does not look like a raw disk."`
	SkipBad bool    `help:"Go on at read errors; what cannot be read becomes zeros and is listed."`
	Paging  bool    `name:"skip-paging" help:"Leave out what pagefile.sys, swapfile.sys and hiberfil.sys of NTFS hold."`
	Workers int     `help:"Cores to use; all by default." default:"0"`
	verifyFlag
}

// Run captures a disk.
func (c *captureCmd) Run(a *app) error {
	if err := image.CheckName(c.Name); err != nil {
		return usageError{err}
	}
	if !c.Force {
		if err := archive.CheckRaw(c.Disk); err != nil {
			return err
		}
	}
	st, err := c.open(a, true)
	if err != nil {
		return err
	}
	parent := ""
	if c.Parent != "" {
		tag, err := resolve(a.ctx, st, c.Parent)
		if err != nil {
			return err
		}
		parent = tag.Ref().String()
	}
	dev, err := disk.Open(c.Disk, false)
	if err != nil {
		return err
	}
	defer dev.Close() // opened for reading: nothing can be lost
	p := a.ui.progress("capture " + c.Disk)
	r, err := capture.Run(a.ctx, capture.Config{
		Device: dev, Store: st, Name: c.Name, Parent: parent, RawAll: c.Raw.all, Raw: c.Raw.parts, Force: c.Force, SkipBad: c.SkipBad, SkipPaging: c.Paging,
		Workers: c.Workers, Log: a.log,
		Progress: p.Step(""),
	})
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

// verifyFlag is common to what makes images.
type verifyFlag struct {
	Verify bool `help:"Read the image back from the store at the end, as an installation would, and verify it."`
}

// readBack has the store give the whole image, if that was asked for. The image is
// there whatever comes of it, and who made it is told so.
func (f verifyFlag) readBack(a *app, st store.Store, digest image.ID, progress func(done, total int64)) error {
	if !f.Verify {
		return nil
	}
	switch err := readImage(a.ctx, st, digest, progress); {
	case err == nil:
		return nil
	case a.ctx.Err() != nil:
		a.log.Warn("the image is in the store, but was not read back to its end", "image", "@"+digest.Short())
		return err
	default:
		return fmt.Errorf("image @%s was put into the store, which does not give it back: %w", digest.Short(), err)
	}
}

// readImage installs an image on nothing.
func readImage(ctx context.Context, st store.Store, digest image.ID, progress func(done, total int64)) error {
	img, err := store.OpenImage(ctx, st, digest)
	if err != nil {
		return err
	}
	// Without a log, which speaks of a disk being overwritten.
	dev := disk.Discarder(img.Manifest.DiskSize, img.Manifest.SectorSize)
	j, err := install.New(img, dev, install.Options{Progress: func(p api.Progress) { progress(p.Written, p.Total) }})
	if err != nil {
		return err
	}
	_, err = j.Run(ctx, install.FromStore(st))
	return err
}

// rawFlag is --raw (all partitions) or --raw=N,… (these).
type rawFlag struct {
	all   bool
	parts []int
}

// IsBool lets the flag stand without a value.
func (*rawFlag) IsBool() bool { return true }

// Decode implements kong.MapperValue.
func (f *rawFlag) Decode(ctx *kong.DecodeContext) error {
	if ctx.Scan.Peek().Type != kong.FlagValueToken {
		f.all = true
		return nil
	}
	for field := range strings.SplitSeq(ctx.Scan.Pop().String(), ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is no partition number", field)
		}
		f.parts = append(f.parts, n)
	}
	return nil
}

// installFlags are common to install and receive.
type installFlags struct {
	To     string `required:"" placeholder:"DISK" help:"A block device, a file (created at the image's disk size), or \"discard\"."`
	NoPlan bool   `help:"Write everything without reading the disk first."`
	Unused string `enum:"leave,discard,zero" default:"leave" help:"What becomes of unused blocks: leave, discard (TRIM) or zero. Marks of what was there before, which could be taken for a filesystem, go in any case."`
	Verify bool   `help:"Read everything back at the end and compare."`
	Grow   bool   `help:"Let the last partition and its ext2/3/4, XFS or Btrfs take the rest of a larger disk."`
}

func (f installFlags) options(a *app, p *progress) install.Options {
	return install.Options{NoPlan: f.NoPlan, Verify: f.Verify, Unused: f.Unused, Grow: f.Grow, Log: a.log, Progress: p.Install}
}

func (a *app) done(r api.Result) error {
	return a.ui.result(r, "%s: %s, %d chunks were in place, %s written, %.1f s%s",
		r.Image, size(r.ImageBytes), r.ChunksInPlace, size(r.WrittenBytes), r.Seconds, grown(r.Grown))
}

// grown tells what has grown and what has not.
func grown(g *api.Grown) string {
	if g == nil {
		return ""
	}
	what := "; partition " + strconv.Itoa(g.Partition)
	if g.Partition == 0 {
		what = "; " + g.Content
	}
	if g.To > g.From {
		what += fmt.Sprintf(" grown from %s to %s", size(g.From), size(g.To))
	} else {
		what += " not grown"
	}
	if g.Left != "" {
		what += ": " + g.Left
	}
	return what
}

type installCmd struct {
	refArg
	storeFlag
	installFlags
	Partition int  `placeholder:"N" help:"Put only the image's partition N into DISK, which is a partition itself."`
	Force     bool `help:"With --partition, overwrite a partition table; take sectors that a filesystem was not made for."`
}

// openTarget opens what --to names, or creates a file of the size it takes.
func (c *installCmd) openTarget(img *image.Image) (disk.Device, error) {
	if err := archive.CheckRaw(c.To); err != nil {
		return nil, err
	}
	if c.Partition == 0 {
		return receive.OpenTarget(c.To, img)
	}
	p, err := install.Partition(img.Manifest, c.Partition)
	if err != nil {
		return nil, &install.Refused{Device: c.To, Why: err.Error()}
	}
	if c.To == "discard" {
		return disk.Discarder(p.Size, img.Manifest.SectorSize), nil
	}
	if _, err := os.Stat(c.To); errors.Is(err, fs.ErrNotExist) {
		return disk.Create(c.To, p.Size)
	}
	return disk.Open(c.To, true)
}

// Run installs an image, or one partition of it, from a store.
func (c *installCmd) Run(a *app) (err error) {
	st, err := c.open(a, false)
	if err != nil {
		return err
	}
	_, img, err := c.openImage(a.ctx, st)
	if err != nil {
		return err
	}
	dev, err := c.openTarget(img)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := dev.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close %s: %w", c.To, cerr)
		}
	}()
	p := a.ui.progress("install " + c.Ref)
	defer p.Stop()
	opt := c.options(a, p)
	opt.Partition, opt.Force = c.Partition, c.Force
	fit, err := install.Rescale(a.ctx, img, dev, opt, chunksOf(st, img))
	if err != nil {
		return err
	}
	job, err := install.New(fit.Image, dev, opt)
	if err != nil {
		return err
	}
	r, err := job.Run(a.ctx, fit.Transport(install.ViaStore, install.FromStore(st)))
	if err != nil {
		return err
	}
	what := *img
	if c.Partition != 0 {
		what.Layout = job.Layout()
	}
	if r.EncodedBytes, err = store.EncodedBytes(st, &what); err != nil {
		return err
	}
	return a.done(r)
}

// chunksOf gives an image's encoded chunks by their numbers.
func chunksOf(src install.ChunkSource, img *image.Image) func(context.Context, uint32) ([]byte, error) {
	return func(ctx context.Context, n uint32) ([]byte, error) { return src.Chunk(ctx, img.Layout.ID(n)) }
}

type verifyCmd struct {
	refArg
	storeFlag
	Against string `required:"" placeholder:"DISK" help:"The disk to compare with the image."`
}

// verifyResult is what verify found.
type verifyResult struct {
	Event   string   `json:"event"`
	Image   image.ID `json:"image"`
	Regions int      `json:"regions"`
	Differ  int      `json:"differ"`
	// Places says in which partitions these regions are.
	Places []install.Place `json:"places,omitempty"`
	// BackupGPT says that the backup GPT is not the one that belongs there.
	BackupGPT bool `json:"backup_gpt,omitempty"`
	// Chunks, Bytes and EncodedBytes are what a reimage would fetch.
	Chunks       int     `json:"chunks"`
	Bytes        int64   `json:"bytes"`
	EncodedBytes int64   `json:"encoded_bytes"`
	Seconds      float64 `json:"seconds"`
}

// Run compares a disk with an image.
func (c *verifyCmd) Run(a *app) error {
	start := time.Now()
	st, err := c.open(a, false)
	if err != nil {
		return err
	}
	tag, img, err := c.openImage(a.ctx, st)
	if err != nil {
		return err
	}
	if err := archive.CheckRaw(c.Against); err != nil {
		return err
	}
	dev, err := disk.Open(c.Against, false)
	if err != nil {
		return err
	}
	defer dev.Close() // opened for reading: nothing can be lost
	p := a.ui.progress("verify " + c.Against)
	fit, err := install.Rescale(a.ctx, img, dev, install.Options{}, chunksOf(st, img))
	if err != nil {
		return err
	}
	v, err := install.Verify(a.ctx, fit.Image, dev, p.Install)
	p.Stop()
	if err != nil {
		return err
	}
	r := verifyResult{Event: "done", Image: tag.Digest, Regions: v.Regions, Differ: len(v.Differ), Places: v.Places, BackupGPT: v.BackupGPT}
	seen := make(map[uint32]bool)
	for _, entry := range v.Differ {
		n := img.Layout.Number(entry)
		if seen[n] {
			continue
		}
		seen[n] = true
		enc, size, ok := st.Lookup(img.Layout.ID(n))
		if !ok {
			return fmt.Errorf("image %s: chunk %s is not in the store: %w", c.Ref, img.Layout.ID(n).Short(), store.ErrNotFound)
		}
		r.Chunks++
		r.Bytes += int64(size)
		r.EncodedBytes += int64(enc)
	}
	r.Seconds = time.Since(start).Seconds()
	if err := a.ui.result(r, "%v; a reimage fetches %d chunks, %s encoded", v, r.Chunks, size(r.EncodedBytes)); err != nil {
		return err
	}
	if !v.Equal() {
		return fmt.Errorf("%s: %w", c.Against, errDiffers)
	}
	return nil
}

// readToken reads a bearer token from a file.
func readToken(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", usageError{fmt.Errorf("token: %w", err)}
	}
	return strings.TrimSpace(string(b)), nil
}
