package clonezilla

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"huck/imager/image"
	"huck/imager/ptable"
)

// partedDisk and partedSector match the lines of parted's list that tell the
// disk's size and its sectors'.
var (
	partedDisk   = regexp.MustCompile(`(?m)^Disk /dev/[^:\n]+: (\d+)s$`)
	partedSector = regexp.MustCompile(`(?m)^Sector size \(logical/physical\): (\d+)B/`)
)

// table writes the disk's partition table, its boot code and what lies between
// them and the first partition, and makes the file as long as the disk.
func (d *folder) table(ctx context.Context, f *os.File) error {
	size, err := d.size()
	if err != nil {
		return err
	}
	mbr, err := d.read("-mbr", sector)
	if err != nil {
		return err
	}
	if len(mbr) != sector {
		return d.bad("%s-mbr has %d bytes instead of %d", d.disk, len(mbr), sector)
	}
	if err := d.gap(ctx, f); err != nil {
		return err
	}
	var patches []ptable.Patch
	if d.dump.gpt {
		patches, size, err = d.gpt(mbr, size)
	} else {
		patches, err = d.ebrs()
	}
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	for _, p := range append([]ptable.Patch{{Start: 0, Data: mbr}}, patches...) {
		if _, err := f.WriteAt(p.Data, p.Start); err != nil {
			return err
		}
	}
	return d.check(f, size)
}

// gap writes what was saved of the room between the MBR and the first partition.
func (d *folder) gap(ctx context.Context, f *os.File) error {
	name := d.disk + "-hidden-data-after-mbr"
	if !d.has(name) {
		return nil
	}
	g, err := os.Open(filepath.Join(d.path, name))
	if err != nil {
		return err
	}
	defer g.Close() // opened for reading
	return wrap(name, copySparse(ctx, g, io.NewOffsetWriter(f, sector), room{0, d.dump.first() - sector}))
}

// size is the disk's as parted told it, else what the partitions need.
func (d *folder) size() (int64, error) {
	list, err := d.optional("-pt.parted", textBytes)
	if err != nil {
		return 0, err
	}
	if m := partedSector.FindSubmatch(list); m != nil && string(m[1]) != "512" {
		return 0, &Refused{Device: d.path, Why: "its disk has sectors of " + string(m[1]) +
			" bytes, and only of those of 512 the whole table is saved: restore it to a disk with Clonezilla and capture that"}
	}
	size := d.dump.end()
	if m := partedDisk.FindSubmatch(list); m != nil {
		n, err := strconv.ParseInt(string(m[1]), 10, 64)
		if err != nil || n > image.MaxDiskSize/sector || n*sector < size {
			return 0, d.bad("%s-pt.parted has a disk of %s sectors; the partitions end at %d", d.disk, m[1], size/sector)
		}
		size = n * sector
	}
	return size, nil
}

// gpt is the primary GPT as it was saved, and a backup made of it: Clonezilla's
// own can lack the first sector.
func (d *folder) gpt(mbr []byte, size int64) ([]ptable.Patch, int64, error) {
	head, err := d.read("-gpt-1st", textBytes)
	if err != nil {
		return nil, 0, err
	}
	if len(head) < 2*sector {
		return nil, 0, d.bad("%s-gpt-1st has %d bytes", d.disk, len(head))
	}
	copy(head, mbr)
	h, err := ptable.ParseHeader(head[sector:2*sector], 1)
	if err != nil {
		return nil, 0, d.bad("%s-gpt-1st: %v", d.disk, err)
	}
	size = max(size, int64(h.AlternateLBA()+1)*sector)
	need, err := ptable.HeadSize(head, sector)
	if err != nil || need > int64(len(head)) {
		return nil, 0, d.bad("%s-gpt-1st has %d bytes, its entries end at %d", d.disk, len(head), need)
	}
	fit, err := ptable.Fit(head[:need], sector, size)
	if err != nil {
		return nil, 0, d.bad("%s-gpt-1st: %v", d.disk, err)
	}
	return []ptable.Patch{{Start: 0, Data: head[:need]}, {Start: 0, Data: fit.Head}, {Start: fit.BackupAt, Data: fit.Backup}}, size, nil
}

// check insists that the table which stands there now is the one of the dump.
func (d *folder) check(f *os.File, size int64) error {
	t, err := ptable.Read(f, size, sector)
	if err != nil {
		return d.bad("%v", err)
	}
	var want, got []string
	for _, p := range d.dump.parts {
		if !d.dump.extended(p) {
			want = append(want, fmt.Sprintf("%d at %d of %d bytes", p.number, p.start, p.size))
		}
	}
	for _, p := range t.Parts {
		got = append(got, fmt.Sprintf("%d at %d of %d bytes", p.Number, p.Start, p.Size))
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		return d.bad("%s-pt.sf has the partitions %q, the saved table has %q", d.disk, want, got)
	}
	return nil
}

// ebrs makes the chain of the logical partitions, of which only the first
// record is saved. That tells where the second is; where the others were, no
// file tells, and they go as far before their partitions as the first does.
func (d *folder) ebrs() ([]ptable.Patch, error) {
	holder, list := d.dump.logical()
	if len(list) == 0 {
		return nil, nil
	}
	if holder.size == 0 {
		return nil, d.bad("%s has logical partitions and no extended one", d.disk)
	}
	saved, err := d.optionalFile(holder.name+"-ebr", sector)
	if err != nil {
		return nil, err
	}
	whole := len(saved) == sector && saved[510] == 0x55 && saved[511] == 0xaa
	at := make([]int64, len(list))
	at[0] = holder.start
	for i := 1; i < len(list); i++ {
		at[i] = list[i].start - (list[0].start - holder.start)
		if i == 1 && whole && saved[466] != 0 { // the link's type
			at[i] = holder.start + int64(binary.LittleEndian.Uint32(saved[470:]))*sector
		}
		if d.taken(at[i]) {
			at[i] = list[i].start - sector
		}
	}
	var patches []ptable.Patch
	for i, p := range list {
		if p.start <= at[i] || p.start+p.size > holder.start+holder.size || d.taken(at[i]) {
			return nil, d.bad("%s does not fit into the extended partition %s", p.name, holder.name)
		}
		if i == 0 && whole {
			patches = append(patches, ptable.Patch{Start: at[0], Data: saved})
			continue
		}
		b := make([]byte, sector)
		kind, err := strconv.ParseUint(p.kind, 16, 8)
		if err != nil {
			return nil, d.bad("%s has the type %q", p.name, p.kind)
		}
		putEntry(b[446:], byte(kind), p.start-at[i], p.size)
		if p.bootable {
			b[446] = 0x80
		}
		if i+1 < len(list) {
			next := list[i+1]
			putEntry(b[462:], 5, at[i+1]-holder.start, next.start+next.size-at[i+1])
		}
		b[510], b[511] = 0x55, 0xaa
		patches = append(patches, ptable.Patch{Start: at[i], Data: b})
	}
	return patches, nil
}

// taken reports whether a sector is inside a partition or outside the extended
// one.
func (d *folder) taken(at int64) bool {
	holder, list := d.dump.logical()
	return at < holder.start || at >= holder.start+holder.size ||
		slices.ContainsFunc(list, func(p dumpPart) bool { return at >= p.start && at < p.start+p.size })
}

// putEntry writes a partition of bytes into a slot of a table. The cylinders
// are those for what has none.
func putEntry(b []byte, kind byte, start, size int64) {
	copy(b, []byte{0, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff})
	binary.LittleEndian.PutUint32(b[8:], uint32(start/sector))
	binary.LittleEndian.PutUint32(b[12:], uint32(size/sector))
}
