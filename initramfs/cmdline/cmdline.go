// Package cmdline knows the keys of the kernel command line that the appliance
// listens to; no other package does. The rescue shell's `keys` prints them.
//
// Of a key that is there more than once the last counts, as in the kernel; but
// each ip= adds an address.
package cmdline

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"huck/imager/api"
)

// Help tells the keys to people.
const Help = `huck.server=URL    the boot server, http(s)://HOST[:PORT]; else DHCP tells, or it is looked for
ip=ADDR::GATEWAY:MASK::INTERFACE:none[:MTU|:DNS[:DNS]]
                   an address; IPv6 in brackets; the mask as 255.255.255.0 or 24;
                   the interface's name or MAC with dashes; none: the first with a link
huck.vlan=ID[:INTERFACE]  (or vlan=NAME.ID:INTERFACE)
                   on this interface, or on all, speak tagged only
huck.mtu=BYTES     for the interfaces that are used
BOOTIF=MAC         the interface the machine was booted from, which is tried first, as
                   PXELINUX (01-52-54-...) or iPXE's ${netX/mac} (52:54:...) write it
huck.medium=NAME   the ISO 9660 volume we were started from, a stick or a CD
huck.shell         a shell on the console before anything else is done
huck.noverify      do not read the disk back after writing it
debug              kernel messages of all levels on the console
`

// Options are the settings on a kernel command line. The zero value is an
// empty line.
type Options struct {
	// Server is nil if the line names none.
	Server *url.URL
	// Medium is empty if the line names none.
	Medium   string
	Shell    bool
	NoVerify bool
	// BootIF is nil if the line does not tell.
	BootIF  net.HardwareAddr
	Network Network
	Debug   bool
}

// Parse reads a kernel command line. Settings it cannot make sense of,
// unknown huck.* keys among them, are errors, joined; the others count.
func Parse(line string) (Options, error) {
	var o Options
	var errs []error
	for _, arg := range split(line) {
		key, value, _ := strings.Cut(arg, "=")
		if err := o.set(key, value); err != nil {
			errs = append(errs, fmt.Errorf("cmdline: %.200s: %v", arg, err))
		}
	}
	return o, errors.Join(errs...)
}

func (o *Options) set(key, value string) (err error) {
	switch key {
	case "huck.server":
		o.Server, err = api.ParseServerURL(value)
	case "huck.vlan":
		err = o.Network.vlan(value)
	case "vlan":
		err = o.Network.dracutVLAN(value)
	case "huck.mtu":
		o.Network.MTU, err = mtu(value)
	case "ip":
		err = o.Network.static(value)
	case "huck.medium":
		o.Medium, err = medium(value)
	case "huck.shell":
		o.Shell, err = flag(value)
	case "huck.noverify":
		o.NoVerify, err = flag(value)
	case "BOOTIF":
		o.BootIF, err = bootIF(value)
	case "debug":
		o.Debug = true
	default:
		if strings.HasPrefix(key, "huck.") {
			err = errors.New("unknown key (`keys` in the rescue shell lists them)")
		}
	}
	return err
}

func medium(value string) (string, error) {
	if !strings.HasPrefix(value, api.MediumPrefix) {
		return "", errors.New("want the volume's name, " + api.MediumPrefix + "…")
	}
	return value, nil
}

func flag(value string) (bool, error) {
	switch value {
	case "", "1":
		return true, nil
	case "0":
		return false, nil
	}
	return false, errors.New("takes no value, 0 or 1")
}

// bootIF reads a MAC address, with the hardware type 01 (Ethernet) that
// PXELINUX puts before it or without.
func bootIF(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(strings.ReplaceAll(s, "-", ":"))
	if err != nil && len(s) == len("01-00-00-00-00-00-00") && (s[:3] == "01-" || s[:3] == "01:") {
		mac, err = net.ParseMAC(strings.ReplaceAll(s[3:], "-", ":"))
	}
	if err != nil || len(mac) != 6 {
		return nil, errors.New("want 01-aa-bb-cc-dd-ee-ff or aa:bb:cc:dd:ee:ff")
	}
	return mac, nil
}

// split cuts a line at blanks outside double quotes, which it drops, as the
// kernel's next_arg does.
func split(line string) []string {
	var args []string
	var arg strings.Builder
	quoted, any := false, false
	for _, c := range line {
		switch {
		case c == '"':
			quoted, any = !quoted, true
		case !quoted && strings.ContainsRune(" \t\n\r", c):
			if any {
				args = append(args, arg.String())
			}
			arg.Reset()
			any = false
		default:
			arg.WriteRune(c)
			any = true
		}
	}
	if any {
		args = append(args, arg.String())
	}
	return args
}
