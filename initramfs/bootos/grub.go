package bootos

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// grubDirs are where distributions keep grub.cfg and grubenv.
var grubDirs = []string{"boot/grub", "grub", "boot/grub2", "grub2"}

// efiDirs are the folders below EFI; their grub.cfg is mostly a stub that
// leads to the real one.
func efiDirs(fsys fs.FS) []string {
	for _, efi := range []string{"EFI", "efi"} {
		if list, err := fs.ReadDir(fsys, efi); err == nil {
			var dirs []string
			for _, d := range list {
				dirs = append(dirs, efi+"/"+d.Name())
			}
			return dirs
		}
	}
	return nil
}

// findGRUB runs the first grub.cfg that leads to a system.
func findGRUB(volumes []Volume) (Entry, error) {
	why := errors.New("no grub.cfg")
	try := func(v int, dir string) (Entry, bool) {
		name := dir + "/grub.cfg"
		if _, err := fs.Stat(volumes[v].FS, name); err != nil {
			return Entry{}, false
		}
		e, err := runGRUB(volumes, v, dir)
		if err == nil {
			err = e.check(volumes)
		}
		if err != nil {
			why = fmt.Errorf("%s on partition %d: %v", name, volumes[v].Partition, err)
		}
		return e, err == nil
	}
	for v := range volumes {
		for _, dir := range volumes[v].folders(grubDirs...) {
			if e, ok := try(v, dir); ok {
				return e, nil
			}
		}
	}
	for v := range volumes {
		for _, dir := range efiDirs(volumes[v].FS) {
			if e, ok := try(v, dir); ok {
				return e, nil
			}
		}
	}
	return Entry{}, why
}

// maxWork bounds what a configuration can make us do: a command costs
// commandWork, a byte read or put into an argument 1. Real ones stay below a
// hundredth of it.
const (
	maxWork     = 64 << 20
	commandWork = 256
)

var errEndless = errors.New("configuration without end")

// grub is an interpreter with one disk and no screen.
type grub struct {
	volumes []Volume
	home    int // the volume with the configuration
	vars    map[string]string
	params  []string // $1 …, $@
	funcs   map[string][]statement
	menu    *[]menuItem
	status  bool
	work    int
	depth   int

	// What linux and initrd of the entry being started left.
	found  Entry
	loaded bool
	other  string // the command that starts something else
	source string
}

// menuItem is a menu entry or submenu.
type menuItem struct {
	title, id string
	params    []string
	body      []statement
	submenu   bool
}

func runGRUB(volumes []Volume, v int, dir string) (Entry, error) {
	var menu []menuItem
	g := &grub{volumes: volumes, home: v, funcs: make(map[string][]statement), menu: &menu, status: true}
	g.vars = map[string]string{
		"root": volumes[v].name(), "prefix": "(" + volumes[v].name() + ")/" + dir,
		"grub_platform": "efi", "grub_cpu": "x86_64",
		// What GRUB 2.06 says it can do; configurations choose their syntax by it.
		"feature_menuentry_id": "y", "feature_platform_search_hint": "y", "feature_default_font_path": "y",
		"feature_all_video_module": "y", "feature_timeout_style": "y", "feature_nativedisk_cmd": "y",
	}
	if err := g.file("(" + volumes[v].name() + ")/" + dir + "/grub.cfg"); err != nil {
		return Entry{}, err
	}
	return g.start()
}

// start starts the default entry and returns what it would boot.
func (g *grub) start() (Entry, error) {
	if !g.loaded { // else the configuration loads a kernel without any menu
		item, err := g.choose(*g.menu, g.vars["default"])
		if err != nil {
			return Entry{}, err
		}
		g.params = item.params
		if err := g.run(item.body); err != nil {
			return Entry{}, fmt.Errorf("entry %q: %w", item.title, err)
		}
		g.found.Title = item.title
	}
	if !g.loaded {
		if g.other != "" {
			return Entry{}, fmt.Errorf("entry %q starts something else than Linux (%s)", g.found.Title, g.other)
		}
		return Entry{}, fmt.Errorf("entry %q loads no kernel", g.found.Title)
	}
	return g.found, nil
}

// choose finds an entry by GRUB's "default": a number counting from 0, a title
// or an ID; "A>B" goes into submenus. What cannot be found means the first one.
func (g *grub) choose(menu []menuItem, want string) (menuItem, error) {
	if len(menu) == 0 {
		return menuItem{}, errors.New("the menu is empty")
	}
	want, rest := cutMenu(want)
	i, err := strconv.Atoi(want)
	if err != nil {
		i = slices.IndexFunc(menu, func(m menuItem) bool { return m.id == want || m.title == want })
	}
	if i < 0 || i >= len(menu) {
		i, rest = 0, ""
	}
	item := menu[i]
	if !item.submenu {
		return item, nil
	}
	var sub []menuItem
	old := g.menu
	g.menu = &sub
	g.params = item.params
	err = g.run(item.body)
	g.menu = old
	if err != nil {
		return menuItem{}, fmt.Errorf("submenu %q: %w", item.title, err)
	}
	return g.choose(sub, rest)
}

// cutMenu cuts at the first single '>'; ">>" stands for one in a title.
func cutMenu(s string) (first, rest string) {
	for i := 0; i < len(s); i++ {
		if s[i] != '>' {
			continue
		}
		if i+1 < len(s) && s[i+1] == '>' {
			i++
			continue
		}
		return strings.ReplaceAll(s[:i], ">>", ">"), s[i+1:]
	}
	return strings.ReplaceAll(s, ">>", ">"), ""
}

