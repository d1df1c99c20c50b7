// Package lvm reads LVM2 physical volumes: label and metadata areas, the
// extents allocated on this volume and, inside logical volumes that lie linear
// on it, what the filesystem there uses.
//
// The formats are those of LVM2's lib/label, lib/format_text and lib/metadata.
// Whatever does not add up makes the physical volume one to be taken whole.
package lvm

import (
	"errors"
	"fmt"
	"io"

	"huck/imager/usedmap/internal/probe"
)

// maxWarnings bounds what is told of single logical volumes.
const maxWarnings = 50

// Inside finds out what a logical volume holds, as usedmap.Probe does.
type Inside func(r io.ReaderAt, size int64) (probe.Result, error)

// Probe finds the used bytes of the physical volume in r, size bytes long; the
// result is nil if it is none. What logical volumes hold it asks inside; with a
// nil inside it takes the physical volume whole. The error is a *probe.Refused,
// if a filesystem in a logical volume is not at rest, or one of reading; the
// result is valid beside it.
func Probe(r io.ReaderAt, size int64, inside Inside) (*probe.Result, error) {
	h, bad, err := readLabel(r, size)
	if err != nil || h == nil {
		return nil, err
	}
	res := member(h)
	switch {
	case bad != nil:
		return res.TakeWhole("%v", bad), nil
	case inside == nil:
		return res.TakeWhole("it is a physical volume inside a logical one"), nil
	}
	g, bad, err := readGroup(r, size, h)
	switch {
	case err != nil:
		return res.TakeWhole("it could not be read: %v", err), err
	case bad != nil:
		return res.TakeWhole("%v", bad), nil
	}
	res.Label = g.name
	if len(h.data) != 1 {
		return res.TakeWhole("it has %d data areas", len(h.data)), nil
	}
	res.Used = new(probe.Set)
	res.Used.Add(0, h.data[0].offset)
	for _, a := range append(h.mdas, h.boot...) {
		res.Used.Add(a.offset, a.size)
	}
	return g.content(res, r, inside)
}

// member is a physical volume of which only the label has been read.
func member(h *header) *probe.Result {
	return &probe.Result{Content: "LVM2_member", UUID: uuid(h.uuid)}
}

// Name is Probe for those who only want the volume's UUID and, as the label,
// its group's name. It reads the metadata and nothing else; what they hold is
// not checked.
func Name(r io.ReaderAt, size int64) (*probe.Result, error) {
	h, bad, err := readLabel(r, size)
	if err != nil || h == nil {
		return nil, err
	}
	res := member(h)
	if bad != nil {
		return res, nil
	}
	text, bad, err := readText(r, h)
	if err != nil {
		return nil, err
	}
	if top, err := parseConfig(string(text)); err == nil && bad == nil && len(top.sub) == 1 {
		res.Label = top.sub[0].name
	}
	return res, nil
}

// readGroup returns the volume group of the physical volume with header h, one
// of nothing if it belongs to none. bad says why it cannot be relied on.
func readGroup(r io.ReaderAt, size int64, h *header) (g *group, bad, err error) {
	text, bad, err := readText(r, h)
	if bad != nil || err != nil {
		return nil, bad, err
	}
	if len(text) == 0 {
		return &group{}, nil, nil
	}
	if g, err = parseGroup(text, h, size); err != nil {
		return nil, fmt.Errorf("its metadata do not add up: %v", err), nil
	}
	return g, nil, nil
}

// uuid prints a UUID of LVM's: 32 characters of its own in seven groups.
func uuid(s string) string {
	if len(s) != uuidLen {
		return ""
	}
	return s[:6] + "-" + s[6:10] + "-" + s[10:14] + "-" + s[14:18] + "-" + s[18:22] + "-" + s[22:26] + "-" + s[26:]
}

// content adds what the logical volumes use.
func (g *group) content(res *probe.Result, r io.ReaderAt, inside Inside) (*probe.Result, error) {
	more := 0
	warn := func(v *volume, format string, a ...any) {
		if len(res.Warnings) == maxWarnings {
			more++
			return
		}
		res.Warn("logical volume %s/%s "+format, append([]any{g.name, v.name}, a...)...)
	}
	for _, v := range g.volumes {
		if len(v.areas) == 0 {
			continue
		}
		if v.opaque != "" {
			warn(v, "taken whole: %s", v.opaque)
			g.whole(res.Used, v)
			continue
		}
		lv := g.linear(r, v)
		found, err := inside(lv, lv.size)
		var refused *probe.Refused
		switch {
		case errors.As(err, &refused):
			return res.Refuse(fmt.Sprintf("logical volume %s/%s holds %s: %s", g.name, v.name, refused.Content, refused.Cause))
		case err != nil:
			err = fmt.Errorf("logical volume %s/%s: %w", g.name, v.name, err)
			return res.TakeWhole("it could not be read: %v", err), err
		}
		for _, w := range found.Warnings {
			warn(v, "(%s): %s", found.Content, w)
		}
		if found.Used == nil {
			warn(v, "(%s) taken whole: %s", found.Content, found.Whole)
			g.whole(res.Used, v)
			continue
		}
		for off, n := range found.Used.All() {
			lv.each(off, n, func(at, n int64) bool { res.Used.Add(at, n); return true })
		}
	}
	if more > 0 {
		res.Warn("%d more remarks on logical volumes", more)
	}
	return res, nil
}

// whole adds all extents of v.
func (g *group) whole(used *probe.Set, v *volume) {
	for _, a := range v.areas {
		used.Add(g.start+a.first*g.extent, a.count*g.extent)
	}
}

// linear returns the reader of a volume whose areas follow each other.
func (g *group) linear(r io.ReaderAt, v *volume) *reader {
	lv := &reader{r: r}
	for _, a := range v.areas {
		n := a.count * g.extent
		lv.parts = append(lv.parts, part{lv.size, g.start + a.first*g.extent, n})
		lv.size += n
	}
	return lv
}
