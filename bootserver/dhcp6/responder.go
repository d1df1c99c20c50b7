package dhcp6

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"huck/bootserver/dhcp"
)

const (
	// leaseTime is how long an address is valid and preferred. It outlasts a
	// day's work of a system that cannot reach us for some hours, and is the
	// lifetime of the advertised prefix, too.
	leaseTime = 12 * time.Hour
	// maxIAs bounds the identity associations that are answered in a message.
	maxIAs = 4
	// maxDeclined bounds the clients whose declined addresses are remembered.
	maxDeclined = 1024
)

// Config is what a Responder tells its clients.
type Config struct {
	// MAC identifies us (RFC 8415 section 11.4).
	MAC net.HardwareAddr
	// Server is our own address; nobody gets it.
	Server netip.Addr
	// Prefix is a /64 to give addresses of; invalid gives none.
	Prefix netip.Prefix
	// Quiet reports that this network has a router, which has to care for
	// addresses: we give none. Nil is never.
	Quiet func() bool
	DNS   []netip.Addr
	// BootURL is the file for firmware; empty is none. It must not block.
	BootURL func(dhcp.Client) string
	// ServerURL is for systems that ask for a boot file.
	ServerURL string
}

// ErrIgnored is wrapped for a message that must be met with silence; the text
// says why.
var ErrIgnored = errors.New("dhcp6: ignored")

func ignore(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrIgnored}, a...)...)
}

// Responder answers messages. It is not safe for concurrent use.
type Responder struct {
	cfg      Config
	id       dhcpv6.DUID
	declined map[[sha256.Size]byte]int // how many addresses of a client are in use
}

// NewResponder refuses a config that cannot work.
func NewResponder(cfg Config) (*Responder, error) {
	if cfg.Prefix.IsValid() && (cfg.Prefix.Bits() != 64 || !cfg.Prefix.Addr().Is6()) {
		return nil, fmt.Errorf("dhcp6: prefix %v is no /64", cfg.Prefix)
	}
	if len(cfg.MAC) != 6 {
		return nil, fmt.Errorf("dhcp6: hardware address %q is no Ethernet's", cfg.MAC)
	}
	return &Responder{cfg, &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: cfg.MAC}, make(map[[sha256.Size]byte]int)}, nil
}

// Handle answers a message that came from the given address. Errors that wrap
// ErrIgnored are no failures: the protocol wants silence.
func (r *Responder) Handle(msg dhcpv6.DHCPv6, from netip.Addr) (*dhcpv6.Message, error) {
	req, ok := msg.(*dhcpv6.Message)
	if !ok {
		return nil, ignore("it came through a relay")
	}
	if err := r.check(req); err != nil {
		return nil, err
	}
	reply := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: req.TransactionID}
	reply.AddOption(dhcpv6.OptServerID(r.id))
	if id := req.Options.ClientID(); id != nil {
		reply.AddOption(dhcpv6.OptClientID(id))
	}
	switch req.MessageType {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		if err := r.assign(req, reply); err != nil {
			return nil, err
		}
	case dhcpv6.MessageTypeConfirm:
		if err := r.confirm(req, reply); err != nil {
			return nil, err
		}
		return reply, nil
	case dhcpv6.MessageTypeDecline:
		r.decline(req)
		fallthrough
	case dhcpv6.MessageTypeRelease:
		reply.AddOption(status(iana.StatusSuccess, "noted"))
		return reply, nil
	case dhcpv6.MessageTypeInformationRequest:
	default:
		return nil, ignore("%v is no client's message", req.MessageType)
	}
	r.tell(req, reply, from)
	return reply, nil
}

// check is RFC 8415 section 16: who must say which identifier.
func (r *Responder) check(req *dhcpv6.Message) error {
	server := req.Options.ServerID()
	switch req.MessageType {
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		if server == nil {
			return ignore("%v without a server identifier", req.MessageType)
		}
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		if server != nil {
			return ignore("%v with a server identifier", req.MessageType)
		}
	}
	if server != nil && !server.Equal(r.id) {
		return ignore("it is for the server %v", server)
	}
	if req.Options.ClientID() == nil && req.MessageType != dhcpv6.MessageTypeInformationRequest {
		return ignore("%v without a client identifier", req.MessageType)
	}
	return nil
}

