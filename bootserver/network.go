package main

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// owned are the addresses of the interface served.
type owned struct {
	// own is what machines are told: IPv4 if there is an address of that, else
	// the same as own6.
	own netip.Prefix
	// own6 is invalid if there is no IPv6 address that leads beyond the link:
	// URLs have no room for a link-local one's zone.
	own6 netip.Prefix
	// static6 tells that somebody configured own6; no router told of it.
	static6 bool
}

// tentative bounds how long a server waits for the kernel to see whether an
// address is somebody else's (RFC 4862 section 5.4).
const tentative = 5 * time.Second

// addresses returns the interface's first address of each family. A new IPv6
// address is waited for until it may be used.
func addresses(ifi *net.Interface) (o owned, err error) {
	link, err := netlink.LinkByIndex(ifi.Index)
	if err != nil {
		return o, fmt.Errorf("addresses of %s: %w", ifi.Name, err)
	}
	for deadline := time.Now().Add(tentative); ; time.Sleep(100 * time.Millisecond) {
		list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return o, fmt.Errorf("addresses of %s: %w", ifi.Name, err)
		}
		var waits bool
		if o, waits = choose(list); !waits || time.Now().After(deadline) {
			break
		}
	}
	if !o.own.IsValid() {
		return o, fmt.Errorf("interface %s has no address that machines could reach; give it one first", ifi.Name)
	}
	return o, nil
}

// choose takes the first address of each family, but a configured IPv6 one
// before one that a router told of. It reports whether one is not usable yet.
func choose(list []netlink.Addr) (o owned, waits bool) {
	const never = unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED | unix.IFA_F_TEMPORARY
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		bits, _ := a.Mask.Size()
		ip = ip.Unmap()
		p := netip.PrefixFrom(ip, bits)
		static := a.Flags&unix.IFA_F_PERMANENT != 0
		switch {
		case ip.Is4():
			if !o.own.IsValid() {
				o.own = p
			}
		case !ip.IsGlobalUnicast() || a.Flags&never != 0:
		case a.Flags&unix.IFA_F_TENTATIVE != 0:
			waits = true
		case !o.own6.IsValid() || static && !o.static6:
			o.own6, o.static6 = p, static
		}
	}
	if !o.own.IsValid() {
		o.own = o.own6
	}
	return o, waits
}

// gateway returns this host's own IPv4 default router, if it is on the given
// link: machines beside us take the same way out.
func gateway(ifi *net.Interface, subnet netip.Prefix) (netip.Addr, error) {
	link, err := netlink.LinkByIndex(ifi.Index)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("routes of %s: %w", ifi.Name, err)
	}
	routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("routes of %s: %w", ifi.Name, err)
	}
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 {
				continue
			}
		}
		if a, ok := netip.AddrFromSlice(r.Gw.To4()); ok && subnet.Masked().Contains(a) {
			return a, nil
		}
	}
	return netip.Addr{}, nil
}

// publicURL is the server's URL as machines see it: where HTTP listens, with
// the interface's address if it listens everywhere.
func publicURL(listen netip.AddrPort, own netip.Addr) *url.URL {
	addr := listen.Addr().Unmap()
	if addr.IsUnspecified() {
		addr = own
	}
	return &url.URL{Scheme: "http", Host: netip.AddrPortFrom(addr, listen.Port()).String()}
}

// findNetboot returns the netboot folder: the one given, else the one beside
// the binary, else where the build leaves it.
func findNetboot(given string) string {
	if given != "" {
		return given
	}
	places := []string{filepath.Join("build", "out", "netboot")}
	if exe, err := os.Executable(); err == nil {
		places = append([]string{filepath.Join(filepath.Dir(exe), "netboot")}, places...)
	}
	for _, p := range places {
		if info, err := os.Stat(p); err == nil && info.IsDir() {
			return p
		}
	}
	return places[0]
}