// file runs a configuration file.
func (g *grub) file(name string) error {
	if g.depth++; g.depth > 16 {
		return errors.New("configuration files that call each other")
	}
	defer func() { g.depth-- }()
	f, ok := g.resolve(name)
	if !ok {
		return fmt.Errorf("no volume for %s", name)
	}
	text, err := readConfig(g.volumes[f.Volume].FS, f.Path)
	if err != nil {
		return err
	}
	if !g.spend(10 * len(text)) {
		return errEndless
	}
	body, err := parseGRUB(text)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	g.source = f.Path
	return g.run(body)
}

// resolve finds the file that GRUB calls "(hd0,gpt2)/path" or "/path".
func (g *grub) resolve(name string) (File, bool) {
	dev := g.vars["root"]
	if strings.HasPrefix(name, "(") {
		end := strings.IndexByte(name, ')')
		if end < 0 {
			return File{}, false
		}
		dev, name = name[1:end], name[end+1:]
	}
	v, ok := g.volume(dev)
	return File{v, clean(name)}, ok
}

// volume finds "hdN,gptM", "hdN,msdosM", "hdN,M" or "hdN", or a logical volume
// by one of its names. N is not looked at: the disk's number at the next start
// is not what it was at the last.
func (g *grub) volume(dev string) (int, bool) {
	if !strings.HasPrefix(dev, "hd") {
		return g.first(func(v Volume) bool { return slices.Contains(v.Names, dev) })
	}
	_, part, _ := strings.Cut(dev, ",")
	n := 0
	if part != "" {
		digits := strings.TrimLeft(part, "abcdefghijklmnopqrstuvwxyz")
		var err error
		if n, err = strconv.Atoi(digits); err != nil {
			return 0, false
		}
	}
	return g.first(func(v Volume) bool { return v.Partition == n && len(v.Names) == 0 })
}

// first returns the first volume that is meant. Where a filesystem is there
// twice, by another subvolume, the configuration's own counts.
func (g *grub) first(meant func(Volume) bool) (int, bool) {
	if meant(g.volumes[g.home]) {
		return g.home, true
	}
	i := slices.IndexFunc(g.volumes, meant)
	return i, i >= 0
}

// spend takes work from what is left, and tells whether anything is.
func (g *grub) spend(n int) bool {
	g.work += n
	return g.work <= maxWork
}

// run runs statements one after another. An error is one that would stop GRUB
// from going on sensibly, not a command that failed.
func (g *grub) run(body []statement) error {
	if g.depth++; g.depth > 2*maxNesting {
		return errors.New("functions that call each other")
	}
	defer func() { g.depth-- }()
	for _, st := range body {
		if err := g.one(st); err != nil {
			return err
		}
		if !g.spend(commandWork) {
			return errEndless
		}
	}
	return nil
}

func (g *grub) one(st statement) error {
	switch {
	case st.loop == "for":
		return g.forLoop(st)
	case st.loop != "":
		for {
			if err := g.run(st.conds[0]); err != nil {
				return err
			}
			if g.status != (st.loop == "while") {
				return nil
			}
			if err := g.run(st.bodies[0]); err != nil {
				return err
			}
			if !g.spend(commandWork) {
				return errEndless
			}
		}
	case len(st.conds) > 0:
		for i, cond := range st.conds {
			if err := g.run(cond); err != nil {
				return err
			}
			if g.status {
				return g.run(st.bodies[i])
			}
		}
		g.status = true
		if len(st.bodies) > len(st.conds) {
			return g.run(st.bodies[len(st.conds)])
		}
		return nil
	}
	return g.command(st)
}

func (g *grub) forLoop(st statement) error {
	args := g.expand(st.words)
	if len(args) < 2 || args[1] != "in" {
		return fmt.Errorf("%w: for %s", errSyntax, strings.Join(args, " "))
	}
	for _, v := range args[2:] {
		g.vars[args[0]] = v
		if err := g.run(st.bodies[0]); err != nil {
			return err
		}
		if !g.spend(commandWork) {
			return errEndless
		}
	}
	return nil
}

// maxExpansion bounds what variables of variables can grow to.
const maxExpansion = 64 << 10

// expand turns words into arguments. Unquoted variables are split at blanks,
// and vanish if empty. What gets too long is cut off.
func (g *grub) expand(words []word) []string {
	var args []string
	total := 0
	for _, w := range words {
		var cur []byte
		have := false
		for _, p := range w {
			value := p.text
			if p.variable {
				value = g.variable(p.text)
			}
			if total += len(value); total > maxExpansion || !g.spend(len(value)+1) {
				return args
			}
			if !p.variable || p.quoted {
				cur = append(cur, value...)
				have = true
				continue
			}
			fields := strings.Fields(value)
			for i, f := range fields {
				if i > 0 {
					args = append(args, string(cur))
					cur = cur[:0]
				}
				cur = append(cur, f...)
				have = true
			}
		}
		if have {
			args = append(args, string(cur))
		}
	}
	return args
}

func (g *grub) variable(name string) string {
	switch name {
	case "?":
		if g.status {
			return "0"
		}
		return "1"
	case "@", "*":
		return strings.Join(g.params, " ")
	case "#":
		return strconv.Itoa(len(g.params))
	}
	if n, err := strconv.Atoi(name); err == nil {
		if n >= 1 && n <= len(g.params) {
			return g.params[n-1]
		}
		return ""
	}
	return g.vars[name]
}
