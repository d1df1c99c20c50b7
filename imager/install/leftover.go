package install

import (
	"io"

	"huck/imager/usedmap"
)

// eraseLeftovers erases, of what the disk held before, the magic numbers in
// blocks that the image does not use. A partition that was half a mirror has
// that in its last blocks or its second: the new filesystem may have them free,
// and all that looks for it would find the mirror instead. Makers of filesystems
// erase them for the same reason.
func (j *Job) eraseLeftovers() error {
	if j.maxGap > 0 {
		return nil // the device was blank
	}
	marks := j.leftovers()
	if len(marks) == 0 {
		return nil
	}
	erased := 0
	err := j.view.unused(func(off, n int64) error {
		for _, m := range marks {
			if m.Offset < off || m.Offset+m.Size > off+n {
				continue
			}
			if err := j.writeAt(m.Offset, make([]byte, m.Size)); err != nil {
				return err
			}
			j.log.Debug("a leftover is erased", "content", m.Content, "offset", m.Offset)
			erased++
		}
		return nil
	})
	if err != nil || erased == 0 {
		return err
	}
	j.log.Warn("the disk's earlier content could be taken for what is there now, its magic numbers are erased", "count", erased)
	return j.sync()
}

// leftovers lists the magic numbers on the device and in its partitions, as they
// are in the image and as they grow.
func (j *Job) leftovers() []usedmap.Mark {
	type place struct{ start, size int64 }
	places := []place{{0, j.view.size}}
	if j.opt.Partition == 0 {
		for _, p := range j.img.Manifest.Partitions {
			places = append(places, place{p.Start, p.Size})
		}
	}
	if r := j.view.resize(); r != nil {
		places = append(places, place{r.Start, r.To})
	}
	var all []usedmap.Mark
	seen := make(map[int64]bool)
	for _, p := range places {
		marks, err := usedmap.Marks(io.NewSectionReader(j.dev, p.start, p.size), p.size)
		if err != nil {
			j.log.Warn("cannot look for leftovers", "offset", p.start, "size", p.size, "err", err)
		}
		for _, m := range marks {
			if m.Offset += p.start; !seen[m.Offset] {
				seen[m.Offset] = true
				all = append(all, m)
			}
		}
	}
	return all
}
