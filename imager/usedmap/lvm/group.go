package lvm

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"huck/imager/image"
)

// group is a volume group as one of its PVs has it.
type group struct {
	name    string
	id      string
	extent  int64 // bytes
	start   int64 // byte offset of extent 0 in this PV
	count   int64 // extents of this PV
	pvs     map[string]bool
	self    string // this PV's name in the metadata: pv0, …
	volumes []*volume
}

// volume is a logical volume.
type volume struct {
	name string
	id   string
	// size is its length in extents, areas what of this PV belongs to it.
	size  int64
	areas []allocation
	// opaque says why its content is not what stands in its extents, from the
	// first to the last, or not on this PV alone; empty if it is.
	opaque string
}

// allocation is count extents of this PV from extent first on.
type allocation struct{ first, count int64 }

// parseGroup reads the metadata text and checks all it says about this PV.
func parseGroup(text []byte, h *header, size int64) (*group, error) {
	top, err := parseConfig(string(text))
	if err != nil {
		return nil, err
	}
	version, err := top.integer("version", 1)
	if err != nil || version != 1 || top.text("contents") != "Text Format Volume Group" || len(top.sub) != 1 {
		return nil, fmt.Errorf("they are not those of one volume group, version 1")
	}
	vg := top.sub[0]
	sectors, err := vg.integer("extent_size", image.MaxDiskSize/sectorSize)
	if err != nil || sectors == 0 {
		return nil, fmt.Errorf("no sound extent_size")
	}
	g := &group{name: vg.name, id: vg.text("id"), extent: sectors * sectorSize, pvs: make(map[string]bool)}
	if err := g.findSelf(vg, h, size); err != nil {
		return nil, err
	}
	lvs := vg.child("logical_volumes")
	if lvs == nil {
		return g, nil
	}
	if err := g.readVolumes(lvs); err != nil {
		return nil, err
	}
	return g, g.checkOverlap()
}

// findSelf finds this PV among those of the group.
func (g *group) findSelf(vg *section, h *header, size int64) error {
	pvs := vg.child("physical_volumes")
	if pvs == nil {
		return fmt.Errorf("no physical volumes")
	}
	for _, pv := range pvs.sub {
		g.pvs[pv.name] = true
		if strings.ReplaceAll(pv.text("id"), "-", "") != h.uuid {
			continue
		}
		if g.self != "" {
			return fmt.Errorf("this physical volume is there twice")
		}
		g.self = pv.name
		if err := g.place(pv, h, size); err != nil {
			return err
		}
	}
	if g.self == "" {
		return fmt.Errorf("this physical volume is not among the group's")
	}
	return nil
}

// place takes over where this PV has its extents.
func (g *group) place(pv *section, h *header, size int64) error {
	start, err := pv.integer("pe_start", size/sectorSize)
	if err != nil {
		return err
	}
	g.start = start * sectorSize
	if g.count, err = pv.integer("pe_count", (size-g.start)/g.extent); err != nil {
		return err
	}
	if flags := pv.vars["flags"]; len(flags) != 0 {
		return fmt.Errorf("this physical volume has the flag %s", flags[0].text)
	}
	if len(h.data) != 1 || h.data[0].offset != g.start {
		return fmt.Errorf("extents begin at %d, which is not where its header has them", g.start)
	}
	if n := h.data[0].size; n != 0 && n < g.count*g.extent {
		return fmt.Errorf("%d extents of %d bytes are more than its header has room for, %d bytes", g.count, g.extent, n)
	}
	for _, a := range slices.Concat(h.mdas, h.boot) {
		if a.offset < g.start+g.count*g.extent && g.start < a.offset+a.size {
			return fmt.Errorf("extents overlap the area of %d bytes at %d", a.size, a.offset)
		}
	}
	return nil
}

// readVolumes reads all logical volumes and notes which are built on others.
func (g *group) readVolumes(lvs *section) error {
	names, below := make(map[string]bool), make(map[string]bool)
	for _, lv := range lvs.sub {
		names[lv.name] = true
	}
	for _, lv := range lvs.sub {
		v := &volume{name: lv.name, id: lv.text("id")}
		if err := g.segments(v, lv, names, below); err != nil {
			return fmt.Errorf("logical volume %s: %v", lv.name, err)
		}
		if v.opaque == "" {
			v.opaque = unusual(lv)
		}
		g.volumes = append(g.volumes, v)
	}
	for _, v := range g.volumes {
		if below[v.name] {
			v.opaque = "another volume is made of it or refers to it"
		}
	}
	return nil
}

