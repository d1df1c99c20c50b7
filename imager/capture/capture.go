// Package capture makes an image of a disk: it reads the partition table, finds
// the used blocks of every partition, cuts them into chunks and puts what is
// new into a store. The disk is only read.
package capture

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"time"

	"huck/imager/image"
	"huck/imager/store"
)

// Device is what is captured; a disk.Device is one.
type Device interface {
	io.ReaderAt
	// Name is the device's path.
	Name() string
	// Size is its length in bytes.
	Size() int64
	// SectorSize is its logical sector size in bytes, 512 or 4096; 0 means
	// whichever goes with the partition table.
	SectorSize() int
}

// Store takes an image: a store.WriteStore, or one far away, which then has
// both of Asker and Sizer.
type Store interface {
	NewWriter(ctx context.Context) (store.Writer, error)
	PutImage(ctx context.Context, manifest, compressedMap []byte) error
	CreateTag(ctx context.Context, name string, digest image.ID, parent string, labels map[string]string) (image.TagInfo, error)
}

// Asker is a store.Writer that is better asked for many chunks at once.
type Asker interface {
	// Ask sets known[i] where Put of ids[i] would add nothing.
	Ask(ctx context.Context, ids []image.ID, known []bool) error
}

// Sizer is a Store without an index in memory.
type Sizer interface {
	// EncodedBytes is store.EncodedBytes of an image that was put.
	EncodedBytes(ctx context.Context, digest image.ID) (int64, error)
}

// Config tells what to capture and how.
type Config struct {
	// Device is the disk.
	Device Device
	// Store takes the image.
	Store Store
	// Name is the image's name; its next version is created.
	Name string
	// Parent is the full reference of the image that this one derives from, or
	// empty. It is noted in the tag; what the two share is stored once anyway.
	Parent string
	// RawAll takes every partition whole; Raw only those with these numbers.
	// The whole disk without a table is number 0; with RawAll a disk whose table
	// cannot be used is one without.
	RawAll bool
	Raw    []int
	// Force captures a source in use or not at rest all the same; content that
	// is not at rest is then taken whole.
	Force bool
	// SkipBad puts zeros where the disk cannot be read, and lists them in the
	// manifest. Without it the first read error ends the capture, as does the one
	// of a disk that is gone (disk.ErrGone) in any case.
	SkipBad bool
	// SkipPaging leaves out what Windows' paging files hold (pagefile.sys,
	// swapfile.sys, hiberfil.sys); on the target they have what stood there.
	SkipPaging bool
	// Workers is the number of cores to use; 0 means all.
	Workers int
	// Progress, if set, is called now and then, by one goroutine at a time,
	// with the bytes done and to do.
	Progress func(done, total int64)
	// Log receives warnings. Nil discards them.
	Log *slog.Logger
}

// Result tells what a capture made. Its JSON is the line that `imager capture
// --json` ends with.
type Result struct {
	// Ref is NAME:VERSION.
	Ref string
	// Digest is the image digest.
	Digest image.ID
	// ImageBytes is the sum of the used blocks; EncodedBytes is what the
	// image's distinct chunks take in the store; NewBytes is what of that was
	// not there before.
	ImageBytes, EncodedBytes, NewBytes int64
	// SurplusBytes is how much was taken only because used space was rounded
	// outward to whole blocks.
	SurplusBytes int64
	// BadBytes is how much could not be read and stands as zeros.
	BadBytes int64
	// Warnings tells, one sentence each, what is odd about the disk: a damaged
	// primary GPT, say.
	Warnings []string
	Seconds  float64
}

// MarshalJSON implements json.Marshaler.
func (r Result) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Event        string   `json:"event"`
		Ref          string   `json:"ref"`
		Digest       string   `json:"digest"`
		ImageBytes   int64    `json:"image_bytes"`
		EncodedBytes int64    `json:"encoded_bytes"`
		NewBytes     int64    `json:"new_bytes"`
		SurplusBytes int64    `json:"surplus_bytes"`
		BadBytes     int64    `json:"bad_bytes"`
		Warnings     []string `json:"warnings,omitempty"`
		Seconds      float64  `json:"seconds"`
	}{"done", r.Ref, "@" + r.Digest.String(), r.ImageBytes, r.EncodedBytes, r.NewBytes, r.SurplusBytes, r.BadBytes, r.Warnings, r.Seconds})
}

// Refused tells why a disk is not captured. Nothing was written to the store.
type Refused struct {
	// Device is the disk's name, Why the cause.
	Device, Why string
}

