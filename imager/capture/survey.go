package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/ptable"
	"huck/imager/usedmap"
)

const (
	// headGap is how much before the first partition is taken whole: boot
	// loaders stand there, and a leftover of the target's earlier life there
	// could pass for a table or a filesystem of the whole disk.
	headGap = 1 << 20
	// gapLimit is how much of every gap is looked through for blocks that are
	// not all zero. Boards keep their boot loaders within the first 16 MiB.
	gapLimit = 16 << 20
)

// plan is what is to be captured.
type plan struct {
	cfg      *Config
	man      image.Manifest
	entries  []image.Entry  // the chunk map; the stream fills in the IDs
	chunkMap []byte         // its bytes, once it is complete
	zeros    []image.Extent // what counts as zero: the backup GPT and what is behind the last partition
	repair   []ptable.Patch // the primary GPT, where the disk's own is damaged
	warnings []string       // for the Result
	total    int64          // bytes of all used blocks
	surplus  int64          // of these, bytes taken only by rounding outward
}

// checkUse refuses a disk that is mounted or in use in another way.
func checkUse(cfg *Config) error {
	name := cfg.Device.Name()
	use, err := disk.InUse(name)
	if err != nil || use == "" {
		return err
	}
	if !cfg.Force {
		return &Refused{name, use}
	}
	cfg.Log.Warn("capture: the source is in use", "dev", name, "use", use)
	return nil
}

// survey finds out what is on the disk and which blocks are used.
func survey(ctx context.Context, cfg *Config) (*plan, error) {
	dev := cfg.Device
	if err := checkUse(cfg); err != nil {
		return nil, err
	}
	t, sector, err := readTable(cfg)
	if err != nil {
		return nil, err
	}
	p := &plan{cfg: cfg, repair: t.Repair}
	for _, w := range t.Warnings {
		p.warn("partition table: " + w)
	}
	if t.Kind == "gpt" {
		p.zeros = append(t.Backup, behind(t, dev.Size()))
	}
	p.man = image.Manifest{Format: image.ManifestVersion, DiskSize: dev.Size(), SectorSize: sector, Table: t.Kind, GPT: t.GPT}
	var used blocks
	if err := p.partitions(ctx, t, &used); err != nil {
		return nil, err
	}
	if err := p.outside(ctx, t, &used); err != nil {
		return nil, err
	}
	p.entries = used.entries(dev.Size())
	if len(p.entries) > image.MaxEntries {
		return nil, &Refused{dev.Name(), fmt.Sprintf("%d of its regions are in use, an image has at most %d", len(p.entries), image.MaxEntries)}
	}
	for i := range p.entries {
		p.total += int64(p.entries[i].Size(dev.Size()))
	}
	if p.surplus > 0 {
		cfg.Log.Info("capture: taken only to fill blocks", "dev", dev.Name(), "bytes", p.surplus)
	}
	return p, nil
}

// warn logs a warning and keeps it for the Result.
func (p *plan) warn(text string) {
	p.cfg.Log.Warn("capture: something is odd", "dev", p.cfg.Device.Name(), "warning", text)
	p.warnings = append(p.warnings, text)
}

// behind returns what follows the last partition of a GPT. It is no part of an
// image, and a target may have its backup GPT anywhere in it, so that it must
// not show in a block that it shares with the partition.
func behind(t *ptable.Table, size int64) image.Extent {
	var end int64
	for _, e := range t.Metadata {
		end = max(end, e.Start+e.Size)
	}
	for _, p := range t.Parts {
		end = max(end, p.Start+p.Size)
	}
	return image.Extent{Start: end, Size: size - end}
}

