package api

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// ErrNoDisk is wrapped when a rule names no disk, or more than one.
var ErrNoDisk = errors.New("no target disk")

// Rule names the target disk of an installation among a machine's disks:
// comma-joined conditions that must all hold, and at most one choice among
// several that do.
//
//	only              exactly one disk qualifies (the default of the conditions alone, too)
//	serial=S wwn=W    equal, letter case apart
//	model=GLOB        path.Match
//	size=A..B         bytes, with K M G T (powers of 1000) or Ki Mi Gi Ti; either end may be missing
//	transport=T       nvme, sata, sas, scsi, virtio, usb, mmc
//	rotational=B      yes (it has a motor) or no
//	smallest largest  of those that qualify
type Rule struct {
	text   string
	conds  []func(*Disk) bool
	choice func(a, b *Disk) int
}

// String returns the rule as written.
func (r Rule) String() string { return r.text }

// ParseRule reads a rule.
func ParseRule(s string) (Rule, error) {
	r := Rule{text: s}
	bad := func(why string, a ...any) (Rule, error) {
		return Rule{}, fmt.Errorf("api: disk rule %.120q: "+why, append([]any{s}, a...)...)
	}
	if s == "" {
		return bad("empty; say \"only\" for a machine with one disk")
	}
	for part := range strings.SplitSeq(s, ",") {
		key, value, hasValue := strings.Cut(part, "=")
		switch key {
		case "only":
		case "smallest", "largest":
			if r.choice != nil {
				return bad("more than one of smallest and largest")
			}
			sign := map[string]int{"smallest": 1, "largest": -1}[key]
			r.choice = func(a, b *Disk) int { return sign * cmp.Compare(a.Size, b.Size) }
		default:
			c, err := condition(key, value)
			if err != nil {
				return bad("%v", err)
			}
			if value == "" {
				return bad("%s has no value", key)
			}
			r.conds = append(r.conds, c)
			continue
		}
		if hasValue {
			return bad("%s takes no value", key)
		}
	}
	return r, nil
}

func condition(key, value string) (func(*Disk) bool, error) {
	switch key {
	case "serial":
		return func(d *Disk) bool { return strings.EqualFold(d.Serial, value) }, nil
	case "wwn":
		return func(d *Disk) bool { return strings.EqualFold(d.WWN, value) }, nil
	case "model":
		if _, err := path.Match(value, ""); err != nil {
			return nil, fmt.Errorf("model %q: %v", value, err)
		}
		return func(d *Disk) bool { ok, _ := path.Match(value, d.Model); return ok }, nil
	case "transport":
		if !slices.Contains([]string{"nvme", "sata", "sas", "scsi", "virtio", "usb", "mmc"}, value) {
			return nil, fmt.Errorf("unknown transport %q", value)
		}
		return func(d *Disk) bool { return d.Transport == value }, nil
	case "rotational":
		if value != "yes" && value != "no" {
			return nil, fmt.Errorf("rotational=%s is neither yes nor no", value)
		}
		return func(d *Disk) bool { return d.Rotational == (value == "yes") }, nil
	case "size":
		lo, hi, err := parseSizeRange(value)
		if err != nil {
			return nil, err
		}
		return func(d *Disk) bool { return d.Size >= lo && d.Size <= hi }, nil
	}
	return nil, fmt.Errorf("unknown condition %q (only, serial=, wwn=, model=, size=, transport=, rotational=, smallest, largest)", key)
}

func parseSizeRange(s string) (lo, hi int64, err error) {
	a, b, ok := strings.Cut(s, "..")
	if !ok || a == "" && b == "" {
		return 0, 0, fmt.Errorf("size %q is no range such as 10G..2T", s)
	}
	lo, hi = 0, 1<<62
	if a != "" {
		if lo, err = ParseSize(a); err != nil {
			return 0, 0, err
		}
	}
	if b != "" {
		if hi, err = ParseSize(b); err != nil {
			return 0, 0, err
		}
	}
	if lo > hi {
		return 0, 0, fmt.Errorf("size %q ends before it begins", s)
	}
	return lo, hi, nil
}

