package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/insomniacslk/dhcp/iana"

	"huck/imager/api"
)

// renewPause is between two attempts to renew (RFC 8415 section 7.6:
// REN_TIMEOUT 10 s).
const renewPause = 10 * time.Second

// client6 asks DHCPv6 servers on one interface.
type client6 struct {
	ifname string
	mac    net.HardwareAddr
}

// said6 is what a DHCPv6 server said.
type said6 struct {
	msg *dhcpv6.Message
	// server is the boot server, nil if the answer names none.
	server *url.URL
	dns    []netip.Addr
	// addr is invalid where only the rest was asked for. It is good for the
	// lifetimes; renew and rebind are T1 and T2 (RFC 8415 section 21.4).
	addr             netip.Addr
	preferred, valid time.Duration
	renew, rebind    time.Time
}

// modifiers are the options of every message. The identifier is of the kind
// that is the same at every start (RFC 8415 section 11.4), so that the machine
// keeps its address.
func (c client6) modifiers() []dhcpv6.Modifier {
	return []dhcpv6.Modifier{
		dhcpv6.WithClientID(c.duid()),
		dhcpv6.WithRequestedOptions(dhcpv6.OptionBootfileURL, dhcpv6.OptionDNSRecursiveNameServer),
		dhcpv6.WithUserClass([]byte("huck")),
	}
}

func (c client6) duid() dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: c.mac}
}

// ask asks until it is answered or ctx is done: for an address and the rest,
// or for the rest only.
func (c client6) ask(ctx context.Context, address bool) (*said6, error) {
	var last error
	for ctx.Err() == nil {
		started := time.Now()
		said, err := c.once(ctx, address)
		if err == nil {
			return said, nil
		}
		last = err
		_ = sleep(ctx, retry-time.Since(started))
	}
	return nil, fmt.Errorf("network: dhcpv6 on %s: %w: %v", c.ifname, ctx.Err(), last)
}

func (c client6) once(ctx context.Context, address bool) (*said6, error) {
	var said *said6
	err := c.with(func(nc *nclient6.Client) error {
		var reply *dhcpv6.Message
		var err error
		if address {
			reply, err = nc.RapidSolicit(ctx, c.modifiers()...)
		} else {
			reply, err = c.send(ctx, nc, dhcpv6.MessageTypeInformationRequest)
		}
		if err == nil {
			said, err = read6(reply, address, time.Now())
		}
		return err
	})
	return said, err
}

// renew asks the server that gave an address to extend it, or after T2 any
// server.
func (c client6) renew(ctx context.Context, s *said6) (*said6, error) {
	kind, more := dhcpv6.MessageTypeRenew, []dhcpv6.Modifier{dhcpv6.WithServerID(s.msg.Options.ServerID())}
	if time.Now().After(s.rebind) {
		kind, more = dhcpv6.MessageTypeRebind, nil
	}
	ia := s.msg.Options.OneIANA()
	more = append(more, dhcpv6.WithOption(&dhcpv6.OptIANA{IaId: ia.IaId,
		Options: dhcpv6.IdentityOptions{Options: dhcpv6.Options{&dhcpv6.OptIAAddress{IPv6Addr: s.addr.AsSlice()}}}}))
	var next *said6
	err := c.with(func(nc *nclient6.Client) error {
		reply, err := c.send(ctx, nc, kind, more...)
		if err == nil {
			next, err = read6(reply, true, time.Now())
		}
		return err
	})
	if err == nil && next.addr != s.addr {
		err = fmt.Errorf("network: %s: address renewed as another, %v", c.ifname, next.addr)
	}
	return next, err
}

func (c client6) send(ctx context.Context, nc *nclient6.Client, kind dhcpv6.MessageType, more ...dhcpv6.Modifier) (*dhcpv6.Message, error) {
	m, err := dhcpv6.NewMessage(append(c.modifiers(), more...)...)
	if err != nil {
		return nil, err
	}
	m.MessageType = kind
	m.AddOption(dhcpv6.OptElapsedTime(0))
	return nc.SendAndRead(ctx, nclient6.AllDHCPRelayAgentsAndServers, m, nclient6.IsMessageType(dhcpv6.MessageTypeReply))
}

// with runs do with an open client. Each of its calls sends once and waits for
// a retry interval.
func (c client6) with(do func(*nclient6.Client) error) error {
	nc, err := nclient6.New(c.ifname, nclient6.WithTimeout(retry), nclient6.WithRetry(1))
	if err != nil {
		return err
	}
	return errors.Join(do(nc), nc.Close())
}

// read6 reads a reply that came at now.
func read6(m *dhcpv6.Message, address bool, now time.Time) (*said6, error) {
	s := &said6{msg: m, server: server6(m.Options.BootFileURL())}
	if st := m.Options.Status(); st != nil && st.StatusCode != iana.StatusSuccess {
		return nil, fmt.Errorf("dhcpv6: refused: %v", st)
	}
	for _, ip := range m.Options.DNS() {
		if a, ok := netip.AddrFromSlice(ip); ok {
			s.dns = append(s.dns, a)
		}
	}
	if !address {
		return s, nil
	}
	ia := m.Options.OneIANA()
	if ia == nil || m.Options.ServerID() == nil {
		return nil, errors.New("dhcpv6: reply without an address")
	}
	for _, a := range ia.Options.Addresses() {
		addr, ok := netip.AddrFromSlice(a.IPv6Addr)
		if !ok || !addr.IsGlobalUnicast() || addr.Is4In6() || a.ValidLifetime <= 0 {
			continue
		}
		s.addr, s.valid, s.preferred = addr, a.ValidLifetime, min(a.PreferredLifetime, a.ValidLifetime)
		s.times(ia, now)
		return s, nil
	}
	return nil, fmt.Errorf("dhcpv6: reply without an address: %v", ia.Options.Status())
}

// times fills in T1 and T2, by default half and four fifths of the preferred
// lifetime (RFC 8415 section 21.4).
func (s *said6) times(ia *dhcpv6.OptIANA, now time.Time) {
	t1, t2 := ia.T1, ia.T2
	if t1 <= 0 || t1 > s.valid {
		t1 = max(s.preferred/2, minLease/2)
	}
	if t2 < t1 || t2 > s.valid {
		t2 = max(t1, s.preferred*4/5)
	}
	s.renew, s.rebind = now.Add(t1), now.Add(t2)
}

// server6 is the boot server that a boot file's URL (RFC 5970) leads to: the
// host that has the file, over HTTP as it says or, where it says TFTP, on our
// usual port.
func server6(bootFile string) *url.URL {
	u, err := url.Parse(bootFile)
	if err != nil || u.Hostname() == "" {
		return nil
	}
	switch u.Scheme {
	case "tftp":
		u = &url.URL{Scheme: "http", Host: net.JoinHostPort(u.Hostname(), fmt.Sprint(api.ServerPort))}
	case "http", "https":
		u = &url.URL{Scheme: u.Scheme, Host: u.Host}
	default:
		return nil
	}
	return u
}
