package bootos

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// command runs one command. What GRUB has and we have no use for (video,
// modules, fonts, terminals) succeeds, except for questions, which are
// answered with no.
func (g *grub) command(st statement) error {
	args := g.expand(st.words)
	if len(args) == 0 {
		return nil
	}
	name, args := args[0], args[1:]
	if body, ok := g.funcs[name]; ok {
		old := g.params
		g.params = args
		err := g.run(body)
		g.params = old
		return err
	}
	g.status = true
	switch name {
	case "set":
		g.set(args)
	case "unset":
		for _, a := range args {
			delete(g.vars, a)
		}
	case "[", "test":
		if name == "[" && len(args) > 0 && args[len(args)-1] == "]" {
			args = args[:len(args)-1]
		}
		t := tester{g, args}
		g.status = t.or()
	case "false", "loadfont", "keystatus", "fwsetup", "background_image", "cpuid", "regexp", "cmp", "authenticate":
		g.status = false
	case "search", "search.file", "search.fs_label", "search.fs_uuid":
		g.search(name, args)
	case "load_env":
		g.loadEnv(args)
	case "source", ".", "configfile", "normal", "extract_entries_source":
		return g.include(name, args)
	case "function":
		if len(args) > 0 {
			g.funcs[args[0]] = st.block
		}
	case "menuentry", "submenu":
		g.addItem(name, args, st.block)
	case "setparams":
		g.params = args
	case "linux", "linux16", "linuxefi":
		return g.linux(args)
	case "initrd", "initrd16", "initrdefi":
		return g.initrd(args)
	case "blscfg":
		g.blscfg()
	case "chainloader", "multiboot", "multiboot2", "exit", "efi", "xen_hypervisor", "halt", "reboot":
		if !g.loaded {
			g.other = name
		}
	default:
		if k, v, ok := strings.Cut(name, "="); ok && k != "" { // "name=value" is set, too
			g.vars[k] = v
		}
	}
	return nil
}

func (g *grub) set(args []string) {
	for _, a := range args {
		if k, v, ok := strings.Cut(a, "="); ok {
			g.vars[k] = v
		}
	}
}

// search sets a variable to the volume with a UUID, label or file.
func (g *grub) search(name string, args []string) {
	by, set, what := strings.TrimPrefix(strings.TrimPrefix(name, "search"), "."), "", ""
	var plain []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--fs-uuid" || a == "-u":
			by = "fs_uuid"
		case a == "--label" || a == "--fs-label" || a == "-l":
			by = "fs_label"
		case a == "--file" || a == "-f":
			by = "file"
		case a == "--set" || a == "-s":
			set = "root"
			// The name of the variable may follow, but a single argument more is what is looked for.
			if i+2 < len(args) && !strings.HasPrefix(args[i+1], "-") {
				set = args[i+1]
				i++
			}
		case strings.HasPrefix(a, "--set="):
			set = a[len("--set="):]
		case a == "--hint" || a == "-h":
			i++
		case strings.HasPrefix(a, "-"):
		default:
			plain = append(plain, a)
		}
	}
	if len(plain) > 0 {
		what = plain[0]
	}
	if strings.Contains(name, ".") && len(plain) > 1 {
		set = plain[1] // search.fs_uuid UUID VARIABLE HINT…
	}
	i, ok := g.first(func(v Volume) bool {
		switch by {
		case "fs_uuid":
			return v.UUID != "" && strings.EqualFold(v.UUID, what)
		case "fs_label":
			return v.Label != "" && v.Label == what
		}
		return false
	})
	if by != "fs_uuid" && by != "fs_label" && what != "" {
		i = slices.IndexFunc(g.volumes, func(v Volume) bool { _, err := fs.Stat(v.FS, clean(what)); return err == nil })
		ok = i >= 0
	}
	if g.status = ok; ok && set != "" {
		g.vars[set] = g.volumes[i].name()
	}
}

// loadEnv reads a GRUB environment block. The next_entry of grub-reboot is
// left out: it is for once, and who starts a system from here cannot take it
// back, so it would be for ever.
func (g *grub) loadEnv(args []string) {
	file := g.vars["prefix"] + "/grubenv"
	var only []string
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "--file" || a == "-f":
			if i++; i < len(args) {
				file = args[i]
			}
		case strings.HasPrefix(a, "--file="):
			file = a[len("--file="):]
		case strings.HasPrefix(a, "-"):
		default:
			only = append(only, a)
		}
	}
	f, ok := g.resolve(file)
	if !ok {
		g.status = false
		return
	}
	text, err := readConfig(g.volumes[f.Volume].FS, f.Path)
	if err != nil {
		g.status = false
		return
	}
	for k, v := range parseEnv(text) {
		if k != "next_entry" && (len(only) == 0 || slices.Contains(only, k)) {
			g.vars[k] = v
		}
	}
}

