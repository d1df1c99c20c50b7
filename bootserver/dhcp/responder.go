package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

const (
	// offerTime is how long an offered address is kept for its client. PXE
	// ROMs ask for it within 4 s, and slow firmware after 10 to 20.
	offerTime = 60 * time.Second
	// declineTime is how long an address that was found in use is left alone.
	declineTime = time.Hour
	// maxConflicts is how many addresses that are in use one request may
	// find; the client asks again.
	maxConflicts = 4
)

// Responder answers requests. It is safe for concurrent use.
type Responder struct {
	cfg    Config
	tables []*table
	own    *table // of the subnet that we are in
	// mu guards what is in tables, and probing. Writing a lease to the disk is
	// under it, as the disk has to have them in our order; probes are not.
	mu      sync.Mutex
	probing map[netip.Addr]bool
}

// ErrIgnored is wrapped for a request that must be met with silence; the text
// says why.
var ErrIgnored = errors.New("dhcp: ignored")

func ignore(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrIgnored}, a...)...)
}

// NewResponder reads the leases in store and refuses a config that cannot work.
// Leases of subnets that are no longer served stay in the store.
func NewResponder(ctx context.Context, cfg Config, store Store) (*Responder, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("dhcp: %w", err)
	}
	leases, err := loadLeases(ctx, store)
	if err != nil {
		return nil, err
	}
	r := &Responder{cfg: cfg, probing: map[netip.Addr]bool{}}
	for _, s := range cfg.Subnets {
		t := newTable(s, cfg.Server, cfg.Reservations, store)
		for _, l := range leases {
			if t.Prefix.Contains(l.Addr) {
				t.index(l)
			}
		}
		if t.Prefix.Contains(cfg.Server) {
			r.own = t
		}
		r.tables = append(r.tables, t)
	}
	return r, nil
}

