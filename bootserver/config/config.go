// Package config reads the boot server's configuration file: TOML with values
// for the flags of its command line, and with the subnets and reservations that
// no flag could hold. bootserver/reference.conf is the manual.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"huck/bootserver/dhcp"
)

// maxSize bounds the bytes of a configuration file: 10000 reservations.
const maxSize = 1 << 20

// File is a configuration file after checking; the zero value is that of no
// file. It answers kong for the flags that are not on the command line.
type File struct {
	Subnets      []dhcp.Subnet
	Reservations []dhcp.Reservation

	name  string // of the file
	lines keyLines
	flags map[string]string // values of the command line's flags, by name
	given map[string]bool   // those of flags that the command line left to us
}

// rawConfig is what of a file is no flag.
type rawConfig struct {
	Subnets      []rawSubnet      `toml:"subnet"`
	Reservations []rawReservation `toml:"reservation"`
}

type rawSubnet struct {
	Prefix    netip.Prefix `toml:"prefix"`
	Pools     []poolText   `toml:"pools"`
	Router    netip.Addr   `toml:"router"`
	DNS       []netip.Addr `toml:"dns"`
	LeaseTime durationText `toml:"lease-time"`
}

type rawReservation struct {
	MAC     macText    `toml:"mac"`
	Address netip.Addr `toml:"address"`
}

// Values that know how they are written; an error from these carries its line.
type (
	poolText     struct{ dhcp.Pool }
	durationText struct{ time.Duration }
	macText      struct{ text string }
)

func (p *poolText) UnmarshalText(b []byte) (err error) {
	p.Pool, err = dhcp.ParsePool(string(b))
	return err
}

func (d *durationText) UnmarshalText(b []byte) (err error) {
	d.Duration, err = time.ParseDuration(string(b))
	return err
}

func (m *macText) UnmarshalText(b []byte) error {
	hw, err := net.ParseMAC(string(b))
	if err != nil || len(hw) != 6 {
		return fmt.Errorf("%q is no MAC address such as 52:54:00:12:34:56", b)
	}
	m.text = hw.String()
	return nil
}

// Parse reads and checks a configuration file; name is for errors, which
// say the line and the key.
func Parse(r io.Reader, name string) (*File, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(text) > maxSize {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, maxSize)
	}
	f := &File{name: name, given: map[string]bool{}}
	var raw rawConfig
	if err := f.decode(text, &raw); err != nil {
		return nil, err
	}
	return f, f.check(raw)
}

// decode fills raw with what is no flag, and f.flags with the rest.
func (f *File) decode(text []byte, raw *rawConfig) error {
	var all map[string]any
	if err := toml.Unmarshal(text, &all); err != nil {
		return f.located(err)
	}
	f.lines = findKeys(text)
	if err := toml.Unmarshal(text, raw); err != nil {
		return f.located(err)
	}
	for _, key := range slices.Sorted(maps.Keys(f.lines)) {
		if !tableKey.MatchString(key) {
			return f.At(key, errors.New("there is no such key, see reference.conf"))
		}
	}
	f.flags = map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if f.lines[key] == 0 { // a list of tables
			continue
		}
		text, err := flagText(all[key])
		if err != nil {
			return f.At(key, err)
		}
		f.flags[key] = text
	}
	return nil
}

// flagText is a value as the command line would have it.
func flagText(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool, int64, float64:
		return fmt.Sprint(v), nil
	case []any:
		var parts []string
		for _, e := range v {
			part, err := flagText(e)
			if err != nil {
				return "", err
			}
			parts = append(parts, part)
		}
		return strings.Join(parts, ","), nil
	}
	return "", errors.New("want text, a number, true, false, or a list of these")
}

