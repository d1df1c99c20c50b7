// Package cmdline knows the keys of the kernel command line that the appliance
// listens to; no other package does.
//
//	huck.server=URL  the boot server, http(s)://HOST[:PORT]; else DHCP tells
//	huck.shell       a shell on the console before anything else is done
//	huck.noverify    do not read the disk back after writing it
//	BOOTIF=MAC       the interface the machine was booted from, as PXELINUX
//	                 (01-52-54-…) or iPXE's ${netX/mac} (52:54:…) write it
//	debug            kernel messages of all levels on the console
//
// Of a key that is there more than once the last counts, as in the kernel.
package cmdline

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Options are the settings on a kernel command line. The zero value is an
// empty line.
type Options struct {
	// Server is nil if the line names none.
	Server   *url.URL
	Shell    bool
	NoVerify bool
	// BootIF is nil if the line does not tell.
	BootIF net.HardwareAddr
	Debug  bool
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
		o.Server, err = ParseServer(value)
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
			err = errors.New("unknown key (huck.server=, huck.shell, huck.noverify)")
		}
	}
	return err
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

// ParseServer reads a boot server's URL: http or https, a host, no path.
func ParseServer(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("%.200q is not http(s)://HOST[:PORT]", s)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
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
