package main

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/inspect"
	"huck/imager/install"
	"huck/initramfs/steps"
)

const (
	// settle is how long no disk may have come or gone before one is chosen, on
	// a machine where one may still be on its way: a second one could make
	// "only" or "smallest" wrong. Hubs tell of what is behind them within parts
	// of a second; a disk that they have told of is waited for. It counts from
	// the first look on, before the network is there, so that it is mostly over
	// when there is something to do.
	settle = time.Second
	// diskPatience is how long a disk that the rule names may take to appear.
	diskPatience = 20 * time.Second
	// maxContents is of how many partitions the contents are told: 200 bytes
	// each in an inventory, which the server bounds at 256 KiB.
	maxContents = 512
)

// disksSeen are the machine's disks and since when those that can be chosen are
// the same.
type disksSeen struct {
	list  []api.Disk
	since time.Time
}

// String tells them in a few words.
func (d disksSeen) String() string {
	var s []string
	for _, d := range d.list {
		s = append(s, fmt.Sprintf("%s %d MB %s %s", d.Path, d.Size/1e6, d.Model, d.Serial))
	}
	if s == nil {
		return "none yet"
	}
	return strings.Join(s, ", ")
}

// lookAtDisks notes which disks are there now.
func (b *boot) lookAtDisks() error {
	list, err := b.m.Disks()
	if err != nil {
		return err
	}
	if b.disks.since.IsZero() || !reflect.DeepEqual(fixed(list), fixed(b.disks.list)) {
		b.disks.since = time.Now()
	}
	b.disks.list = list
	return nil
}

// fixed leaves out what no rule chooses and may thus come at any time: the stick
// that the machine was started from comes late.
func fixed(disks []api.Disk) []api.Disk {
	return slices.DeleteFunc(slices.Clone(disks), func(d api.Disk) bool { return d.Removable || d.Boot })
}

// target chooses the disk that a rule names. That it names none, or more than
// one, is final once all disks had their time to appear.
func (b *boot) target(rule string, chosen *api.Disk) func(context.Context, func()) (string, error) {
	return func(ctx context.Context, _ func()) (string, error) {
		r, err := api.ParseRule(rule)
		if err != nil {
			return "", steps.Permanent(err)
		}
		for start := time.Now(); ; {
			if err := b.lookAtDisks(); err != nil {
				return "", err
			}
			d, err := r.Select(b.disks.list)
			late := time.Since(start) >= b.patience
			settled := !b.m.DisksMayCome() || time.Since(b.disks.since) >= settle && !b.m.DiskComing()
			if err == nil && (settled || late) {
				*chosen = d
				return fmt.Sprintf("%s, %d bytes, %s %s", d.Path, d.Size, d.Model, d.Serial), nil
			}
			if err != nil && late {
				_, err = r.Select(b.lookInto(b.disks.list)) // the same, with what stands on the candidates
				return "", steps.Permanent(err)
			}
			if err := steps.Sleep(ctx, 200*time.Millisecond); err != nil {
				return "", err
			}
		}
	}
}

// lookInto returns the disks with what stands on them. A disk that cannot be
// read is no reason to leave the others alone: it is logged.
func (b *boot) lookInto(disks []api.Disk) []api.Disk {
	seen, room := slices.Clone(disks), maxContents
	for i := range seen {
		found, err := b.m.Contents(seen[i])
		if err != nil {
			b.log.Info("disk not looked into", "dev", seen[i].Path, "err", err)
		}
		seen[i].Contents = found[:min(len(found), room)]
		room -= len(seen[i].Contents)
	}
	return seen
}

// admit refuses or tells of what the image would bring a second time to this
// machine: the installed system might start from the other disk.
func (b *boot) admit(a *api.Assignment, target *api.Disk) func(*image.Manifest) error {
	return func(man *image.Manifest) error {
		others := slices.DeleteFunc(slices.Clone(b.disks.list), func(d api.Disk) bool { return d.Path == target.Path })
		found := inspect.Duplicates(man, b.lookInto(others))
		if len(found) == 0 {
			return nil
		}
		var words []string
		for _, d := range found {
			words = append(words, d.String())
		}
		text := "the image brings what another disk has already: " + strings.Join(words, "; ")
		if a.Duplicates == api.DuplicatesRefuse {
			return &install.Refused{Device: target.Path, Why: text + "; wipe or unplug that disk, or assign with --duplicates warn"}
		}
		b.print("WARNING: %s; the installed system may start from there", text)
		b.run.Event(api.Event{Type: api.EventLog, Step: "receive", Message: "WARNING: " + text})
		return nil
	}
}