// include runs another configuration file. One that is not there is a failed
// command, as custom.cfg often is.
func (g *grub) include(name string, args []string) error {
	file := g.vars["prefix"] + "/grub.cfg" // "normal" without an argument
	if len(args) > 0 {
		file = args[0]
	}
	f, ok := g.resolve(file)
	if ok {
		_, err := fs.Stat(g.volumes[f.Volume].FS, f.Path)
		ok = err == nil
	}
	if !ok {
		g.status = false
		return nil
	}
	if name == "configfile" || name == "normal" {
		*g.menu = nil // its menu replaces ours
	}
	return g.file(file)
}

func (g *grub) addItem(kind string, args []string, body []statement) {
	item := menuItem{body: body, submenu: kind == "submenu"}
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "--class" || a == "--users" || a == "--hotkey" || a == "--source":
			i++
		case a == "--id":
			if i++; i < len(args) {
				item.id = args[i]
			}
		case strings.HasPrefix(a, "--id="):
			item.id = a[len("--id="):]
		case strings.HasPrefix(a, "--"):
		case item.params == nil:
			item.title = a
			item.params = []string{a}
		default:
			item.params = append(item.params, a)
		}
	}
	if len(*g.menu) < 1000 {
		*g.menu = append(*g.menu, item)
	}
}

func (g *grub) linux(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("linux without a file")
	}
	f, ok := g.resolve(args[0])
	if !ok {
		return fmt.Errorf("linux %s: no such volume on this disk", args[0])
	}
	quoted := make([]string, len(args)-1)
	for i, a := range args[1:] {
		quoted[i] = quoteArg(a)
	}
	g.found = Entry{Title: g.found.Title, Source: g.source, Kernel: f, Cmdline: strings.Join(quoted, " ")}
	g.loaded = true
	return nil
}

// quoteArg writes an argument as GRUB hands it to the kernel (its
// grub-core/lib/cmdline.c): quotes where there are blanks, \ before quotes and \.
func quoteArg(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		hex := c == '\\' && i+3 < len(s) && s[i+1] == 'x' && isHex(s[i+2]) && isHex(s[i+3])
		if (c == '\\' || c == '\'' || c == '"') && !hex { // \xNN stays: distributions rely on it
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	if strings.Contains(s, " ") {
		return `"` + b.String() + `"`
	}
	return b.String()
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func (g *grub) initrd(args []string) error {
	if !g.loaded {
		return fmt.Errorf("initrd before linux")
	}
	g.found.Initrds = nil
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			continue
		}
		f, ok := g.resolve(a)
		if !ok {
			return fmt.Errorf("initrd %s: no such volume on this disk", a)
		}
		g.found.Initrds = append(g.found.Initrds, f)
	}
	return nil
}

// blscfg puts Boot Loader Specification entries into the menu. findBLS has
// gone before and found none that works, so there is nothing to add.
func (g *grub) blscfg() { g.status = false }

// tester evaluates test's expressions: ! ( ) -a -o, strings, numbers, files.
type tester struct {
	g    *grub
	args []string
}

func (t *tester) next() string {
	if len(t.args) == 0 {
		return ""
	}
	a := t.args[0]
	t.args = t.args[1:]
	return a
}

func (t *tester) or() bool {
	v := t.and()
	for len(t.args) > 0 && t.args[0] == "-o" {
		t.next()
		v = t.and() || v
	}
	return v
}

func (t *tester) and() bool {
	v := t.primary()
	for len(t.args) > 0 && t.args[0] == "-a" {
		t.next()
		v = t.primary() && v
	}
	return v
}

func (t *tester) primary() bool {
	if len(t.args) >= 3 {
		if v, ok := t.compare(t.args[0], t.args[1], t.args[2]); ok {
			t.args = t.args[3:]
			return v
		}
	}
	switch a := t.next(); {
	case a == "!":
		return !t.primary()
	case a == "(":
		v := t.or()
		t.next() // ")"
		return v
	case len(a) == 2 && a[0] == '-' && len(t.args) > 0 && strings.Contains("nzedfs", a[1:]):
		return t.unary(a[1], t.next())
	default:
		return a != ""
	}
}

func (t *tester) unary(op byte, a string) bool {
	switch op {
	case 'n':
		return a != ""
	case 'z':
		return a == ""
	}
	f, ok := t.g.resolve(a)
	if !ok {
		return false
	}
	info, err := fs.Stat(t.g.volumes[f.Volume].FS, f.Path)
	if err != nil {
		return false
	}
	switch op {
	case 'd':
		return info.IsDir()
	case 'f':
		return !info.IsDir()
	case 's':
		return info.Size() > 0
	}
	return true
}

func (t *tester) compare(a, op, b string) (value, ok bool) {
	x, _ := strconv.ParseInt(a, 0, 64)
	y, _ := strconv.ParseInt(b, 0, 64)
	switch op {
	case "=", "==":
		return a == b, true
	case "!=":
		return a != b, true
	case "<":
		return a < b, true
	case ">":
		return a > b, true
	case "-eq":
		return x == y, true
	case "-ne":
		return x != y, true
	case "-lt":
		return x < y, true
	case "-le":
		return x <= y, true
	case "-gt":
		return x > y, true
	case "-ge":
		return x >= y, true
	}
	return false, false
}
