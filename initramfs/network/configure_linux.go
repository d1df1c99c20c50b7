package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
)

// configure puts a lease on its interface: address, MTU, routes, in place of
// whatever IPv4 address was there.
func configure(l Lease) error {
	link, err := netlink.LinkByName(l.Interface)
	if err != nil {
		return fmt.Errorf("network: interface %s: %v", l.Interface, err)
	}
	if l.MTU > 0 && l.MTU != link.Attrs().MTU {
		if err := netlink.LinkSetMTU(link, l.MTU); err != nil {
			return fmt.Errorf("network: %s: set MTU %d: %v", l.Interface, l.MTU, err)
		}
	}
	want := &netlink.Addr{IPNet: ipNet(l.Addr)}
	if err := removeAddrs(link, want); err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, want); err != nil {
		return fmt.Errorf("network: %s: set address %s: %v", l.Interface, l.Addr, err)
	}
	if !l.Gateway.IsValid() {
		return nil
	}
	gw := net.IP(l.Gateway.AsSlice())
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gw, Priority: link.Attrs().Index}
	if !l.Addr.Contains(l.Gateway) {
		// Providers hand out /32s with a gateway outside: on-link all the same.
		route.SetFlag(netlink.FLAG_ONLINK)
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("network: %s: route via %s: %v", l.Interface, l.Gateway, err)
	}
	return nil
}

// unconfigure takes all IPv4 addresses, and with them the routes, from an
// interface.
func unconfigure(ifname string) error {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("network: interface %s: %v", ifname, err)
	}
	return removeAddrs(link, nil)
}

func removeAddrs(link netlink.Link, but *netlink.Addr) error {
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("network: addresses of %s: %v", link.Attrs().Name, err)
	}
	for _, a := range addrs {
		if but != nil && a.IPNet.String() == but.IPNet.String() {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return fmt.Errorf("network: %s: remove address %s: %v", link.Attrs().Name, a.IPNet, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// up brings an interface up.
func up(ifname string) error {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("network: interface %s: %v", ifname, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("network: bring %s up: %v", ifname, err)
	}
	return nil
}

// carrier tells whether the interface's other end is there. The kernel says
// so, and that the interface is operational, not merely administratively up.
func carrier(ifname string) bool {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return false
	}
	return link.Attrs().RawFlags&syscall.IFF_RUNNING != 0
}

// ethernets returns the machine's Ethernet interfaces, without VLANs, bridges
// and the like.
func ethernets() ([]net.Interface, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("network: list interfaces: %v", err)
	}
	var ifs []net.Interface
	for _, l := range links {
		a := l.Attrs()
		physical := l.Type() == "device" || l.Type() == "veth" // veth: a container or a test
		if physical && a.Flags&net.FlagLoopback == 0 && len(a.HardwareAddr) == 6 && a.EncapType == "ether" {
			ifs = append(ifs, net.Interface{Index: a.Index, Name: a.Name, HardwareAddr: a.HardwareAddr, Flags: a.Flags, MTU: a.MTU})
		}
	}
	return ifs, nil
}

// MACs returns the addresses of the machine's Ethernet interfaces, that of the
// named one first. Bonds and bridges, which make theirs up, do not count.
func MACs(first string) []string {
	ifs, err := ethernets()
	if err != nil {
		return nil
	}
	var macs []string
	for _, ifi := range ifs {
		if mac := ifi.HardwareAddr.String(); ifi.Name == first {
			macs = append([]string{mac}, macs...)
		} else {
			macs = append(macs, mac)
		}
	}
	return macs
}

// writeResolvConf writes the name servers of a lease to path.
func writeResolvConf(path string, l Lease) error {
	var b strings.Builder
	for _, d := range l.DNS {
		fmt.Fprintf(&b, "nameserver %s\n", d)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	return nil
}
