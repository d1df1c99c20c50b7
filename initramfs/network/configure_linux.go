package network

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// configure puts a lease on its interface: address and route, in place of
// whatever IPv4 address was there. IPv6 addresses stand beside one another.
func configure(l Lease) error {
	link, err := netlink.LinkByName(l.Interface)
	if err != nil {
		return fmt.Errorf("network: interface %s: %v", l.Interface, err)
	}
	want := &netlink.Addr{IPNet: ipNet(l.Addr)}
	if l.Addr.Addr().Is4() {
		if err := removeAddrs(link, want); err != nil {
			return err
		}
	}
	if err := netlink.AddrReplace(link, want); err != nil {
		return fmt.Errorf("network: %s: set address %s: %v", l.Interface, l.Addr, err)
	}
	if !l.Gateway.IsValid() {
		return nil
	}
	gw := net.IP(l.Gateway.AsSlice())
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gw, Priority: link.Attrs().Index}
	if !l.Addr.Contains(l.Gateway) && !l.Gateway.IsLinkLocalUnicast() {
		// Providers hand out /32s with a gateway outside: on-link all the same.
		route.SetFlag(netlink.FLAG_ONLINK)
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("network: %s: route via %s: %v", l.Interface, l.Gateway, err)
	}
	return nil
}

// configure6 puts an address that DHCPv6 gave on its interface, for as long as
// it is valid. It says nothing of what is on the link; routers do.
func configure6(ifname string, s *said6) error {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("network: interface %s: %v", ifname, err)
	}
	a := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(s.addr, 128)), ValidLft: seconds(s.valid), PreferedLft: seconds(s.preferred)}
	if err := netlink.AddrReplace(link, a); err != nil {
		return fmt.Errorf("network: %s: set address %s: %v", ifname, s.addr, err)
	}
	return nil
}

// seconds are a lifetime for netlink; 0xffffffff of DHCPv6 is for ever
// (RFC 8415 section 7.7), and so is what does not fit.
func seconds(d time.Duration) int { return int(min(d/time.Second, math.MaxInt32)) }

// setMTU sets an interface's MTU; that of the card below a VLAN rises with it.
func setMTU(ifname string, mtu int) error {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("network: interface %s: %v", ifname, err)
	}
	if parent := link.Attrs().ParentIndex; parent != 0 && link.Type() == "vlan" {
		below, err := netlink.LinkByIndex(parent)
		if err == nil && below.Attrs().MTU < mtu {
			err = netlink.LinkSetMTU(below, mtu)
		}
		if err != nil {
			return fmt.Errorf("network: card below %s: set MTU %d: %v", ifname, mtu, err)
		}
	}
	if link.Attrs().MTU == mtu {
		return nil
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("network: %s: set MTU %d: %v", ifname, mtu, err)
	}
	return nil
}

// vlanName names a VLAN on a card as everybody does, if the kernel's 15 bytes
// allow it.
func vlanName(ifi net.Interface, id int) string {
	if name := fmt.Sprintf("%s.%d", ifi.Name, id); len(name) < syscall.IFNAMSIZ {
		return name
	}
	return fmt.Sprintf("v%d.%d", ifi.Index, id)
}

// addVLAN makes the VLAN's interface, if it is not there.
func addVLAN(ifi net.Interface, name string, id int) error {
	err := netlink.LinkAdd(&netlink.Vlan{
		LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: ifi.Index}, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q,
	})
	if err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("network: VLAN %d on %s: %v", id, ifi.Name, err)
	}
	return nil
}

// unconfigure takes all addresses, and with them the routes, from an
// interface, and keeps the kernel from making new ones.
func unconfigure(ifname string) error {
	_, err := os.Stat(sysctl6(ifname, "disable_ipv6"))
	if err == nil {
		err = os.WriteFile(sysctl6(ifname, "disable_ipv6"), []byte("1"), 0)
	} else if errors.Is(err, os.ErrNotExist) { // a kernel without IPv6, or no such interface any more
		err = nil
	}
	return errors.Join(err, unconfigure4(ifname))
}

// unconfigure4 does so for IPv4 only.
func unconfigure4(ifname string) error {
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
// named one, or of the card below it, first. Bonds and bridges, which make
// theirs up, do not count.
func MACs(first string) []string {
	ifs, err := ethernets()
	if err != nil {
		return nil
	}
	leading := ""
	if link, err := netlink.LinkByName(first); err == nil {
		leading = link.Attrs().HardwareAddr.String()
	}
	var macs []string
	for _, ifi := range ifs {
		if mac := ifi.HardwareAddr.String(); mac == leading {
			macs = append([]string{mac}, macs...)
		} else {
			macs = append(macs, mac)
		}
	}
	return macs
}

// maxNameServers is how many the resolver looks at (resolv.conf(5): MAXNS).
const maxNameServers = 3

// writeResolvConf writes the name servers of leases to path.
func writeResolvConf(path string, leases []Lease) error {
	var b strings.Builder
	var have []netip.Addr
	for _, l := range leases {
		for _, d := range l.DNS {
			if slices.Contains(have, d) || len(have) == maxNameServers {
				continue
			}
			have = append(have, d)
			fmt.Fprintf(&b, "nameserver %s\n", d)
		}
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	return nil
}
