package bootos

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// blsEntry is a type 1 entry of the Boot Loader Specification
// (https://uapi-group.org/specifications/specs/boot_loader_specification/).
type blsEntry struct {
	id, title, version, sortKey, machineID string
	linux                                  string
	initrds, options                       []string
	bad                                    bool // no tries left (boot counting)
}

// parseBLS reads an entry file. Keys that only matter to other loaders are
// passed over.
func parseBLS(name, text string) blsEntry {
	e := blsEntry{id: strings.TrimSuffix(name, ".conf")}
	// NAME+LEFT[-DONE].conf counts tries.
	if base, count, ok := strings.Cut(e.id, "+"); ok {
		left, _, _ := strings.Cut(count, "-")
		if n, err := strconv.Atoi(left); err == nil {
			e.id, e.bad = base, n == 0
		}
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		i := strings.IndexAny(line, " \t")
		if i < 0 || line[0] == '#' {
			continue
		}
		key, value := line[:i], strings.TrimSpace(line[i:])
		switch key {
		case "title":
			e.title = value
		case "version":
			e.version = value
		case "sort-key":
			e.sortKey = value
		case "machine-id":
			e.machineID = value
		case "linux":
			e.linux = value
		case "initrd":
			// Fedora's entries have several in one line, and variables such as $tuned_initrd.
			e.initrds = append(e.initrds, strings.Fields(value)...)
		case "options":
			e.options = append(e.options, value)
		}
	}
	return e
}

// compareBLS orders entries as the specification says, the default first.
func compareBLS(a, b blsEntry) int {
	bad := func(e blsEntry) int {
		if e.bad {
			return 1
		}
		return 0
	}
	if c := cmp.Compare(bad(a), bad(b)); c != 0 {
		return c
	}
	if a.sortKey != "" && b.sortKey != "" {
		return cmp.Or(strings.Compare(a.sortKey, b.sortKey), strings.Compare(a.machineID, b.machineID),
			compareVersions(b.version, a.version), compareVersions(b.id, a.id))
	}
	if (a.sortKey != "") != (b.sortKey != "") {
		return strings.Compare(b.sortKey, a.sortKey) // with a key before without
	}
	return compareVersions(b.id, a.id)
}

// compareVersions compares runs of digits as numbers and the rest as text; '~'
// sorts before everything, the end included.
func compareVersions(a, b string) int {
	digits := func(s string) int {
		n := 0
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		return n
	}
	for a != "" || b != "" {
		if a != "" && b != "" {
			if na, nb := digits(a), digits(b); na > 0 && nb > 0 {
				x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
				if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
					return c
				}
				a, b = a[na:], b[nb:]
				continue
			}
		}
		rank := func(s string) int {
			switch {
			case s == "":
				return 0
			case s[0] == '~':
				return -1
			case s[0] >= '0' && s[0] <= '9':
				return 1 << 8
			}
			return int(s[0])
		}
		if c := cmp.Compare(rank(a), rank(b)); c != 0 {
			return c
		}
		a, b = a[1:], b[1:]
	}
	return 0
}

// findBLS looks for entries on all volumes. The loader's own default counts
// (loader.conf, GRUB's saved_entry), else the order of the specification.
func findBLS(volumes []Volume) (Entry, error) {
	why := errors.New("no boot loader entries")
	for v := range volumes {
		for _, dir := range volumes[v].folders("loader/entries", "boot/loader/entries") {
			entries := readBLS(volumes[v].FS, dir)
			if len(entries) == 0 {
				continue
			}
			e, err := entries[defaultBLS(volumes, v, entries)].resolve(volumes, v, dir)
			if err == nil {
				err = e.check(volumes)
			}
			if err == nil {
				return e, nil
			}
			why = err
		}
	}
	return Entry{}, why
}

func readBLS(fsys fs.FS, dir string) []blsEntry {
	files, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return nil
	}
	var entries []blsEntry
	for _, f := range files {
		if path.Ext(f.Name()) != ".conf" {
			continue
		}
		text, err := readConfig(fsys, path.Join(dir, f.Name()))
		if err != nil {
			continue
		}
		if e := parseBLS(f.Name(), text); e.linux != "" {
			entries = append(entries, e)
		}
	}
	slices.SortStableFunc(entries, compareBLS)
	return entries
}

// defaultBLS returns the index of the default among sorted entries.
func defaultBLS(volumes []Volume, v int, entries []blsEntry) int {
	want := ""
	if text, err := readConfig(volumes[v].FS, "loader/loader.conf"); err == nil {
		for line := range strings.Lines(text) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "default" {
				want = strings.TrimSuffix(f[1], ".conf")
			}
		}
	} else {
		want = grubEnv(volumes)["saved_entry"]
	}
	i := slices.IndexFunc(entries, func(e blsEntry) bool {
		ok, err := path.Match(want, e.id)
		return want != "" && (err == nil && ok || want == e.id)
	})
	return max(i, 0)
}

// resolve finds the files and expands variables, which GRUB's variant of the
// specification allows in options and initrd.
func (e blsEntry) resolve(volumes []Volume, v int, dir string) (Entry, error) {
	source := path.Join(dir, e.id+".conf")
	vars := grubEnv(volumes)
	var unknown []string
	expand := func(s string) string {
		words := strings.Fields(s)
		var out []string
		for _, w := range words {
			if !strings.HasPrefix(w, "$") {
				out = append(out, w)
			} else if value, ok := vars[strings.Trim(w[1:], "{}")]; ok {
				out = append(out, strings.Fields(value)...)
			} else {
				unknown = append(unknown, w)
			}
		}
		return strings.Join(out, " ")
	}
	r := Entry{Title: cmp.Or(e.title, e.id), Source: source, Kernel: File{v, clean(e.linux)}}
	r.Cmdline = expand(strings.Join(e.options, " "))
	// $tuned_params and $tuned_initrd are usually unset; a $kernelopts that cannot be told would take root= with it.
	for _, u := range unknown {
		if !strings.HasPrefix(strings.Trim(u, "${}"), "tuned_") {
			return Entry{}, fmt.Errorf("%s: %s is set nowhere", source, u)
		}
	}
	for _, i := range strings.Fields(expand(strings.Join(e.initrds, " "))) {
		r.Initrds = append(r.Initrds, File{v, clean(i)})
	}
	return r, nil
}

// grubEnv returns the variables of the first GRUB environment block found
// (1024 bytes of "NAME=VALUE\n", padded with '#').
func grubEnv(volumes []Volume) map[string]string {
	for _, v := range volumes {
		for _, dir := range append(v.folders(grubDirs...), efiDirs(v.FS)...) {
			if text, err := readConfig(v.FS, dir+"/grubenv"); err == nil {
				return parseEnv(text)
			}
		}
	}
	return nil
}

func parseEnv(text string) map[string]string {
	vars := make(map[string]string)
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			vars[key] = strings.ReplaceAll(value, `\\`, `\`)
		}
	}
	return vars
}