// ParseSize reads a number of bytes: digits and optionally K, M, G, T (powers
// of 1000) or Ki, Mi, Gi, Ti (powers of 1024).
func ParseSize(s string) (int64, error) {
	digits, unit := s, int64(1)
	base := int64(1000)
	if t, ok := strings.CutSuffix(digits, "i"); ok {
		digits, base = t, 1024
	}
	if n := len(digits); n > 0 {
		if exp := strings.IndexByte("KMGT", digits[n-1]); exp >= 0 {
			digits = digits[:n-1]
			for range exp + 1 {
				unit *= base
			}
		} else if base == 1024 {
			return 0, fmt.Errorf("size %q: want digits and K, M, G, T, Ki, Mi, Gi or Ti", s)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return 0, fmt.Errorf("size %q: want digits and K, M, G, T, Ki, Mi, Gi or Ti", s)
	}
	return n * unit, nil
}

// Select returns the one disk the rule names. Removable, read-only and boot
// media never qualify. Ambiguity is an error that shows the candidates.
func (r Rule) Select(disks []Disk) (Disk, error) {
	var fit []Disk
	for i := range disks {
		d := &disks[i]
		if d.Removable || d.ReadOnly || d.Boot || d.Size == 0 {
			continue
		}
		if !slices.ContainsFunc(r.conds, func(c func(*Disk) bool) bool { return !c(d) }) {
			fit = append(fit, *d)
		}
	}
	if r.choice != nil && len(fit) > 1 {
		slices.SortStableFunc(fit, func(a, b Disk) int { return r.choice(&a, &b) })
		// A tie is an ambiguity among those that tie.
		ties := slices.IndexFunc(fit, func(d Disk) bool { return r.choice(&fit[0], &d) != 0 })
		if ties > 0 {
			fit = fit[:ties]
		}
	}
	switch len(fit) {
	case 1:
		return fit[0], nil
	case 0:
		return Disk{}, fmt.Errorf("%w: rule %q matches none of %s", ErrNoDisk, r.text, describe(disks))
	}
	return Disk{}, fmt.Errorf("%w: rule %q matches %d: %s", ErrNoDisk, r.text, len(fit), describe(fit))
}

func describe(disks []Disk) string {
	if len(disks) == 0 {
		return "no disks at all"
	}
	var b strings.Builder
	for i, d := range disks {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s (%d bytes, serial %q, model %q, %s", d.Path, d.Size, d.Serial, d.Model, d.Transport)
		for _, f := range []struct {
			set  bool
			name string
		}{{d.Removable, "removable"}, {d.ReadOnly, "read-only"}, {d.Boot, "boot medium"}} {
			if f.set {
				b.WriteString(", " + f.name)
			}
		}
		b.WriteString(")")
		for i, c := range d.Contents {
			b.WriteString([]string{": ", ", "}[min(i, 1)] + c.String())
		}
	}
	return b.String()
}

// String tells a content in a few words, as a person would who decides whether
// it may be overwritten.
func (c Content) String() string {
	s := cmp.Or(c.Kind, "unknown")
	if c.Label != "" {
		s += fmt.Sprintf(" %q", c.Label)
	}
	if c.Partition != 0 {
		s = fmt.Sprintf("%d %s", c.Partition, s)
	}
	return s
}

// ParseRate reads a rate in bits per second: digits and optionally k or K, M
// or G (powers of 1000), as in 500M.
func ParseRate(s string) (int64, error) {
	digits, unit := s, int64(1)
	if n := len(s); n > 0 {
		if exp := strings.IndexByte("KMG", strings.ToUpper(s)[n-1]); exp >= 0 {
			digits = s[:n-1]
			for range exp + 1 {
				unit *= 1000
			}
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > 1e13/unit {
		return 0, fmt.Errorf("api: rate %q: want bits per second above 0, such as 500M", s)
	}
	return n * unit, nil
}