// mend makes of what was read into a batch what belongs in the image.
func (p *plan) mend(b *batch) {
	for _, e := range p.zeros {
		lo, hi := max(e.Start, b.start), min(e.Start+e.Size, b.start+batchSize)
		if lo < hi {
			clear(b.at(lo, int(hi-lo)))
		}
	}
	for _, r := range p.repair {
		lo, hi := max(r.Start, b.start), min(r.Start+int64(len(r.Data)), b.start+batchSize)
		if lo < hi {
			copy(b.at(lo, int(hi-lo)), r.Data[lo-r.Start:])
		}
	}
}

// readTable reads the partition table. A file has no sector size of its own:
// the one that shows a table is right. A table that cannot be taken as it is
// is refused, unless everything is to be taken raw: then there is none.
func readTable(cfg *Config) (*ptable.Table, int, error) {
	dev := cfg.Device
	sector := cmp.Or(dev.SectorSize(), 512)
	t, err := ptable.Read(dev, dev.Size(), sector)
	if dev.SectorSize() == 0 && dev.Size()%4096 == 0 && (err != nil || t.Kind != "gpt") {
		large, lerr := ptable.Read(dev, dev.Size(), 4096)
		if lerr == nil && (large.Kind == "gpt" || large.Kind == "mbr" && recognised(dev, large) > recognised(dev, t)) {
			return large, 4096, nil
		}
	}
	switch {
	case err == nil:
		return t, sector, nil
	case !errors.Is(err, ptable.ErrGPT) && !errors.Is(err, ptable.ErrMBR):
		return nil, 0, fmt.Errorf("capture: %s: %w", dev.Name(), err)
	case !cfg.RawAll:
		return nil, 0, &Refused{dev.Name(), fmt.Sprintf("its partition table is damaged: %v; repair it first, for example with sgdisk or sfdisk, or take the whole disk raw", err)}
	}
	t = &ptable.Table{Kind: "none", Warnings: []string{fmt.Sprintf("cannot be used, the disk is taken as one without a table: %v", err)}}
	return t, sector, nil
}

// recognised counts the partitions with known content. An MBR does not say what
// sectors it counts in; where they have content, it counts in those.
func recognised(r io.ReaderAt, t *ptable.Table) (n int) {
	if t == nil {
		return 0
	}
	for _, p := range t.Parts {
		if id, err := usedmap.Identify(io.NewSectionReader(r, p.Start, p.Size), p.Size); err == nil && id.Content != "" {
			n++
		}
	}
	return n
}

// partitions probes all partitions, or the whole disk if it has no table.
func (p *plan) partitions(ctx context.Context, t *ptable.Table, used *blocks) error {
	parts := t.Parts
	if t.Kind == "none" {
		parts = []ptable.Part{{Size: p.man.DiskSize}}
	}
	for _, n := range p.cfg.Raw {
		if !slices.ContainsFunc(parts, func(q ptable.Part) bool { return q.Number == n }) {
			return &Refused{p.cfg.Device.Name(), fmt.Sprintf("it has no partition %d to take raw", n)}
		}
	}
	for _, part := range parts {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("capture: %w", err)
		}
		found, err := p.probe(part)
		if err != nil {
			return err
		}
		set := found.Used
		if set == nil {
			set = new(usedmap.Set)
			set.Add(0, part.Size)
		}
		var own blocks
		for off, n := range set.All() {
			own.add(part.Start+off, n)
		}
		bytes := own.bytes(p.man.DiskSize)
		p.surplus += max(0, bytes-set.Bytes())
		used.addAll(own)
		p.man.Partitions = append(p.man.Partitions, image.Partition{
			Number: part.Number, Start: part.Start, Size: part.Size, Type: part.Type, UUID: part.UUID, Name: part.Name,
			Content: found.Content, FSUUID: found.UUID, FSLabel: found.Label, MaxSector: p.maxSector(part, found.Content),
			UsedBytes: bytes, Whole: found.Whole,
		})
	}
	return nil
}