// located adds file and line to an error of the decoder.
func (f *File) located(err error) error {
	var at *toml.DecodeError
	if !errors.As(err, &at) {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	line, column := at.Position()
	if key := f.lines.on(line); key != "" {
		return fmt.Errorf("%s:%d: %s: %s", f.name, line, key, strings.TrimPrefix(at.Error(), "toml: "))
	}
	return fmt.Errorf("%s:%d:%d: %s", f.name, line, column, strings.TrimPrefix(at.Error(), "toml: "))
}

// At adds file, line and key to an error.
func (f *File) At(key string, err error) error {
	return fmt.Errorf("%s:%d: %s: %w", f.name, f.lines[key], key, err)
}

// check makes subnets and reservations of what was read.
func (f *File) check(raw rawConfig) error {
	for i, s := range raw.Subnets {
		key := fmt.Sprintf("subnet[%d]", i)
		if !s.Prefix.IsValid() {
			return f.At(key, errors.New(`prefix is missing, such as prefix = "10.1.0.0/24"`))
		}
		if s.LeaseTime.Duration == 0 && f.lines[key+".lease-time"] > 0 {
			return f.At(key+".lease-time", errors.New("0 is no time"))
		}
		sub := dhcp.Subnet{Prefix: s.Prefix, Router: s.Router, DNS: s.DNS, LeaseTime: s.LeaseTime.Duration}
		for _, p := range s.Pools {
			sub.Pools = append(sub.Pools, p.Pool)
		}
		f.Subnets = append(f.Subnets, sub)
		if err := dhcp.CheckSubnets(f.Subnets); err != nil {
			return f.At(key, err)
		}
	}
	for i, r := range raw.Reservations {
		if key := fmt.Sprintf("reservation[%d]", i); r.MAC.text == "" || !r.Address.IsValid() {
			return f.At(key, errors.New("mac and address are both needed"))
		}
		f.Reservations = append(f.Reservations, dhcp.Reservation{MAC: r.MAC.text, Addr: r.Address})
	}
	return nil
}

// tableKey matches what may stand in a file: flags, of which File.Validate
// knows more, and the tables with their keys.
var tableKey = regexp.MustCompile(`^([^.\[]*|subnet\[\d+\](\.(prefix|pools|router|dns|lease-time))?|reservation\[\d+\](\.(mac|address))?)$`)

// keyLines are the lines that keys stand on; tables of a list are numbered from
// 0, as in "subnet[0].router".
type keyLines map[string]int

// on returns the key of a line, or "". A value may be on a line below its key.
func (k keyLines) on(line int) string {
	var found string
	for key, l := range k {
		if l <= line && cmp.Or(cmp.Compare(l, k[found]), cmp.Compare(len(key), len(found))) > 0 {
			found = key
		}
	}
	return found
}

func findKeys(text []byte) keyLines {
	lines := keyLines{}
	count := map[string]int{}
	var p unstable.Parser
	p.Reset(text)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		var parts []string
		var at unstable.Range
		for it := e.Key(); it.Next(); {
			parts = append(parts, string(it.Node().Data))
			at = it.Node().Raw
		}
		key := strings.Join(parts, ".")
		switch e.Kind {
		case unstable.Table:
			table = key + "."
		case unstable.ArrayTable:
			count[key]++
			key = fmt.Sprintf("%s[%d]", key, count[key]-1)
			table = key + "."
		case unstable.KeyValue:
			key = table + key
		}
		lines[strings.TrimSuffix(key, ".")] = 1 + bytes.Count(text[:at.Offset], []byte("\n"))
	}
	return lines
}

// Flag is the flag that names a configuration file. What it reads goes to the
// *File that the parser was made with, by kong.Bind.
type Flag string

// BeforeResolve is called by kong, which finds *File among what it was given.
func (f Flag) BeforeResolve(ctx *kong.Context, trace *kong.Path, c *File) error {
	name, _ := ctx.FlagValue(trace.Flag).(Flag)
	if name == "" {
		return nil
	}
	file, err := os.Open(string(name))
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	defer file.Close()
	read, err := Parse(file, string(name))
	if err != nil {
		return err
	}
	*c = *read
	ctx.AddResolver(c)
	return nil
}

// Validate refuses keys that are no flags of the command; for kong.
func (f *File) Validate(app *kong.Application) error {
	known := map[string]bool{}
	for _, command := range app.Children {
		if command.Name == "serve" {
			for _, flag := range command.Flags {
				known[flag.Name] = flag.Name != "config"
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(f.flags)) {
		if !known[key] {
			return f.At(key, errors.New("there is no such key; `bootserver serve --help` lists the flags, and reference.conf the rest"))
		}
	}
	return nil
}

// Resolve returns the value of a flag; for kong.
func (f *File) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	text, ok := f.flags[flag.Name]
	if !ok {
		return nil, nil
	}
	// kong's own error would not say where the value is from.
	if err := flag.Parse(kong.Scan().PushTyped(text, kong.FlagValueToken), reflect.New(flag.Target.Type()).Elem()); err != nil {
		return nil, f.At(flag.Name, err)
	}
	f.given[flag.Name] = true
	return text, nil
}

var flagName = regexp.MustCompile(`^--([a-z-]+)`)

// Blame adds where the value is from to an error about a flag.
func (f *File) Blame(err error) error {
	if m := flagName.FindStringSubmatch(err.Error()); m != nil && f.given[m[1]] {
		return fmt.Errorf("%s:%s: %w", f.name, strconv.Itoa(f.lines[m[1]]), err)
	}
	return err
}
