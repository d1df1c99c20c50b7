package installed

import (
	"fmt"

	"huck/imager/personal"
	"huck/initramfs/bootos"
)

// Choose is how a root is chosen on a disk of these filesystems, with the
// partitions' own names "UUID NAME" by number.
func Choose(list []bootos.Filesystem, parts map[int][2]string, roots []int, cmdline string, hint *personal.Root) (string, error) {
	d := &disk{filesystems: list, parts: map[int]names{}, cmdline: cmdline}
	for n, p := range parts {
		d.parts[n] = names{p[0], p[1]}
	}
	for _, n := range roots {
		f, _ := d.numbered(n)
		d.roots = append(d.roots, volume{f, ""})
	}
	v, err := d.root(hint)
	return v.String(), err
}

// ParseTable is parseTable, in words.
func ParseTable(text string) (list []string) {
	for _, l := range parseTable(text) {
		list = append(list, fmt.Sprintf("%s %s %s", l.what, l.on, l.subvolume))
	}
	return list
}
