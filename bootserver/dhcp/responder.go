package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

const (
	// offerTime is how long an offered address is kept for its client. PXE
	// ROMs ask for it within 4 s, and slow firmware after 10 to 20.
	offerTime = 60 * time.Second
	// declineTime is how long an address that a client found in use is left
	// alone.
	declineTime = time.Hour
	// DefaultLeaseTime outlasts a day's work of an installed system that
	// cannot reach us for some hours.
	DefaultLeaseTime = 12 * time.Hour
)

// Config is what a Responder tells its clients.
type Config struct {
	BootConfig
	// Subnet is the prefix that our own address lies in.
	Subnet netip.Prefix
	Pool   Pool
	// Router and DNS are handed out if they are valid.
	Router netip.Addr
	DNS    []netip.Addr
	// LeaseTime defaults to DefaultLeaseTime.
	LeaseTime time.Duration
}

// Responder answers requests. It is not safe for concurrent use.
type Responder struct {
	cfg    Config
	leases *table
}

// ErrIgnored is wrapped for a request that must be met with silence; the text
// says why.
var ErrIgnored = errors.New("dhcp: ignored")

func ignore(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrIgnored}, a...)...)
}

// NewResponder reads the leases in store and refuses a config that cannot work.
func NewResponder(ctx context.Context, cfg Config, store Store) (*Responder, error) {
	sub := cfg.Subnet.Masked()
	switch {
	case !cfg.Server.Is4() || !sub.Contains(cfg.Server):
		return nil, fmt.Errorf("dhcp: server address %v is not in the subnet %v", cfg.Server, sub)
	case sub.Bits() > 30:
		return nil, fmt.Errorf("dhcp: subnet %v has no room for clients", sub)
	case !sub.Contains(cfg.Pool.First) || !sub.Contains(cfg.Pool.Last):
		return nil, fmt.Errorf("dhcp: pool %v is not in the subnet %v", cfg.Pool, sub)
	case cfg.Router.IsValid() && !sub.Contains(cfg.Router):
		return nil, fmt.Errorf("dhcp: router %v is not in the subnet %v", cfg.Router, sub)
	}
	for _, a := range cfg.DNS {
		if !a.Is4() {
			return nil, fmt.Errorf("dhcp: DNS server %v is no IPv4 address", a)
		}
	}
	if cfg.LeaseTime == 0 {
		cfg.LeaseTime = DefaultLeaseTime
	}
	never := append([]netip.Addr{sub.Addr(), broadcast(sub), cfg.Server, cfg.Router}, cfg.DNS...)
	leases, err := loadTable(ctx, cfg.Pool, never, store)
	if err != nil {
		return nil, err
	}
	return &Responder{cfg, leases}, nil
}

func broadcast(p netip.Prefix) netip.Addr {
	return fromInt(toInt(p.Masked().Addr()) | (1<<(32-p.Bits()) - 1))
}

// Handle answers a request that came at now. Errors that wrap ErrIgnored are
// no failures: the protocol wants silence.
func (r *Responder) Handle(ctx context.Context, req *dhcpv4.DHCPv4, now time.Time) (*dhcpv4.DHCPv4, error) {
	if err := checkRequest(req); err != nil {
		return nil, err
	}
	mac := req.ClientHWAddr.String()
	if relay := addr(req.GatewayIPAddr); relay.IsValid() {
		return nil, ignore("relayed by %v; we serve our own subnet only", relay)
	}
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return r.discover(ctx, req, mac, now)
	case dhcpv4.MessageTypeRequest:
		return r.request(ctx, req, mac, now)
	case dhcpv4.MessageTypeDecline:
		return nil, r.decline(ctx, req, mac, now)
	case dhcpv4.MessageTypeRelease:
		return nil, r.release(ctx, req, mac, now)
	case dhcpv4.MessageTypeInform:
		return r.inform(req)
	}
	return nil, ignore("message type %v", req.MessageType())
}

// checkRequest refuses what nobody who boots over Ethernet sends.
func checkRequest(req *dhcpv4.DHCPv4) error {
	hw := req.ClientHWAddr
	switch {
	case req.OpCode != dhcpv4.OpcodeBootRequest:
		return ignore("not a request")
	case req.HWType != iana.HWTypeEthernet || len(hw) != 6 || hw[0]&1 != 0 || [6]byte(hw) == [6]byte{}:
		return ignore("hardware address %v of type %v", hw, req.HWType)
	}
	return nil
}

