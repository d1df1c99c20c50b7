package cmdline

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Network is what a command line says about the network; the zero value leaves
// everything to DHCP and router advertisements.
type Network struct {
	// Static are addresses that are given and not asked for.
	Static []Static
	VLAN   VLAN
	// MTU in bytes goes before what DHCP says; 0 is not given.
	MTU int
}

// Static is an address with what belongs to it.
type Static struct {
	Addr netip.Prefix
	// Gateway is invalid if there is none.
	Gateway netip.Addr
	// Interface is a name or a MAC address; empty is the first interface that
	// has a carrier.
	Interface string
	DNS       []netip.Addr
	// MTU in bytes; 0 is not given.
	MTU int
}

// VLAN is a tagged network (IEEE 802.1Q).
type VLAN struct {
	// ID is 1 to 4094, 0 for no VLAN.
	ID int
	// Interface is a name or a MAC address; empty is every interface.
	Interface string
}

// Matches tells whether an interface is the one a setting names, which names
// every one if it is empty.
func Matches(setting string, ifi net.Interface) bool {
	if setting == "" || setting == ifi.Name {
		return true
	}
	mac, err := net.ParseMAC(setting)
	return err == nil && mac.String() == ifi.HardwareAddr.String()
}

// static reads the kernel's and dracut's
// ip=ADDR:SERVER:GATEWAY:MASK:HOSTNAME:INTERFACE:none:DNS|MTU:DNS:NTP
// (Documentation/admin-guide/nfs/nfsroot.rst, dracut.cmdline(7)). IPv6
// addresses stand in brackets. The words that ask for DHCP change nothing: it
// is asked for anyway.
func (n *Network) static(value string) error {
	f := fields(value)
	switch last := f[len(f)-1]; last {
	case "dhcp", "on", "any", "both", "auto6", "dhcp6", "either6":
		if len(f) <= 2 {
			return nil
		}
	}
	if len(f) < 4 {
		return errors.New("want ip=ADDR::GATEWAY:MASK:HOSTNAME:INTERFACE:none, or dhcp")
	}
	f = append(f, make([]string, 10)...)
	switch f[6] {
	case "", "none", "off", "static":
	default:
		return fmt.Errorf("%.40q with an address: want none", f[6])
	}
	addr, err := netip.ParseAddr(f[0])
	if err != nil || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() || addr.Zone() != "" {
		return fmt.Errorf("%.60q is no address of a machine", f[0])
	}
	s := Static{Interface: f[5]}
	if s.Addr, err = withMask(addr, f[3]); err != nil {
		return err
	}
	if f[2] != "" {
		if s.Gateway, err = netip.ParseAddr(f[2]); err != nil || s.Gateway.Is4() != addr.Is4() || s.Gateway == addr {
			return fmt.Errorf("gateway %.60q does not fit the address %v", f[2], addr)
		}
	}
	if err := s.rest(f[7:9]); err != nil {
		return err
	}
	n.Static = append(n.Static, s)
	return nil
}

// rest reads what stands behind the seventh field: name servers, or dracut's
// MTU in the first place.
func (s *Static) rest(f []string) (err error) {
	if _, err := strconv.Atoi(f[0]); err == nil {
		s.MTU, err = mtu(f[0])
		return err
	}
	for _, text := range f {
		if text == "" {
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("name server %.60q is no address", text)
		}
		s.DNS = append(s.DNS, a)
	}
	return nil
}

// withMask takes a mask as 255.255.255.0 or 24.
func withMask(addr netip.Addr, mask string) (netip.Prefix, error) {
	if bits, err := strconv.Atoi(mask); err == nil && bits >= 1 && bits <= addr.BitLen() {
		return netip.PrefixFrom(addr, bits), nil
	}
	if m, err := netip.ParseAddr(mask); err == nil && m.Is4() && addr.Is4() {
		if bits, size := net.IPMask(m.AsSlice()).Size(); size == 32 && bits > 0 {
			return netip.PrefixFrom(addr, bits), nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("mask %.40q of %v: want 255.255.255.0 or 24", mask, addr)
}

// fields cuts at colons outside brackets, which it drops. There is one at
// least.
func fields(s string) []string {
	var f []string
	var b strings.Builder
	inside := false
	for _, c := range s {
		switch {
		case c == '[' || c == ']':
			inside = c == '['
		case c == ':' && !inside:
			f = append(f, b.String())
			b.Reset()
		default:
			b.WriteRune(c)
		}
	}
	return append(f, b.String())
}

func mtu(s string) (int, error) {
	// Below 576 IPv4 does not work (RFC 791), and no link has more than 65535.
	n, err := strconv.Atoi(s)
	if err != nil || n < 576 || n > 65535 {
		return 0, fmt.Errorf("MTU %.20q: want 576 to 65535", s)
	}
	return n, nil
}

// vlan reads ID or ID:INTERFACE.
func (n *Network) vlan(value string) error {
	id, ifname, _ := strings.Cut(value, ":")
	return n.setVLAN(id, ifname)
}

// dracutVLAN reads NAME:INTERFACE, where the name ends in the number: vlan5,
// vlan0005, eth0.5, eth0.0005.
func (n *Network) dracutVLAN(value string) error {
	name, ifname, ok := strings.Cut(value, ":")
	digits := name[len(strings.TrimRight(name, "0123456789")):]
	if !ok || ifname == "" || len(digits) == len(name) {
		return errors.New("want vlan=NAME:INTERFACE, the name ending in .NUMBER or being vlanNUMBER")
	}
	return n.setVLAN(digits, ifname)
}

func (n *Network) setVLAN(id, ifname string) error {
	v, err := strconv.Atoi(id)
	if err != nil || v < 1 || v > 4094 { // 0 and 4095 are reserved (IEEE 802.1Q table 9-2)
		return fmt.Errorf("VLAN %.20q: want 1 to 4094", id)
	}
	n.VLAN = VLAN{ID: v, Interface: ifname}
	return nil
}