func (e *Refused) Error() string { return fmt.Sprintf("capture: %s refused: %s", e.Device, e.Why) }

// Run captures a disk. The image is complete and tagged when it returns nil; on
// any error, and when ctx ends, no tag is made, and what was stored is left to
// the store's GC. The error is a *Refused if the source is in use, not at rest
// or cannot be imaged. The same disk gives the same digest, whatever the number
// of workers.
func Run(ctx context.Context, cfg Config) (Result, error) {
	start := time.Now()
	if err := cfg.check(); err != nil {
		return Result{}, err
	}
	p, err := survey(ctx, &cfg)
	if err != nil {
		return Result{}, err
	}
	w, err := cfg.Store.NewWriter(ctx)
	if err != nil {
		return Result{}, err
	}
	res, err := p.store(ctx, w)
	if cerr := w.Close(); err == nil && cerr != nil {
		err = cerr
	}
	if err != nil {
		return Result{}, err
	}
	res.Seconds = time.Since(start).Seconds()
	return res, nil
}

// check refuses what would fail only after all the work.
func (c *Config) check() error {
	if err := image.CheckName(c.Name); err != nil {
		return err
	}
	if c.Parent != "" {
		if _, err := image.ParseRef(c.Parent); err != nil {
			return fmt.Errorf("capture: parent: %v", err)
		}
	}
	switch size, sector := c.Device.Size(), int64(cmp.Or(c.Device.SectorSize(), 512)); {
	case size == 0:
		return &Refused{c.Device.Name(), "it is empty"}
	case size%sector != 0:
		return &Refused{c.Device.Name(), fmt.Sprintf("its %d bytes are no whole number of sectors of %d bytes: it is cut short, or no disk", size, sector)}
	case size > image.MaxDiskSize:
		return &Refused{c.Device.Name(), fmt.Sprintf("its %d bytes are more than the %d that an image may have", size, int64(image.MaxDiskSize))}
	}
	if c.Workers <= 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// store streams the planned blocks into the store, then the map, the manifest
// and the tag.
func (p *plan) store(ctx context.Context, w store.Writer) (Result, error) {
	s := newStream(p, w)
	if err := s.run(ctx); err != nil {
		return Result{}, err
	}
	if err := w.Flush(ctx); err != nil {
		return Result{}, err
	}
	p.man.Bad = s.badExtents()
	layout, err := p.sum()
	if err != nil {
		return Result{}, err
	}
	manifest, digest, err := p.man.Marshal()
	if err != nil {
		return Result{}, err
	}
	compressed, err := image.CompressMap(p.chunkMap)
	if err != nil {
		return Result{}, err
	}
	if err := p.cfg.Store.PutImage(ctx, manifest, compressed); err != nil {
		return Result{}, err
	}
	tag, err := p.cfg.Store.CreateTag(ctx, p.cfg.Name, digest, p.cfg.Parent, nil)
	if err != nil {
		return Result{}, err
	}
	res := Result{Ref: fmt.Sprintf("%s:%d", tag.Name, tag.Version), Digest: digest,
		ImageBytes: p.man.Map.UsedBytes, NewBytes: s.newBytes.Load(), SurplusBytes: p.surplus, Warnings: p.warnings}
	for _, e := range p.man.Bad {
		res.BadBytes += e.Size
	}
	if res.EncodedBytes, err = p.encodedBytes(ctx, &image.Image{Digest: digest, Layout: layout}); err != nil {
		return Result{}, err
	}
	return res, nil
}

func (p *plan) encodedBytes(ctx context.Context, img *image.Image) (int64, error) {
	switch s := p.cfg.Store.(type) {
	case Sizer:
		return s.EncodedBytes(ctx, img.Digest)
	case store.Store:
		return store.EncodedBytes(s, img)
	}
	return 0, fmt.Errorf("capture: the store cannot tell the size of an image") // a bug in our own code
}

// sum makes the chunk map of what was read and completes the manifest with it.
func (p *plan) sum() (*image.Layout, error) {
	m := image.Map{Entries: p.entries}
	layout, err := image.NewLayout(&m, p.man.DiskSize)
	if err != nil {
		return nil, err
	}
	if p.chunkMap, err = m.AppendBinary(nil); err != nil {
		return nil, err
	}
	p.man.Map = image.MapInfo{Digest: image.Sum(p.chunkMap), Regions: len(p.entries), Chunks: layout.Chunks(), UsedBytes: layout.UsedBytes()}
	return layout, nil
}
