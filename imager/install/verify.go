package install

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"huck/imager/api"
	"huck/imager/disk"
	"huck/imager/image"
)

// Verify compares dev with the fitted view of img and writes nothing. What
// differs is in the report, and a disk that img does not fit on is a *Refused.
// progress may be nil; it is called about five times a second, and of its
// argument Total, Planned and InPlace are set.
func Verify(ctx context.Context, img *image.Image, dev disk.Device, progress func(api.Progress)) (*Report, error) {
	v, err := newView(img, dev, Options{})
	if err != nil {
		return nil, err
	}
	return compareAll(ctx, v, dev, runtime.GOMAXPROCS(0), progress)
}

func compareAll(ctx context.Context, v *view, dev disk.Device, workers int, progress func(api.Progress)) (*Report, error) {
	r := &Report{Regions: len(v.layout.Entries())}
	var mu sync.Mutex
	p := api.Progress{Total: v.layout.UsedBytes()}
	var told time.Time
	c := &comparer{view: v, dev: dev, found: func(i int, same bool, err error) error {
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		size := int64(v.layout.Size(v.layout.Number(i)))
		p.Planned += size
		if same {
			p.InPlace += size
		} else {
			r.Differ = append(r.Differ, i)
		}
		if progress != nil && (time.Since(told) >= progressEvery || p.Planned == p.Total) {
			told = time.Now()
			progress(p)
		}
		return nil
	}}
	if err := c.run(ctx, workers); err != nil {
		return nil, err
	}
	slices.Sort(r.Differ)
	r.Places = v.places(r.Differ)
	if v.gpt == nil || len(r.Differ) > 0 && r.Differ[0] == 0 {
		return r, nil
	}
	ok, err := v.backupInPlace(dev)
	switch {
	case err == nil:
		r.BackupGPT = !ok
	case len(r.Differ) == 0:
		return nil, err
	}
	return r, nil
}

// places counts entries of the map by the partitions that they have blocks of.
func (v *view) places(entries []int) []Place {
	outside, inside := Place{}, make([]Place, len(v.partitions))
	for i, p := range v.partitions {
		inside[i] = Place{Partition: p.Number, Content: p.Content}
	}
	for _, entry := range entries {
		e := v.layout.Entries()[entry]
		n := 0
		for i, p := range v.partitions {
			if overlap(e, p, v.layout.DiskSize()) {
				inside[i].Differ++
				n++
			}
		}
		if n == 0 {
			outside.Differ++
		}
	}
	return slices.DeleteFunc(append(inside, outside), func(p Place) bool { return p.Differ == 0 })
}

func overlap(e image.Entry, p image.Partition, diskSize int64) bool {
	for r := range e.Runs(diskSize) {
		if r.Offset < p.Start+p.Size && r.Offset+int64(r.Len) > p.Start {
			return true
		}
	}
	return false
}
