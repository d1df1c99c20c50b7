package kernel

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

// setting is one line of a fragment: a symbol and the value it must have, "" for one that must be off.
type setting struct {
	symbol, value string
	where         string // file:line, for messages
}

func (s setting) String() string {
	if s.value == "" {
		return "# " + s.symbol + " is not set"
	}
	return s.symbol + "=" + s.value
}

var (
	settingOn  = regexp.MustCompile(`^(CONFIG_\w+)=(y|\d+|0x[0-9a-f]+|".*")$`)
	settingOff = regexp.MustCompile(`^# (CONFIG_\w+) is not set$`)
)

// parseLine reads a line of a fragment or of a .config. ok is false for comments and blank lines.
func parseLine(line string) (s setting, ok bool, err error) {
	if m := settingOn.FindStringSubmatch(line); m != nil {
		return setting{symbol: m[1], value: m[2]}, true, nil
	}
	if m := settingOff.FindStringSubmatch(line); m != nil {
		return setting{symbol: m[1]}, true, nil
	}
	if line == "" || strings.HasPrefix(line, "#") {
		return setting{}, false, nil
	}
	return setting{}, false, fmt.Errorf("%q is neither CONFIG_X=y, a number or a string, nor `# CONFIG_X is not set`", line)
}

// readFragments reads every *.config in name order. A symbol belongs to one concern, so it may be named once in all of them.
func readFragments(folder fs.FS) ([]setting, error) {
	names, err := fs.Glob(folder, "*.config")
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, errors.New("no *.config here")
	}
	var all []setting
	var problems []error
	seen := map[string]string{}
	for _, name := range names {
		text, err := fs.ReadFile(folder, name)
		if err != nil {
			return nil, err
		}
		found, err := parseFragment(name, text)
		problems = append(problems, err)
		for _, s := range found {
			if first, twice := seen[s.symbol]; twice {
				problems = append(problems, fmt.Errorf("%s: %s is set before, at %s", s.where, s.symbol, first))
			}
			seen[s.symbol] = s.where
		}
		all = append(all, found...)
	}
	return all, errors.Join(problems...)
}

func parseFragment(name string, text []byte) ([]setting, error) {
	var found []setting
	var problems []error
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		s, ok, err := parseLine(strings.TrimSpace(lines.Text()))
		switch s.where = fmt.Sprintf("%s:%d", name, n); {
		case err != nil:
			problems = append(problems, fmt.Errorf("%s: %w", s.where, err))
		case ok:
			found = append(found, s)
		}
	}
	return found, errors.Join(append(problems, lines.Err())...)
}

// merged renders settings as the file that KCONFIG_ALLCONFIG takes.
func merged(settings []setting) string {
	var b strings.Builder
	for _, s := range settings {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

// lostError lists the settings that Kconfig did not keep: a dependency is off, the symbol is gone or was renamed, or
// something else selects it.
type lostError []lost

type lost struct {
	want setting
	got  string
}

func (e lostError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d settings did not survive Kconfig (look at `depends on` and `select` of each in the source):", len(e))
	for _, l := range e {
		fmt.Fprintf(&b, "\n  %s: want %s, got %s", l.want.where, l.want, l.got)
	}
	return b.String()
}

// checkSurvivors compares what was wanted with the .config that came out.
func checkSurvivors(wanted []setting, config []byte) error {
	got := map[string]string{}
	for line := range strings.Lines(string(config)) {
		if s, ok, err := parseLine(strings.TrimSpace(line)); ok && err == nil {
			got[s.symbol] = s.value
		}
	}
	var missing lostError
	for _, w := range wanted {
		value, named := got[w.symbol]
		switch {
		case value == w.value: // a symbol that is not even offered is off, too
			continue
		case !named:
			missing = append(missing, lost{w, "nothing: not offered"})
		default:
			missing = append(missing, lost{w, setting{symbol: w.symbol, value: value}.String()})
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.SortFunc(missing, func(a, b lost) int { return strings.Compare(a.want.symbol, b.want.symbol) })
	return missing
}
