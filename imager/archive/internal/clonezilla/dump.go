package clonezilla

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"huck/imager/image"
)

// sector is the only sector size whose tables are in a folder whole: Clonezilla
// saves as many blocks of 512 bytes as a table has sectors of that size.
const sector = 512

// dump is a partition table as sfdisk --dump prints it.
type dump struct {
	gpt   bool
	parts []dumpPart
}

// dumpPart is one partition of it, in bytes.
type dumpPart struct {
	name        string // sda1
	number      int
	start, size int64
	kind        string // of an MBR: hexadecimal digits
	bootable    bool
}

// dumpLine matches a partition: sfdisk wrote Id= before version 2.26, and type=
// since.
var dumpLine = regexp.MustCompile(`^/dev/(\S+) *: *start= *(\d+), *size= *(\d+)(?:, *(?:Id|type)= *([0-9A-Za-z-]+))?(.*)$`)

// parseDump reads the dump of a disk. Errors wrap image.ErrFormat.
func parseDump(text, disk string) (dump, error) {
	var d dump
	bad := func(line, why string) (dump, error) {
		return d, fmt.Errorf("partition table: line %.100q: %s: %w", line, why, image.ErrFormat)
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch {
		case key == "label":
			d.gpt = value == "gpt"
			if !d.gpt && value != "dos" {
				return bad(line, "only gpt and dos are known")
			}
		case key == "unit" && value != "sectors":
			return bad(line, "only sectors are known")
		case key == "sector-size" && value != "512":
			return bad(line, "only sectors of 512 bytes can be imported: restore it to a disk with Clonezilla and capture that")
		case strings.HasPrefix(line, "/dev/"):
			p, err := parseDumpLine(line, disk)
			if err != nil {
				return bad(line, err.Error())
			}
			if p.size > 0 { // the old sfdisk printed empty slots, too
				d.parts = append(d.parts, p)
			}
		}
	}
	if len(d.parts) == 0 {
		return d, fmt.Errorf("partition table: it has no partition: %w", image.ErrFormat)
	}
	return d, nil
}

func parseDumpLine(line, disk string) (p dumpPart, err error) {
	m := dumpLine.FindStringSubmatch(line)
	if m == nil {
		return p, fmt.Errorf("it cannot be read")
	}
	p.name, p.kind, p.bootable = fileName(m[1]), strings.ToLower(m[4]), strings.Contains(m[5], "bootable")
	digits, ok := strings.CutPrefix(p.name, disk)
	if p.number, err = strconv.Atoi(strings.TrimPrefix(digits, "p")); !ok || err != nil || p.number < 1 {
		return p, fmt.Errorf("no partition of %s", disk)
	}
	start, serr := strconv.ParseInt(m[2], 10, 64)
	size, zerr := strconv.ParseInt(m[3], 10, 64)
	if limit := int64(image.MaxDiskSize / sector); serr != nil || zerr != nil || start > limit || size > limit-start {
		return p, fmt.Errorf("it reaches past %d bytes", int64(image.MaxDiskSize))
	}
	p.start, p.size = start*sector, size*sector
	return p, nil
}

// fileName is a device's name as part of a file's: cciss/c0d0 has a slash.
func fileName(device string) string { return strings.ReplaceAll(device, "/", "-") }

// extended reports that a partition only holds logical ones.
func (d dump) extended(p dumpPart) bool {
	return !d.gpt && p.number < 5 && slices.Contains([]string{"5", "05", "f", "0f", "85"}, p.kind)
}

// end is the first byte behind the last partition.
func (d dump) end() (end int64) {
	for _, p := range d.parts {
		end = max(end, p.start+p.size)
	}
	return end
}

// first is where the first partition starts.
func (d dump) first() int64 {
	return slices.MinFunc(d.parts, func(a, b dumpPart) int { return int(a.start/sector - b.start/sector) }).start
}

// logical lists the logical partitions by number, which is the order of their
// chain, and the extended one that holds them.
func (d dump) logical() (holder dumpPart, list []dumpPart) {
	for _, p := range d.parts {
		switch {
		case d.extended(p):
			holder = p
		case !d.gpt && p.number > 4:
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b dumpPart) int { return a.number - b.number })
	return holder, list
}
