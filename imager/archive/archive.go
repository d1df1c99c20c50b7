// Package archive carries images in and out of a store as files: the .huck
// file, which FORMAT.md beside this package specifies, raw disks, what
// Clonezilla saved, which internal/clonezilla reads, and the formats of virtual
// machines, which qemu-img reads and writes. Of the Go libraries for those none
// reads all of them, and qemu-img is what their users have at hand; what it must
// not be trusted with is checked before it runs.
package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"

	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/store"
)

// Formats of Export.
const (
	// Huck is the .huck file: the image itself.
	Huck = "huck"
	// Raw is a sparse file of the disk's size, as if installed to.
	Raw = "raw"
	// QCOW2 is QEMU's format, version 3.
	QCOW2 = "qcow2"
)

// Refused tells why a file is not written or not imported. Nothing was written
// to it, nor to the store.
type Refused = disk.Refused

// ExportConfig tells what to export.
type ExportConfig struct {
	// Store has the image.
	Store store.Store
	// Tag names the image: its digest, and what the file is to say about name,
	// version, parent and labels. A tag without a name is left out.
	Tag image.TagInfo
	// Parent, if not zero, makes the file a delta: it has only the chunks that
	// the image with this digest lacks. Only for Huck.
	Parent image.ID
	// Format is Huck, Raw or QCOW2. Only for Export.
	Format string
	// Force overwrites a file that is there. Only for Export.
	Force bool
	// Progress, if set, is called by one goroutine at a time with the bytes of
	// the disk done and to do. So is Converting, once the disk is complete and
	// becomes a file in another program's format.
	Progress, Converting func(done, total int64)
}

// Exported tells what an export made. Its JSON is the line that `imager export
// --json` ends with.
type Exported struct {
	// Ref is NAME:VERSION, empty if the image was named by digest alone.
	Ref string
	// Digest is the image digest, Parent that of the image a delta needs.
	Digest, Parent image.ID
	// File is where it is, "-" for a stream; Format is what it is.
	File, Format string
	// FileBytes is the file's length, of which a sparse one takes less.
	FileBytes int64
	// ImageBytes is the sum of the used blocks.
	ImageBytes int64
	// Chunks is how many distinct chunks the file has.
	Chunks  int
	Seconds float64
}

// MarshalJSON implements json.Marshaler.
func (r Exported) MarshalJSON() ([]byte, error) {
	parent := ""
	if !r.Parent.IsZero() {
		parent = "@" + r.Parent.String()
	}
	return json.Marshal(struct {
		Event      string  `json:"event"`
		Ref        string  `json:"ref,omitempty"`
		Digest     string  `json:"digest"`
		Parent     string  `json:"parent,omitempty"`
		File       string  `json:"file"`
		Format     string  `json:"format"`
		FileBytes  int64   `json:"file_bytes"`
		ImageBytes int64   `json:"image_bytes"`
		Chunks     int     `json:"chunks"`
		Seconds    float64 `json:"seconds"`
	}{"done", r.Ref, "@" + r.Digest.String(), parent, r.File, r.Format, r.FileBytes, r.ImageBytes, r.Chunks, r.Seconds})
}

// ImportConfig tells where an image goes.
type ImportConfig struct {
	// Store takes the image.
	Store store.WriteStore
	// Name is the image's name; its next version is created.
	Name string
	// Parent is the full reference of the image that a disk's derives from, or
	// empty. A .huck file names its own.
	Parent string
	// TempDir is where a disk in another program's format is unpacked, with
	// room for its data. Empty is os.TempDir.
	TempDir string
	// Workers is the number of cores to use; 0 means all.
	Workers int
	// Progress, if set, is called by one goroutine at a time with the bytes of
	// the disk done and to do. So is Unpacking, before it, while a disk in another
	// program's format is unpacked; its bytes are those of the files, if what is
	// in them is not known beforehand.
	Progress, Unpacking func(done, total int64)
	// Log receives warnings. Nil discards them.
	Log *slog.Logger
}

func (c *ImportConfig) check() error {
	if err := image.CheckName(c.Name); err != nil {
		return err
	}
	if c.Workers <= 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// interrupted returns err, or the end of ctx if that is what broke whatever
// err is about.
func interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("archive: %w", ctx.Err())
	}
	return err
}
