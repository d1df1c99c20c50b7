package dhcp

import (
	"cmp"
	"context"
	"encoding/json"
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
	// MAC is the holder; empty if a client declined the address (RFC 2131
	// section 4.3.3): somebody we do not know uses it.
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

// table is the leases in memory. Every change goes to the store first.
type table struct {
	pool   Pool
	never  map[netip.Addr]bool // in the pool, but not to be given away
	byAddr map[netip.Addr]*Lease
	byMAC  map[string]*Lease
	store  Store
}

func loadTable(ctx context.Context, pool Pool, never []netip.Addr, store Store) (*table, error) {
	t := &table{pool: pool, never: map[netip.Addr]bool{}, byAddr: map[netip.Addr]*Lease{}, byMAC: map[string]*Lease{}, store: store}
	for _, a := range never {
		t.never[a] = true
	}
	stored, err := store.List(ctx, leasePrefix)
	if err != nil {
		return nil, fmt.Errorf("dhcp: read leases: %w", err)
	}
	for key, value := range stored {
		l := new(Lease)
		if err := json.Unmarshal(value, l); err != nil || leasePrefix+l.Addr.String() != key {
			return nil, fmt.Errorf("dhcp: lease %s in the store is damaged: %v", key, err)
		}
		t.index(l)
	}
	return t, nil
}

// index makes l the lease of its address and its holder. Of two addresses that
// once were one machine's, the later lease counts.
func (t *table) index(l *Lease) {
	if old := t.byAddr[l.Addr]; old != nil && t.byMAC[old.MAC] == old {
		delete(t.byMAC, old.MAC)
	}
	t.byAddr[l.Addr] = l
	if l.MAC == "" {
		return
	}
	if old := t.byMAC[l.MAC]; old == nil || !l.Expires.Before(old.Expires) {
		t.byMAC[l.MAC] = l
	}
}

// set stores a lease and then makes it true.
func (t *table) set(ctx context.Context, l Lease) error {
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("dhcp: lease of %v: %v", l.Addr, err)
	}
	if err := t.store.Put(ctx, leasePrefix+l.Addr.String(), b); err != nil {
		return fmt.Errorf("dhcp: lease of %v: %w", l.Addr, err)
	}
	t.index(&l)
	return nil
}

// usable reports whether mac may hold addr now.
func (t *table) usable(mac string, addr netip.Addr, now time.Time) bool {
	if !t.pool.Contains(addr) || t.never[addr] {
		return false
	}
	l := t.byAddr[addr]
	return l == nil || l.MAC == mac || !now.Before(l.Expires)
}

// choose picks the address to offer to mac: the one it has or had, the one it
// asks for, one that nobody ever had, the one whose lease ended first
// (RFC 2131 section 4.3.1).
func (t *table) choose(mac string, wish netip.Addr, now time.Time) (netip.Addr, bool) {
	if l := t.byMAC[mac]; l != nil && t.usable(mac, l.Addr, now) {
		return l.Addr, true
	}
	if t.usable(mac, wish, now) {
		return wish, true
	}
	var best *Lease
	for n := toInt(t.pool.First); ; n++ {
		a := fromInt(n)
		if l := t.byAddr[a]; l == nil && !t.never[a] {
			return a, true
		} else if l != nil && t.usable(mac, a, now) && (best == nil || cmp.Compare(l.Expires.UnixNano(), best.Expires.UnixNano()) < 0) {
			best = l
		}
		if a == t.pool.Last {
			break
		}
	}
	if best == nil {
		return netip.Addr{}, false
	}
	return best.Addr, true
}