// gives tells whether we give addresses.
func (r *Responder) gives() bool {
	return r.cfg.Prefix.IsValid() && (r.cfg.Quiet == nil || !r.cfg.Quiet())
}

// assign answers each identity association with its address (RFC 8415 section
// 18.3.1 to 18.3.5). An address that is not the client's gets the lifetime 0.
func (r *Responder) assign(req, reply *dhcpv6.Message) error {
	if !r.gives() {
		return ignore("we give no addresses here")
	}
	ias := req.Options.IANA()
	if len(ias) == 0 || len(ias) > maxIAs {
		return ignore("%d associations for addresses", len(ias))
	}
	if req.MessageType == dhcpv6.MessageTypeSolicit {
		if req.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
			reply.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
		} else {
			reply.MessageType = dhcpv6.MessageTypeAdvertise
		}
	}
	client := req.Options.ClientID().ToBytes()
	for _, ia := range ias {
		addr := net.IP(r.address(client, ia.IaId).AsSlice())
		out := &dhcpv6.OptIANA{IaId: ia.IaId, T1: leaseTime / 2, T2: leaseTime / 5 * 4}
		out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: addr, PreferredLifetime: leaseTime, ValidLifetime: leaseTime})
		if req.MessageType == dhcpv6.MessageTypeRenew || req.MessageType == dhcpv6.MessageTypeRebind {
			for _, old := range ia.Options.Addresses() {
				if !old.IPv6Addr.Equal(addr) && len(out.Options.Addresses()) <= maxIAs {
					out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: old.IPv6Addr})
				}
			}
		}
		reply.AddOption(out)
	}
	return nil
}

// address is the client's own: the hash of who it is, and of how many times it
// found the address in use.
func (r *Responder) address(client []byte, iaid [4]byte) netip.Addr {
	key := r.key(client, iaid)
	for n := r.declined[key]; ; n++ {
		sum := sha256.Sum256(binary.BigEndian.AppendUint32(key[:], uint32(n)))
		b := r.cfg.Prefix.Masked().Addr().As16()
		copy(b[8:], sum[:8])
		if a := netip.AddrFrom16(b); a != r.cfg.Server && !reserved([8]byte(b[8:])) {
			return a
		}
	}
}

func (r *Responder) key(client []byte, iaid [4]byte) [sha256.Size]byte {
	prefix := r.cfg.Prefix.Masked().Addr().As16()
	return sha256.Sum256(slices.Concat([]byte("huck dhcp6 address\x00"), prefix[:], iaid[:], client))
}

// reserved are interface identifiers that mean something (RFC 5453), and those
// that cards' own addresses have (RFC 4291 appendix A: ff:fe in the middle).
func reserved(id [8]byte) bool {
	n := binary.BigEndian.Uint64(id[:])
	return n == 0 || n >= 0xfdffffffffffff80 && n <= 0xfdffffffffffffff || id[3] == 0xff && id[4] == 0xfe
}

// confirm tells whether addresses belong to this link (RFC 8415 section
// 18.3.3).
func (r *Responder) confirm(req, reply *dhcpv6.Message) error {
	if !r.gives() {
		return ignore("we give no addresses here")
	}
	any := false
	for _, ia := range req.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			addr, ok := netip.AddrFromSlice(a.IPv6Addr)
			if any = true; !ok || !r.cfg.Prefix.Contains(addr) {
				reply.AddOption(status(iana.StatusNotOnLink, "another network's address"))
				return nil
			}
		}
	}
	if !any {
		return ignore("a confirmation of nothing")
	}
	reply.AddOption(status(iana.StatusSuccess, "on this link"))
	return nil
}

// decline notes that somebody else has the addresses.
func (r *Responder) decline(req *dhcpv6.Message) {
	if !r.gives() {
		return
	}
	client := req.Options.ClientID().ToBytes()
	for _, ia := range req.Options.IANA() {
		mine := net.IP(r.address(client, ia.IaId).AsSlice())
		key := r.key(client, ia.IaId)
		for _, a := range ia.Options.Addresses() {
			if _, known := r.declined[key]; a.IPv6Addr.Equal(mine) && (known || len(r.declined) < maxDeclined) {
				r.declined[key]++
				break
			}
		}
	}
}

func status(code iana.StatusCode, text string) dhcpv6.Option {
	return &dhcpv6.OptStatusCode{StatusCode: code, StatusMessage: text}
}
