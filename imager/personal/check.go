package personal

import (
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// defaultTimeout of a script; maxTimeout is the longest one may ask for.
const (
	defaultTimeout = 10 * time.Minute
	maxTimeout     = 24 * time.Hour
)

// keyTypes are the types of SSH host keys, as in sshd's file names.
var keyTypes = []string{"ed25519", "ecdsa", "rsa"}

// renderers of a network; the first is the default.
var renderers = []string{"auto", "networkd", "ifupdown", "networkmanager", "netplan"}

// check refuses what cannot be right for any machine. Templates are tried on a
// made-up one.
func (d *Document) check() error {
	if s := d.SSHHostKeys; s != "" && s != KeysStored && s != KeysRemove {
		return invalid("ssh_host_keys %.40q: want stored or remove", s)
	}
	for _, t := range d.SSHHostKeyTypes {
		if !slices.Contains(keyTypes, t) {
			return invalid("ssh_host_key_types: %.40q is none of %s", t, strings.Join(keyTypes, ", "))
		}
	}
	if n := d.Network; n != nil && n.Renderer != "" && !slices.Contains(renderers, n.Renderer) {
		return invalid("network: renderer %.40q is none of %s", n.Renderer, strings.Join(renderers, ", "))
	}
	if r := d.Root; r != nil && (r.Partition < 0 || strings.HasPrefix(r.Subvolume, "-") || strings.ContainsAny(r.Subvolume, ",\x00")) {
		return invalid("root: partition %d, subvolume %.80q", r.Partition, r.Subvolume)
	}
	for _, list := range [][]Script{d.Scripts.Before, d.Scripts.After} {
		if err := checkScripts(list); err != nil {
			return err
		}
	}
	// Values cannot be judged by a made-up machine, only the templates.
	_, err := d.render(sample)
	return err
}

var scriptName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func checkScripts(list []Script) error {
	if len(list) > maxList {
		return invalid("%d scripts, at most %d", len(list), maxList)
	}
	for i, s := range list {
		if !scriptName.MatchString(s.Name) {
			return invalid("script %d: name %.80q: want letters, digits, dots, dashes and underscores", i+1, s.Name)
		}
		if strings.TrimSpace(s.Text) == "" {
			return invalid("script %s is empty", s.Name)
		}
		if _, err := s.Limit(); err != nil {
			return err
		}
	}
	return nil
}

// Limit returns how long a script may take.
func (s Script) Limit() (time.Duration, error) {
	if s.Timeout == "" {
		return defaultTimeout, nil
	}
	d, err := time.ParseDuration(s.Timeout)
	if err != nil || d <= 0 || d > maxTimeout {
		return 0, invalid("script %.80s: timeout %.40q: want a duration such as 90s or 10m, at most %v", s.Name, s.Timeout, maxTimeout)
	}
	return d, nil
}

// hostname follows RFC 1123 section 2.1: labels of at most 63 letters, digits
// and inner dashes; Linux takes at most 64 bytes (gethostname(2)).
var hostname = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)

// user is what useradd(8) takes, and a number.
var user = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?$`)

var machineID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// check refuses what no system can have. The appliance asks, too: it does not
// take a server's word for what it writes where.
func (p *Personality) check() error {
	if p.Hostname != "" && (len(p.Hostname) > 64 || !hostname.MatchString(p.Hostname)) {
		return invalid("hostname %.80q: want labels of letters, digits and dashes joined by dots, 64 bytes at most", p.Hostname)
	}
	if id := p.MachineID; id != nil && *id != "" && *id != MachineUninitialized && !machineID.MatchString(*id) {
		return invalid("machine_id %.80q: want 32 lower-case hexadecimal digits", *id)
	}
	for name, keys := range p.AuthorizedKeys {
		if !user.MatchString(name) {
			return invalid("authorized_keys: %.80q is no user name", name)
		}
		for _, k := range keys {
			if strings.ContainsAny(k, "\r\n\x00") || len(k) > 16<<10 {
				return invalid("authorized_keys of %s: a key is one line of at most 16 KiB", name)
			}
		}
	}
	for i := range p.Files {
		if err := p.Files[i].check(); err != nil {
			return err
		}
	}
	for _, list := range [][]Script{p.Scripts.Before, p.Scripts.After} {
		if err := checkScripts(list); err != nil {
			return err
		}
	}
	if p.Network == nil {
		return nil
	}
	if len(p.Network.Interfaces) == 0 || len(p.Network.Interfaces) > maxList {
		return invalid("network: %d interfaces, want 1 to %d", len(p.Network.Interfaces), maxList)
	}
	for i := range p.Network.Interfaces {
		if err := p.Network.Interfaces[i].check(); err != nil {
			return err
		}
	}
	return nil
}

// passing are the folders that a boot covers with file systems of the kernel's own.
var passing = []string{"/proc/", "/sys/", "/dev/", "/run/"}

func (f *File) check() error {
	p := f.Path
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsAny(p, "\x00\r\n") || len(p) > maxText {
		return invalid("file %.80q: want an absolute path without . and ..", p)
	}
	for _, dir := range passing {
		if strings.HasPrefix(p, dir) {
			return invalid("file %.80q: %s is not on the disk", p, dir)
		}
	}
	for _, name := range []string{f.Owner, f.Group} {
		if name != "" && !user.MatchString(name) {
			return invalid("file %s: %.80q is no user or group", p, name)
		}
	}
	_, err := f.Permissions()
	return err
}

// Permissions returns a file's mode, set-user-ID and such included as chmod(2)
// counts them.
func (f *File) Permissions() (uint32, error) {
	if f.Mode == "" {
		return 0o644, nil
	}
	m, err := strconv.ParseUint(f.Mode, 8, 32)
	if err != nil || m > 0o7777 {
		return 0, invalid("file %.80s: mode %.20q: want octal digits up to 7777", f.Path, f.Mode)
	}
	return uint32(m), nil
}

// ifname: at most 15 bytes (IFNAMSIZ), and fit for a file name and for each
// renderer's files.
var ifname = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,14}$`)

var ethernet = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`)

func (i *Interface) check() error {
	i.MAC = strings.ToLower(strings.ReplaceAll(i.MAC, "-", ":"))
	if !ethernet.MatchString(i.MAC) {
		return invalid("network: mac %.80q is no Ethernet address", i.MAC)
	}
	if i.Name != "" && !ifname.MatchString(i.Name) {
		return invalid("network: interface name %.80q: want a letter, then letters, digits, dashes and underscores, 15 at most", i.Name)
	}
	if i.MTU != 0 && (i.MTU < 68 || i.MTU > 65535) {
		return invalid("network: mtu %d", i.MTU)
	}
	for _, a := range i.Addresses {
		if _, err := netip.ParsePrefix(a); err != nil {
			return invalid("network: address %.80q: want one such as 10.0.0.7/24", a)
		}
	}
	families := map[bool]bool{}
	for _, a := range i.Gateways {
		g, err := netip.ParseAddr(a)
		if err != nil || families[g.Is4()] {
			return invalid("network: gateways %.120q: want addresses, at most one a family", i.Gateways)
		}
		families[g.Is4()] = true
	}
	for _, a := range i.DNS {
		if _, err := netip.ParseAddr(a); err != nil {
			return invalid("network: DNS server %.80q is no address", a)
		}
	}
	for _, s := range i.Search {
		if !hostname.MatchString(s) {
			return invalid("network: search domain %.80q", s)
		}
	}
	return nil
}