// discover offers an address and reserves it (RFC 2131 section 4.3.1).
func (r *Responder) discover(ctx context.Context, req *dhcpv4.DHCPv4, mac string, now time.Time) (*dhcpv4.DHCPv4, error) {
	a, ok := r.leases.choose(mac, addr(req.RequestedIPAddress()), now)
	if !ok {
		return nil, fmt.Errorf("dhcp: no address left in %v for %s", r.cfg.Pool, mac)
	}
	offer := Lease{Addr: a, MAC: mac, Expires: now.Add(offerTime)}
	if held := r.leases.byAddr[a]; held != nil && held.MAC == mac && held.Expires.After(offer.Expires) {
		offer = *held // it runs longer as it is
	}
	if held := r.leases.byAddr[a]; held == nil || *held != offer {
		if err := r.leases.set(ctx, offer); err != nil {
			return nil, err
		}
	}
	return r.reply(req, dhcpv4.MessageTypeOffer, a)
}

// request confirms an address or refuses it (RFC 2131 section 4.3.2).
func (r *Responder) request(ctx context.Context, req *dhcpv4.DHCPv4, mac string, now time.Time) (*dhcpv4.DHCPv4, error) {
	server, wish, ciaddr := addr(req.ServerIdentifier()), addr(req.RequestedIPAddress()), addr(req.ClientIPAddr)
	if server.IsValid() && server != r.cfg.Server { // SELECTING, and it took another
		if l := r.leases.byMAC[mac]; l != nil && !l.Bound && now.Before(l.Expires) {
			freed := *l
			freed.Expires = now
			if err := r.leases.set(ctx, freed); err != nil {
				return nil, err
			}
		}
		return nil, ignore("%s chose the server %v", mac, server)
	}
	if !wish.IsValid() { // RENEWING, REBINDING
		wish = ciaddr
	}
	if !wish.IsValid() {
		return nil, ignore("%s requests no address", mac)
	}
	// A machine holds one address: the one we keep for it, while that is still
	// its own. A free one is granted to a machine we do not remember, rather
	// than a NAK.
	if l := r.leases.byMAC[mac]; l != nil && l.Addr != wish && now.Before(l.Expires) {
		return r.nak(req, fmt.Sprintf("%v is yours, not %v", l.Addr, wish))
	}
	if !r.leases.usable(mac, wish, now) {
		return r.nak(req, fmt.Sprintf("%v is not for you", wish))
	}
	if err := r.leases.set(ctx, Lease{Addr: wish, MAC: mac, Expires: now.Add(r.cfg.LeaseTime), Bound: true}); err != nil {
		return nil, err
	}
	return r.reply(req, dhcpv4.MessageTypeAck, wish)
}

// decline sets an address aside that its client found in use (section 4.3.3).
func (r *Responder) decline(ctx context.Context, req *dhcpv4.DHCPv4, mac string, now time.Time) error {
	a := addr(req.RequestedIPAddress())
	if l := r.leases.byAddr[a]; addr(req.ServerIdentifier()) != r.cfg.Server || l == nil || l.MAC != mac {
		return ignore("%s declines %v, which is not its own", mac, a)
	}
	if err := r.leases.set(ctx, Lease{Addr: a, Expires: now.Add(declineTime)}); err != nil {
		return err
	}
	return fmt.Errorf("dhcp: %s found %v in use by another machine; left alone for %v", mac, a, declineTime)
}

// release ends a lease but remembers whose it was (section 4.3.4).
func (r *Responder) release(ctx context.Context, req *dhcpv4.DHCPv4, mac string, now time.Time) error {
	a := addr(req.ClientIPAddr)
	l := r.leases.byAddr[a]
	if addr(req.ServerIdentifier()) != r.cfg.Server || l == nil || l.MAC != mac {
		return ignore("%s releases %v, which is not its own", mac, a)
	}
	freed := *l
	freed.Expires, freed.Bound = now, false
	if err := r.leases.set(ctx, freed); err != nil {
		return err
	}
	return ignore("%s released %v", mac, a)
}

// inform gives a machine with an address of its own everything else
// (section 4.3.5).
func (r *Responder) inform(req *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	if !addr(req.ClientIPAddr).IsValid() {
		return nil, ignore("DHCPINFORM without an address")
	}
	return r.reply(req, dhcpv4.MessageTypeAck, netip.Addr{})
}

// addr converts an address of the dhcpv4 package; unset and 0.0.0.0 become the
// invalid address.
func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