// Handle answers a request that came at now. Errors that wrap ErrIgnored are
// no failures: the protocol wants silence.
func (r *Responder) Handle(ctx context.Context, req *dhcpv4.DHCPv4, now time.Time) (*dhcpv4.DHCPv4, error) {
	if err := checkRequest(req); err != nil {
		return nil, err
	}
	t, err := r.link(req)
	if err != nil {
		return nil, err
	}
	a := asker{t, req, req.ClientHWAddr.String(), now}
	if req.MessageType() == dhcpv4.MessageTypeDiscover {
		return r.discover(ctx, a)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch req.MessageType() {
	case dhcpv4.MessageTypeRequest:
		return r.request(ctx, a)
	case dhcpv4.MessageTypeDecline:
		return nil, r.decline(ctx, a)
	case dhcpv4.MessageTypeRelease:
		return nil, r.release(ctx, a)
	case dhcpv4.MessageTypeInform:
		return r.inform(a)
	}
	return nil, ignore("message type %v", req.MessageType())
}

// asker is a request with where, from whom and when it came.
type asker struct {
	*table
	req *dhcpv4.DHCPv4
	mac string
	now time.Time
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

// link returns the subnet that a request came from. A relay says it: with the
// link selection of option 82 (RFC 3527), with option 118 (RFC 3011), else by
// its address. Without a relay it is ours, unless a machine renews its address
// by unicast from elsewhere.
func (r *Responder) link(req *dhcpv4.DHCPv4) (*table, error) {
	from := addr(req.GatewayIPAddr)
	if !from.IsValid() {
		if t := r.tableOf(addr(req.ClientIPAddr)); t != nil {
			return t, nil
		}
		return r.own, nil
	}
	if agent := req.RelayAgentInfo(); agent != nil && len(agent.Get(dhcpv4.LinkSelectionSubOption)) == 4 {
		from = addr(agent.Get(dhcpv4.LinkSelectionSubOption))
	} else if b := req.Options.Get(dhcpv4.OptionSubnetSelection); len(b) == 4 {
		from = addr(b)
	}
	// The relay is where the answer goes: to no place that is not ours.
	if r.tableOf(addr(req.GatewayIPAddr)) == nil {
		return nil, fmt.Errorf("dhcp: request of %v through the relay %v, which is in no subnet of the configuration", req.ClientHWAddr, addr(req.GatewayIPAddr))
	}
	if t := r.tableOf(from); t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("dhcp: request of %v, relayed from %v, which is in no subnet of the configuration", req.ClientHWAddr, from)
}

func (r *Responder) tableOf(a netip.Addr) *table {
	for _, t := range r.tables {
		if a.IsValid() && t.Prefix.Contains(a) {
			return t
		}
	}
	return nil
}

// discover offers an address and reserves it (RFC 2131 section 4.3.1), after a
// look whether somebody uses it (section 3.1 step 2).
func (r *Responder) discover(ctx context.Context, a asker) (*dhcpv4.DHCPv4, error) {
	for range maxConflicts {
		offer, held, err := r.reserve(ctx, a)
		if err != nil {
			return nil, err
		}
		if held || r.cfg.Probe == nil {
			return r.reply(a, dhcpv4.MessageTypeOffer, offer)
		}
		user := r.cfg.Probe(ctx, offer, a.table == r.own)
		free := user == "" || user == a.mac
		if err := r.probed(ctx, a, offer, free); err != nil {
			return nil, err
		}
		if free {
			return r.reply(a, dhcpv4.MessageTypeOffer, offer)
		}
		if r.cfg.Conflict != nil {
			r.cfg.Conflict(offer, user)
		}
	}
	return nil, fmt.Errorf("dhcp: %d addresses in a row are in use by others; is the pool somebody else's, or does a router answer for every address (then --no-probe)?", maxConflicts)
}

// reserve chooses an address and writes the offer down. held is true if the
// machine has it already.
func (r *Responder) reserve(ctx context.Context, a asker) (offer netip.Addr, held bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	offer, ok := a.choose(a.mac, addr(a.req.RequestedIPAddress()), a.now)
	if !ok {
		return offer, false, fmt.Errorf("dhcp: no address left in %v for %s", a.Prefix, a.mac)
	}
	if r.probing[offer] {
		return offer, false, ignore("%v is being looked for", offer)
	}
	l := a.byAddr[offer]
	held = l != nil && l.MAC == a.mac && a.now.Before(l.Expires)
	if until := a.now.Add(offerTime); !held || until.After(l.Expires) {
		if err := a.set(ctx, Lease{Addr: offer, MAC: a.mac, Expires: until}); err != nil {
			return offer, false, err
		}
	}
	if !held && r.cfg.Probe != nil {
		r.probing[offer] = true
	}
	return offer, held, nil
}

// probed ends a probe; an address that is not free is set aside.
func (r *Responder) probed(ctx context.Context, a asker, offer netip.Addr, free bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.probing, offer)
	if free {
		return nil
	}
	return a.set(ctx, Lease{Addr: offer, Expires: a.now.Add(declineTime)})
}

// request confirms an address or refuses it (RFC 2131 section 4.3.2).
func (r *Responder) request(ctx context.Context, a asker) (*dhcpv4.DHCPv4, error) {
	server, wish := addr(a.req.ServerIdentifier()), addr(a.req.RequestedIPAddress())
	if server.IsValid() && server != r.cfg.Server { // SELECTING, and it took another
		return nil, r.lost(ctx, a, server)
	}
	if !wish.IsValid() { // RENEWING, REBINDING
		wish = addr(a.req.ClientIPAddr)
	}
	if !wish.IsValid() {
		return nil, ignore("%s requests no address", a.mac)
	}
	// A machine holds one address of a subnet: the one we keep for it, while
	// that is still its own. A free one is granted to a machine we do not
	// remember, rather than a NAK.
	if due, ok := a.due(a.mac, a.now); ok && due != wish {
		return r.nak(a, fmt.Sprintf("%v is yours, not %v", due, wish))
	}
	if !a.usable(a.mac, wish, a.now) {
		return r.nak(a, fmt.Sprintf("%v is not for you", wish))
	}
	if err := a.set(ctx, Lease{Addr: wish, MAC: a.mac, Expires: a.now.Add(a.LeaseTime), Bound: true}); err != nil {
		return nil, err
	}
	return r.reply(a, dhcpv4.MessageTypeAck, wish)
}

// lost frees what we offered to a machine that chose another server.
func (r *Responder) lost(ctx context.Context, a asker, server netip.Addr) error {
	if r.cfg.Rival != nil {
		r.cfg.Rival(server, a.mac)
	}
	if l := a.byMAC[a.mac]; l != nil && !l.Bound && a.now.Before(l.Expires) {
		freed := *l
		freed.Expires = a.now
		if err := a.set(ctx, freed); err != nil {
			return err
		}
	}
	return ignore("%s chose the server %v", a.mac, server)
}

// decline sets an address aside that its client found in use (section 4.3.3).
func (r *Responder) decline(ctx context.Context, a asker) error {
	wish := addr(a.req.RequestedIPAddress())
	if l := a.byAddr[wish]; addr(a.req.ServerIdentifier()) != r.cfg.Server || l == nil || l.MAC != a.mac {
		return ignore("%s declines %v, which is not its own", a.mac, wish)
	}
	if err := a.set(ctx, Lease{Addr: wish, Expires: a.now.Add(declineTime)}); err != nil {
		return err
	}
	return fmt.Errorf("dhcp: %s found %v in use by another machine; left alone for %v", a.mac, wish, declineTime)
}

// release ends a lease but remembers whose it was (section 4.3.4).
func (r *Responder) release(ctx context.Context, a asker) error {
	wish := addr(a.req.ClientIPAddr)
	l := a.byAddr[wish]
	if addr(a.req.ServerIdentifier()) != r.cfg.Server || l == nil || l.MAC != a.mac {
		return ignore("%s releases %v, which is not its own", a.mac, wish)
	}
	freed := *l
	freed.Expires, freed.Bound = a.now, false
	if err := a.set(ctx, freed); err != nil {
		return err
	}
	return ignore("%s released %v", a.mac, wish)
}

// inform gives a machine with an address of its own everything else
// (section 4.3.5).
func (r *Responder) inform(a asker) (*dhcpv4.DHCPv4, error) {
	if !addr(a.req.ClientIPAddr).IsValid() {
		return nil, ignore("DHCPINFORM without an address")
	}
	return r.reply(a, dhcpv4.MessageTypeAck, netip.Addr{})
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
