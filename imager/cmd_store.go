package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"huck/imager/image"
	"huck/imager/store"
)

// storeFlag names the store a command works on.
type storeFlag struct {
	Store string `required:"" placeholder:"DIR" help:"The store: a directory."`
}

func (f storeFlag) open(a *app, create bool) (*store.Dir, error) {
	if strings.Contains(f.Store, "://") {
		return nil, usageError{fmt.Errorf("store %q: this version knows directories only", f.Store)}
	}
	st, err := store.Open(f.Store, store.Options{Create: create, Log: a.log})
	if err == nil {
		a.store = f.Store
	}
	return st, err
}

// refArg is a reference to an image.
type refArg struct {
	Ref string `arg:"" help:"NAME[:VERSION], NAME[:VERSION]@DIGEST or @DIGEST; the latest version by default."`
}

// resolve finds the tag, or for a bare digest the image, that a reference
// names.
func resolve(ctx context.Context, st store.Store, text string) (image.TagInfo, error) {
	ref, err := image.ParseRef(text)
	if err != nil {
		return image.TagInfo{}, usageError{err}
	}
	return st.Resolve(ctx, ref)
}

func (f refArg) openImage(ctx context.Context, st store.Store) (image.TagInfo, *image.Image, error) {
	return openRef(ctx, st, f.Ref)
}

func openRef(ctx context.Context, st store.Store, ref string) (image.TagInfo, *image.Image, error) {
	tag, err := resolve(ctx, st, ref)
	if err != nil {
		return tag, nil, err
	}
	img, err := store.OpenImage(ctx, st, tag.Digest)
	return tag, img, err
}

type imagesCmd struct{ storeFlag }

// Run lists the tags.
func (c *imagesCmd) Run(a *app) error {
	st, err := c.open(a, false)
	if err != nil {
		return err
	}
	tags, tagsErr := st.Tags(a.ctx)
	for _, t := range tags {
		var used int64
		if b, err := st.Manifest(a.ctx, t.Digest); err == nil {
			if m, err := image.ParseManifest(b); err == nil {
				used = m.Map.UsedBytes
			}
		}
		err := a.ui.result(struct {
			image.TagInfo
			UsedBytes int64 `json:"used_bytes"`
		}{t, used}, "%-32s  @%s  %10s  %s  %s", fmt.Sprintf("%s:%d", t.Name, t.Version), t.Digest.Short(), size(used),
			t.Time.UTC().Format(time.DateTime), t.Parent)
		if err != nil {
			return err
		}
	}
	return tagsErr
}

type showCmd struct {
	refArg
	storeFlag
}

// Run shows a manifest.
func (c *showCmd) Run(a *app) error {
	st, err := c.open(a, false)
	if err != nil {
		return err
	}
	tag, img, err := c.openImage(a.ctx, st)
	if err != nil {
		return err
	}
	m := img.Manifest
	encoded, err := store.EncodedBytes(st, img)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "image      %s\n", tag.Ref())
	fmt.Fprintf(&b, "disk       %s, sectors of %d bytes, table %s\n", size(m.DiskSize), m.SectorSize, m.Table)
	fmt.Fprintf(&b, "used       %s in %d regions, %d distinct chunks, %s encoded\n", size(m.Map.UsedBytes), m.Map.Regions, m.Map.Chunks, size(encoded))
	for _, p := range m.Partitions {
		fmt.Fprintf(&b, "partition  %d  %-8s %10s at %-10s %10s used  %s %s\n", p.Number, p.Content, size(p.Size), size(p.Start), size(p.UsedBytes), p.FSUUID, p.FSLabel)
		if p.Whole != "" {
			fmt.Fprintf(&b, "             taken whole: %s\n", p.Whole)
		}
	}
	for _, e := range m.Bad {
		fmt.Fprintf(&b, "unreadable %d bytes at %d, zeros in the image\n", e.Size, e.Start)
	}
	return a.ui.result(struct {
		Tag          image.TagInfo   `json:"tag"`
		Manifest     *image.Manifest `json:"manifest"`
		EncodedBytes int64           `json:"encoded_bytes"`
	}{tag, m, encoded}, "%s", strings.TrimRight(b.String(), "\n"))
}

type diffCmd struct {
	Old string `arg:"" help:"The image compared with."`
	New string `arg:"" help:"The image that has or lacks something."`
	storeFlag
}

// imageDiff sums up what New has that Old has not.
type imageDiff struct {
	Old     image.ID `json:"old"`
	New     image.ID `json:"new"`
	Regions int      `json:"regions"` // regions of New whose entry is not Old's
	Gone    int      `json:"gone"`    // regions of Old that New has not
	// Chunks of New that Old has nowhere, decoded and as they are stored.
	Chunks       int   `json:"chunks"`
	Bytes        int64 `json:"bytes"`
	EncodedBytes int64 `json:"encoded_bytes"`
}