// unusual tells whether a logical volume is in a state in which its content
// need not be what it seems, or hidden.
func unusual(lv *section) string {
	visible := false
	for _, s := range lv.vars["status"] {
		switch s.text {
		case "VISIBLE":
			visible = true
		case "READ", "WRITE", "FIXED_MINOR":
		default:
			return "its status is " + s.text
		}
	}
	for _, f := range lv.vars["flags"] {
		if f.text != "ACTIVATION_SKIP" {
			return "it has the flag " + f.text
		}
	}
	if !visible {
		return "it is hidden"
	}
	return ""
}

// segments reads the segments of a logical volume, which must follow each
// other without gaps, and adds to below what volumes they refer to.
func (g *group) segments(v *volume, lv *section, names, below map[string]bool) error {
	n, err := lv.integer("segment_count", int64(len(lv.sub)))
	if err != nil || n != int64(len(lv.sub)) {
		return fmt.Errorf("%d segments, another number is said", len(lv.sub))
	}
	for i, seg := range lv.sub {
		if seg.name != fmt.Sprintf("segment%d", i+1) {
			return fmt.Errorf("segment %d is called %s", i+1, seg.name)
		}
		start, err := seg.integer("start_extent", image.MaxDiskSize)
		if err != nil {
			return err
		}
		count, err := seg.integer("extent_count", image.MaxDiskSize)
		if err != nil {
			return err
		}
		if start != v.size || count == 0 {
			return fmt.Errorf("%s begins at extent %d, %d come before it", seg.name, start, v.size)
		}
		if v.size += count; v.size > image.MaxDiskSize {
			return fmt.Errorf("%d extents", v.size)
		}
		if err := g.segment(v, seg, count, names, below); err != nil {
			return fmt.Errorf("%s: %v", seg.name, err)
		}
	}
	return nil
}

// segment adds what of this PV belongs to a segment of count extents.
func (g *group) segment(v *volume, seg *section, count int64, names, below map[string]bool) error {
	kind, _, _ := strings.Cut(seg.text("type"), "+") // flags may follow
	where := ""
	switch kind {
	case "striped":
		where = "stripes"
	case "mirror":
		where = "mirrors"
	}
	for _, key := range slices.Sorted(maps.Keys(seg.vars)) { // sorted: the same disk gives the same words
		for _, val := range seg.vars[key] {
			switch {
			case key == "type" || !val.isText:
			case names[val.text] && !g.pvs[val.text]:
				below[val.text] = true
			case g.pvs[val.text] && key != where:
				return fmt.Errorf("one of type %q has %s on a physical volume, which this program does not know", kind, key)
			}
		}
	}
	if kind != "striped" {
		v.opaque = "it is of type " + kind
	}
	if where == "" {
		return nil
	}
	return g.places(v, seg, kind, seg.vars[where], count, names)
}

// places adds the extents of a segment of type striped or mirror: a list of
// pairs, the name of a PV or volume and the first extent there.
func (g *group) places(v *volume, seg *section, kind string, pairs []value, count int64, names map[string]bool) error {
	n := int64(len(pairs) / 2)
	said, err := seg.integer(map[string]string{"striped": "stripe_count", "mirror": "mirror_count"}[kind], n)
	if err != nil || said != n || n == 0 || len(pairs)%2 != 0 {
		return fmt.Errorf("%d values are no list of its places", len(pairs))
	}
	if kind == "striped" {
		if count%n != 0 {
			return fmt.Errorf("%d extents on %d stripes", count, n)
		}
		count /= n
	}
	if n > 1 && v.opaque == "" {
		v.opaque = "it is striped"
	}
	for i := 0; i < len(pairs); i += 2 {
		on, first := pairs[i], pairs[i+1]
		switch {
		case !on.isText || first.isText || !g.pvs[on.text] && !names[on.text]:
			return fmt.Errorf("it is on %q, which the group does not have", on.text)
		case on.text != g.self:
			v.opaque = cmp.Or(v.opaque, "not all of it is on this physical volume")
		case first.number < 0 || first.number > g.count || count > g.count-first.number:
			return fmt.Errorf("it has %d extents from %d on, this physical volume %d in all", count, first.number, g.count)
		default:
			v.areas = append(v.areas, allocation{first.number, count})
		}
	}
	return nil
}

// checkOverlap makes sure that no extent belongs to two segments.
func (g *group) checkOverlap() error {
	var all []allocation
	for _, v := range g.volumes {
		all = append(all, v.areas...)
	}
	slices.SortFunc(all, func(a, b allocation) int { return cmp.Compare(a.first, b.first) })
	for i := 1; i < len(all); i++ {
		if all[i].first < all[i-1].first+all[i-1].count {
			return fmt.Errorf("extent %d of this physical volume belongs to two segments", all[i].first)
		}
	}
	return nil
}
