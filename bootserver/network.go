package main

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
)

// address returns the interface's first address with its prefix: IPv4 if there
// is one, else a global IPv6 address.
func address(ifi *net.Interface) (netip.Prefix, error) {
	addrs, err := ifi.Addrs()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("addresses of %s: %w", ifi.Name, err)
	}
	var v6 netip.Prefix
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		switch {
		case err != nil:
		case p.Addr().Is4():
			return p, nil
		case !v6.IsValid() && !p.Addr().IsLinkLocalUnicast():
			v6 = p
		}
	}
	if !v6.IsValid() {
		return netip.Prefix{}, fmt.Errorf("interface %s has no address that machines could reach; give it one first", ifi.Name)
	}
	return v6, nil
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
