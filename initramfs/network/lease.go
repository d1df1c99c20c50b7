package network

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"huck/imager/api"
)

// OptionServer is the DHCP option that carries the boot server's URL. It is
// from the range for private use (RFC 3942, 224–254).
const OptionServer = 224

// Lease is an address and what came with it: from a DHCP server, from a router
// or from the kernel command line.
type Lease struct {
	// Interface that has it.
	Interface string
	Addr      netip.Prefix
	// Gateway is invalid if there is none.
	Gateway netip.Addr
	DNS     []netip.Addr
	// Server is the boot server that the answer names, by OptionServer, as the
	// next server (siaddr) or in a boot file's URL; nil if it names none.
	Server *url.URL
	// From tells people where it is from.
	From string
	// MTU is 0 if the answer does not say.
	MTU int
	// Renew, Rebind and Expire are T1, T2 and the lease time, counted from the
	// request (RFC 2131 4.4.5); 0 is for ever.
	Renew, Rebind, Expire time.Duration
}

// String tells a lease in a few words.
func (l Lease) String() string {
	s := fmt.Sprintf("%s %s", l.Interface, l.Addr)
	if l.Gateway.IsValid() {
		s += fmt.Sprintf(" via %s", l.Gateway)
	}
	return s
}

// Same tells whether one lease takes the place of the other.
func (l Lease) Same(o Lease) bool {
	return l.Interface == o.Interface && l.Addr.Addr().Is4() == o.Addr.Addr().Is4()
}

// minLease bounds what a broken server can make us do: T1 at most every 5 s.
const minLease = 10 * time.Second

// ParseLease reads a DHCPACK. Options that make no sense are passed over, an
// address that makes none is an error.
func ParseLease(ifname string, ack *dhcpv4.DHCPv4) (Lease, error) {
	l := Lease{Interface: ifname}
	addr, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
		return l, fmt.Errorf("network: %s: lease of address %v", ifname, ack.YourIPAddr)
	}
	mask := ack.SubnetMask()
	if len(mask) != 4 {
		mask = ack.YourIPAddr.DefaultMask() // no option 1: the class decides, as in the old days
	}
	bits, size := net.IPMask(mask).Size()
	if size != 32 {
		return l, fmt.Errorf("network: %s: lease with mask %v", ifname, mask)
	}
	l.Addr = netip.PrefixFrom(addr, bits)
	for _, r := range ack.Router() {
		if a, ok := netip.AddrFromSlice(r.To4()); ok && !a.IsUnspecified() && a != addr {
			l.Gateway = a
			break
		}
	}
	for _, d := range ack.DNS() {
		if a, ok := netip.AddrFromSlice(d.To4()); ok {
			l.DNS = append(l.DNS, a)
		}
	}
	if id := ack.ServerIdentifier(); id != nil {
		l.From = "DHCP server " + id.String()
	}
	if b := ack.Options.Get(dhcpv4.OptionInterfaceMTU); len(b) == 2 {
		if mtu := int(b[0])<<8 | int(b[1]); mtu >= 576 { // RFC 2132 5.1 allows 68; below 576 IPv4 does not work
			l.MTU = mtu
		}
	}
	l.Server = serverOf(ack)
	l.times(ack)
	return l, nil
}

func serverOf(ack *dhcpv4.DHCPv4) *url.URL {
	if b := ack.Options.Get(dhcpv4.GenericOptionCode(OptionServer)); len(b) > 0 {
		if u, err := api.ParseServerURL(strings.TrimRight(string(b), "\x00")); err == nil {
			return u
		}
	}
	if a, ok := netip.AddrFromSlice(ack.ServerIPAddr.To4()); ok && !a.IsUnspecified() {
		return &url.URL{Scheme: "http", Host: netip.AddrPortFrom(a, api.ServerPort).String()}
	}
	return nil
}

// times fills in T1 and T2, by default half and seven eighths of the lease.
func (l *Lease) times(ack *dhcpv4.DHCPv4) {
	// infinity is 0xffffffff seconds (RFC 2131 3.3).
	const infinity = (1<<32 - 1) * time.Second
	total := ack.IPAddressLeaseTime(infinity)
	if total == infinity || total <= 0 {
		return
	}
	l.Expire = max(total, minLease)
	l.Renew, l.Rebind = ack.IPAddressRenewalTime(0), ack.IPAddressRebindingTime(0)
	if l.Renew <= 0 || l.Renew >= l.Expire {
		l.Renew = l.Expire / 2
	}
	if l.Rebind <= l.Renew || l.Rebind >= l.Expire {
		l.Rebind = l.Renew + (l.Expire-l.Renew)*3/4
	}
	l.Renew = max(l.Renew, minLease/2)
}