// maxSector returns the largest sector of a device that the content can be used
// on, 0 where that is not known.
func (p *plan) maxSector(part ptable.Part, content string) int {
	if content == "unknown" {
		return 0
	}
	id, err := usedmap.Identify(io.NewSectionReader(p.cfg.Device, part.Start, part.Size), part.Size)
	if err != nil {
		return 0 // a bad block there has been told of by now
	}
	return id.MaxSector
}

// probe finds out what a partition holds, and refuses what is not at rest.
func (p *plan) probe(part ptable.Part) (usedmap.Result, error) {
	cfg, dev := p.cfg, p.cfg.Device
	found, err := usedmap.Probe(io.NewSectionReader(dev, part.Start, part.Size), part.Size)
	raw := cfg.RawAll || slices.Contains(cfg.Raw, part.Number)
	var refused *usedmap.Refused
	switch {
	case errors.As(err, &refused) && !raw && !cfg.Force:
		return found, &Refused{dev.Name(), fmt.Sprintf("partition %d holds %s: %s", part.Number, refused.Content, refused.Cause)}
	case err != nil && refused == nil && !cfg.SkipBad:
		return found, fmt.Errorf("capture: %s partition %d: %w", dev.Name(), part.Number, err)
	}
	if raw {
		found.Used, found.Whole = nil, "asked for"
	}
	if cfg.SkipPaging && found.Used != nil && found.Paging != nil {
		all := found.Used.Bytes()
		found.Used = found.Used.Without(found.Paging)
		cfg.Log.Info("capture: paging files left out", "dev", dev.Name(), "partition", part.Number, "bytes", all-found.Used.Bytes())
	}
	for _, w := range found.Warnings {
		p.warn(fmt.Sprintf("partition %d (%s): %s", part.Number, found.Content, w))
	}
	if found.Used == nil {
		cfg.Log.Warn("capture: partition taken whole", "dev", dev.Name(), "partition", part.Number, "content", found.Content, "bytes", part.Size, "why", found.Whole)
	}
	return found, nil
}

// outside adds what belongs to no partition: the table's own sectors, the head
// of the disk, and what is not zero in the gaps before partitions. What follows
// the last partition is no part of an image (FORMAT.md, What is used).
func (p *plan) outside(ctx context.Context, t *ptable.Table, used *blocks) error {
	if t.Kind == "none" {
		return nil
	}
	for _, e := range t.Metadata {
		used.add(e.Start, e.Size)
	}
	first, last := p.man.DiskSize, int64(0)
	for _, part := range t.Parts {
		first, last = min(first, part.Start), max(last, part.Start)
	}
	head := min(first, headGap)
	used.add(0, head)
	for _, gap := range t.Gaps() {
		if gap.Start >= last {
			break
		}
		if gap.Size > gapLimit {
			p.warn(fmt.Sprintf("gap between partitions left out: %d bytes at %d", gap.Size-gapLimit, gap.Start+gapLimit))
			gap.Size = gapLimit
		}
		if end := gap.Start + gap.Size; gap.Start < head {
			gap.Start = min(head, end)
			gap.Size = end - gap.Start
		}
		if err := p.gap(ctx, gap, used); err != nil {
			return err
		}
	}
	return nil
}

// gap adds the blocks of a gap that are not all zero, and those that cannot be
// read: the stream will tell.
func (p *plan) gap(ctx context.Context, gap image.Extent, used *blocks) error {
	buf := disk.Buffer(1 << 20)
	for off, end := gap.Start, gap.Start+gap.Size; off < end; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("capture: %w", err)
		}
		b := buf[:min(int64(len(buf))-off%image.BlockSize, end-off)]
		bad := readFull(p.cfg.Device, b, off) != nil
		for len(b) > 0 {
			n := min(len(b), image.BlockSize-int(off%image.BlockSize))
			if bad || !disk.IsZero(b[:n]) {
				used.add(off, int64(n))
			}
			b, off = b[n:], off+int64(n)
		}
	}
	return nil
}

// readFull fills b from r at off. io.ReaderAt may return io.EOF beside a full
// read.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
