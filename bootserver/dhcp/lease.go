package dhcp

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Store keeps leases across restarts; *state.Store is one.
type Store interface {
	Put(ctx context.Context, key string, value []byte) error
	List(ctx context.Context, prefix string) (map[string][]byte, error)
}

// leasePrefix is where leases stand in the store, under their address, so that
// an address has one holder there, too.
const leasePrefix = "leases/"

// Lease binds an address to a machine.
type Lease struct {
	Addr netip.Addr `json:"addr"`
	// MAC is the holder; empty if somebody we do not know uses the address: a
	// client declined it (RFC 2131 section 4.3.3), or our probe was answered.
	MAC string `json:"mac,omitempty"`
	// Expires is when the offer or the lease ends. The record stays, so that
	// the machine gets its old address again as long as nobody needs it.
	Expires time.Time `json:"expires"`
	// Bound is false as long as the address is only offered.
	Bound bool `json:"bound,omitempty"`
}

// Pool is a range of addresses, both ends included.
type Pool struct{ First, Last netip.Addr }

// maxPool bounds the addresses of a pool, which a search may have to walk.
const maxPool = 1 << 16

// ParsePool reads A-B.
func ParsePool(s string) (Pool, error) {
	a, b, ok := strings.Cut(s, "-")
	first, err1 := netip.ParseAddr(strings.TrimSpace(a))
	last, err2 := netip.ParseAddr(strings.TrimSpace(b))
	switch {
	case !ok || err1 != nil || err2 != nil || !first.Is4() || !last.Is4():
		return Pool{}, fmt.Errorf("dhcp: pool %q: want two IPv4 addresses such as 10.0.0.100-10.0.0.199", s)
	case last.Less(first):
		return Pool{}, fmt.Errorf("dhcp: pool %q ends before it begins", s)
	case toInt(last)-toInt(first) >= maxPool:
		return Pool{}, fmt.Errorf("dhcp: pool %q has more than %d addresses", s, maxPool)
	}
	return Pool{first, last}, nil
}

// DefaultPool is the upper half of the subnet without its broadcast address,
// at most 4096 addresses.
func DefaultPool(subnet netip.Prefix) Pool {
	first := toInt(subnet.Masked().Addr())
	size := uint32(1) << (32 - subnet.Bits())
	last := first + size - 2
	return Pool{fromInt(max(first+size/2, last-min(last, 4095))), fromInt(last)}
}

// String is the form ParsePool reads.
func (p Pool) String() string { return p.First.String() + "-" + p.Last.String() }

// Contains reports whether a is in the pool.
func (p Pool) Contains(a netip.Addr) bool {
	return a.Is4() && !a.Less(p.First) && !p.Last.Less(a)
}

func toInt(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func fromInt(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}
