package main

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

// maxConfig bounds the bytes of a configuration file: 10000 reservations.
const maxConfig = 1 << 20

// config is a configuration file after checking. reference.conf is its manual.
type config struct {
	name    string // of the file
	lines   keyLines
	flags   map[string]string // values of the command line's flags, by name
	given   map[string]bool   // those of flags that the command line left to us
	subnets []dhcp.Subnet
	kept    []dhcp.Reservation
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

// parseConfig reads and checks a configuration file; name is for errors, which
// say the line and the key.
func parseConfig(r io.Reader, name string) (*config, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(text) > maxConfig {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, maxConfig)
	}
	c := &config{name: name, given: map[string]bool{}}
	var raw rawConfig
	if err := c.decode(text, &raw); err != nil {
		return nil, err
	}
	return c, c.check(raw)
}

// decode fills raw with what is no flag, and c.flags with the rest.
func (c *config) decode(text []byte, raw *rawConfig) error {
	var all map[string]any
	if err := toml.Unmarshal(text, &all); err != nil {
		return c.located(err)
	}
	c.lines = findKeys(text)
	if err := toml.Unmarshal(text, raw); err != nil {
		return c.located(err)
	}
	for _, key := range slices.Sorted(maps.Keys(c.lines)) {
		if !tableKey.MatchString(key) {
			return c.at(key, errors.New("there is no such key, see reference.conf"))
		}
	}
	c.flags = map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if c.lines[key] == 0 { // a list of tables
			continue
		}
		text, err := flagText(all[key])
		if err != nil {
			return c.at(key, err)
		}
		c.flags[key] = text
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
func (c *config) located(err error) error {
	var at *toml.DecodeError
	if !errors.As(err, &at) {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	line, column := at.Position()
	if key := c.lines.on(line); key != "" {
		return fmt.Errorf("%s:%d: %s: %s", c.name, line, key, strings.TrimPrefix(at.Error(), "toml: "))
	}
	return fmt.Errorf("%s:%d:%d: %s", c.name, line, column, strings.TrimPrefix(at.Error(), "toml: "))
}

// at adds file, line and key to an error.
func (c *config) at(key string, err error) error {
	return fmt.Errorf("%s:%d: %s: %w", c.name, c.lines[key], key, err)
}

// check makes subnets and reservations of what was read.
func (c *config) check(raw rawConfig) error {
	for i, s := range raw.Subnets {
		key := fmt.Sprintf("subnet[%d]", i)
		if !s.Prefix.IsValid() {
			return c.at(key, errors.New(`prefix is missing, such as prefix = "10.1.0.0/24"`))
		}
		if s.LeaseTime.Duration == 0 && c.lines[key+".lease-time"] > 0 {
			return c.at(key+".lease-time", errors.New("0 is no time"))
		}
		sub := dhcp.Subnet{Prefix: s.Prefix, Router: s.Router, DNS: s.DNS, LeaseTime: s.LeaseTime.Duration}
		for _, p := range s.Pools {
			sub.Pools = append(sub.Pools, p.Pool)
		}
		c.subnets = append(c.subnets, sub)
		if err := dhcp.CheckSubnets(c.subnets); err != nil {
			return c.at(key, err)
		}
	}
	for i, r := range raw.Reservations {
		if key := fmt.Sprintf("reservation[%d]", i); r.MAC.text == "" || !r.Address.IsValid() {
			return c.at(key, errors.New("mac and address are both needed"))
		}
		c.kept = append(c.kept, dhcp.Reservation{MAC: r.MAC.text, Addr: r.Address})
	}
	return nil
}

// tableKey matches what may stand in a file: flags, of which config.Validate
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

// configFlag is the flag that names a configuration file. The file answers for
// the flags that are not on the command line.
type configFlag string

// BeforeResolve is called by kong, which finds *config among what it was given.
func (f configFlag) BeforeResolve(ctx *kong.Context, trace *kong.Path, c *config) error {
	name, _ := ctx.FlagValue(trace.Flag).(configFlag)
	if name == "" {
		return nil
	}
	file, err := os.Open(string(name))
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	defer file.Close()
	read, err := parseConfig(file, string(name))
	if err != nil {
		return err
	}
	*c = *read
	ctx.AddResolver(c)
	return nil
}

// Validate refuses keys that are no flags of the command; for kong.
func (c *config) Validate(app *kong.Application) error {
	known := map[string]bool{}
	for _, command := range app.Children {
		if command.Name == "serve" {
			for _, flag := range command.Flags {
				known[flag.Name] = flag.Name != "config"
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.flags)) {
		if !known[key] {
			return c.at(key, errors.New("there is no such key; `bootserver serve --help` lists the flags, and reference.conf the rest"))
		}
	}
	return nil
}

// Resolve returns the value of a flag; for kong.
func (c *config) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	text, ok := c.flags[flag.Name]
	if !ok {
		return nil, nil
	}
	// kong's own error would not say where the value is from.
	if err := flag.Parse(kong.Scan().PushTyped(text, kong.FlagValueToken), reflect.New(flag.Target.Type()).Elem()); err != nil {
		return nil, c.at(flag.Name, err)
	}
	c.given[flag.Name] = true
	return text, nil
}

var flagName = regexp.MustCompile(`^--([a-z-]+)`)

// blame adds where the value is from to an error about a flag.
func (c *config) blame(err error) error {
	if m := flagName.FindStringSubmatch(err.Error()); m != nil && c.given[m[1]] {
		return fmt.Errorf("%s:%s: %w", c.name, strconv.Itoa(c.lines[m[1]]), err)
	}
	return err
}