// Run compares two images.
func (c *diffCmd) Run(a *app) error {
	st, err := c.open(a, false)
	if err != nil {
		return err
	}
	_, before, err := openRef(a.ctx, st, c.Old)
	if err != nil {
		return err
	}
	_, after, err := openRef(a.ctx, st, c.New)
	if err != nil {
		return err
	}
	d, err := diffImages(before, after, st)
	if err != nil {
		return err
	}
	return a.ui.result(d, "%d regions differ, %d are gone; %d new chunks, %s, %s encoded",
		d.Regions, d.Gone, d.Chunks, size(d.Bytes), size(d.EncodedBytes))
}

func diffImages(before, after *image.Image, st store.Store) (imageDiff, error) {
	d := imageDiff{Old: before.Digest, New: after.Digest}
	place := make(map[uint64]image.Entry, len(before.Layout.Entries()))
	have := make(map[image.ID]bool, len(before.Layout.Entries()))
	for _, e := range before.Layout.Entries() {
		place[e.Region] = e
		have[e.ID] = true
	}
	for i, e := range after.Layout.Entries() {
		if place[e.Region] != e {
			d.Regions++
		}
		delete(place, e.Region)
		n := after.Layout.Number(i)
		if have[e.ID] {
			continue
		}
		have[e.ID] = true
		enc, _, ok := st.Lookup(e.ID)
		if !ok {
			return d, fmt.Errorf("image @%s: chunk %s is not in the store: %w", after.Digest.Short(), e.ID.Short(), store.ErrNotFound)
		}
		d.Chunks++
		d.Bytes += int64(after.Layout.Size(n))
		d.EncodedBytes += int64(enc)
	}
	d.Gone = len(place)
	return d, nil
}

type removeCmd struct {
	refArg
	storeFlag
}

// Run removes a tag.
func (c *removeCmd) Run(a *app) error {
	st, err := c.open(a, false)
	if err != nil {
		return err
	}
	ref, err := image.ParseRef(c.Ref)
	if err != nil {
		return usageError{err}
	}
	if ref.Name == "" || ref.Version == 0 {
		return usageError{fmt.Errorf("remove %s: name the version, NAME:VERSION", c.Ref)}
	}
	if _, err := st.Resolve(a.ctx, ref); err != nil { // checks the digest, if there is one
		return err
	}
	if err := st.RemoveTag(a.ctx, ref.Name, ref.Version); err != nil {
		return err
	}
	return a.ui.result(map[string]string{"event": "removed", "ref": ref.String()}, "removed %s; `imager gc` frees what only it used", ref)
}

type gcCmd struct {
	storeFlag
	DryRun bool `help:"Only say what would be removed."`
}

// Run collects garbage.
func (c *gcCmd) Run(a *app) error {
	st, err := c.open(a, false)
	if err != nil {
		return err
	}
	p := a.ui.progress("gc " + c.Store)
	r, err := st.GC(a.ctx, store.GCOptions{DryRun: c.DryRun, Progress: p.Step("")})
	p.Stop()
	if err != nil {
		return err
	}
	verb := "removed"
	if c.DryRun {
		verb = "would remove"
	}
	return a.ui.result(map[string]any{"event": "done", "dry_run": c.DryRun, "images": r.Images, "packs": r.Packs, "repacked": r.Repacked, "bytes": r.Bytes},
		"%s %d images and %d packs (%d repacked), %s", verb, r.Images, r.Packs, r.Repacked, size(r.Bytes))
}

type checkCmd struct {
	storeFlag
	ReadData bool `help:"Read and verify every chunk, too."`
}

// Run checks a store.
func (c *checkCmd) Run(a *app) error {
	st, err := c.open(a, false)
	if err != nil {
		return err
	}
	var printErr error
	p := a.ui.progress("check " + c.Store)
	found := func(f store.Finding) {
		kind := "unused"
		if f.Damage {
			kind = "damage"
		}
		if err := a.ui.result(map[string]any{"event": "finding", "damage": f.Damage, "path": f.Path, "what": f.What}, "%s: %s: %s", kind, f.Path, f.What); err != nil {
			printErr = err
		}
	}
	r, err := st.Check(a.ctx, store.CheckOptions{ReadData: c.ReadData, Found: found, Progress: p.Step("")})
	p.Stop()
	if err != nil {
		return err
	}
	if printErr != nil {
		return printErr
	}
	err = a.ui.result(map[string]any{"event": "done", "tags": r.Tags, "images": r.Images, "packs": r.Packs, "chunks": r.Chunks, "bytes": r.Bytes, "damaged": r.Damaged},
		"%d tags, %d images, %d packs, %d chunks, %s: %d damaged", r.Tags, r.Images, r.Packs, r.Chunks, size(r.Bytes), r.Damaged)
	if err == nil && r.Damaged > 0 {
		err = fmt.Errorf("store %s: %w; what a damaged pack had comes back when the pack is deleted and the same images are captured or imported again", c.Store, errDiffers)
	}
	return err
}
