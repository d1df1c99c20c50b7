package capture

import (
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
	backup   []image.Extent // sectors of the backup GPT, which count as zero
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
	t, sector, err := readTable(dev)
	if err != nil {
		return nil, fmt.Errorf("capture: %s: %w", dev.Name(), err)
	}
	if t.FromBackup {
		return nil, &Refused{dev.Name(), "its primary GPT is damaged; repair it first, for example with sgdisk"}
	}
	for _, w := range t.Warnings {
		cfg.Log.Warn("capture: partition table", "dev", dev.Name(), "warning", w)
	}
	p := &plan{cfg: cfg}
	if t.Kind == "gpt" {
		p.backup = t.Backup
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

// readTable reads the partition table. A file has no sector size of its own:
// the one that shows a table is right.
func readTable(dev Device) (*ptable.Table, int, error) {
	if s := dev.SectorSize(); s != 0 {
		t, err := ptable.Read(dev, dev.Size(), s)
		return t, s, err
	}
	t, err := ptable.Read(dev, dev.Size(), 512)
	if dev.Size()%4096 == 0 && (err != nil || t.Kind != "gpt") {
		if large, err := ptable.Read(dev, dev.Size(), 4096); err == nil && large.Kind == "gpt" && !large.FromBackup {
			return large, 4096, nil
		}
	}
	return t, 512, err
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
			Content: found.Content, FSUUID: found.UUID, FSLabel: found.Label, UsedBytes: bytes, Whole: found.Whole,
		})
	}
	return nil
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
	for _, w := range found.Warnings {
		cfg.Log.Warn("capture: partition", "dev", dev.Name(), "partition", part.Number, "content", found.Content, "warning", w)
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
			p.cfg.Log.Warn("capture: gap between partitions left out", "dev", p.cfg.Device.Name(), "start", gap.Start+gapLimit, "bytes", gap.Size-gapLimit)
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
			if bad || !zero(b[:n]) {
				used.add(off, int64(n))
			}
			b, off = b[n:], off+int64(n)
		}
	}
	return nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
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
