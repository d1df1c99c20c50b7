package dhcp

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// table is a subnet with its leases in memory. Every change goes to the store
// first. It has at most one lease for each address of its pools and each
// reservation, whoever asks.
type table struct {
	Subnet
	never    map[netip.Addr]bool // in a pool, but not to be given away
	reserved map[string]netip.Addr
	keptFor  map[netip.Addr]string // the reverse of reserved
	byAddr   map[netip.Addr]*Lease
	byMAC    map[string]*Lease
	store    Store
}

// newTable takes the stored leases and the reservations that are in the subnet.
func newTable(s Subnet, server netip.Addr, reservations []Reservation, store Store) *table {
	t := &table{Subnet: s, never: map[netip.Addr]bool{}, reserved: map[string]netip.Addr{}, keptFor: map[netip.Addr]string{},
		byAddr: map[netip.Addr]*Lease{}, byMAC: map[string]*Lease{}, store: store}
	t.Prefix = s.Prefix.Masked()
	if t.LeaseTime == 0 {
		t.LeaseTime = DefaultLeaseTime
	}
	for _, a := range s.never(server) {
		t.never[a] = true
	}
	for _, r := range reservations {
		if t.Prefix.Contains(r.Addr) {
			t.reserved[r.MAC], t.keptFor[r.Addr] = r.Addr, r.MAC
		}
	}
	return t
}

// loadLeases reads the leases in a store.
func loadLeases(ctx context.Context, store Store) ([]*Lease, error) {
	stored, err := store.List(ctx, leasePrefix)
	if err != nil {
		return nil, fmt.Errorf("dhcp: read leases: %w", err)
	}
	var leases []*Lease
	for key, value := range stored {
		l := new(Lease)
		if err := json.Unmarshal(value, l); err != nil || leasePrefix+l.Addr.String() != key {
			return nil, fmt.Errorf("dhcp: lease %s in the store is damaged: %v", key, err)
		}
		leases = append(leases, l)
	}
	return leases, nil
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
	switch keeper, kept := t.keptFor[addr]; {
	case t.never[addr], kept && keeper != mac, !kept && !t.inPool(addr):
		return false
	}
	l := t.byAddr[addr]
	return l == nil || l.MAC == mac || !now.Before(l.Expires)
}

func (t *table) inPool(a netip.Addr) bool {
	return slices.ContainsFunc(t.Pools, func(p Pool) bool { return p.Contains(a) })
}

// due returns the address that mac must have: its reservation, unless somebody
// else's lease of that still runs, or the address it holds.
func (t *table) due(mac string, now time.Time) (netip.Addr, bool) {
	if a, ok := t.reserved[mac]; ok && t.usable(mac, a, now) {
		return a, true
	}
	if l := t.byMAC[mac]; l != nil && now.Before(l.Expires) {
		return l.Addr, true
	}
	return netip.Addr{}, false
}

// choose picks the address to offer to mac: the one reserved for it, the one it
// has or had, the one it asks for, one that nobody ever had, the one whose
// lease ended first (RFC 2131 section 4.3.1).
func (t *table) choose(mac string, wish netip.Addr, now time.Time) (netip.Addr, bool) {
	if a, ok := t.due(mac, now); ok && t.usable(mac, a, now) {
		return a, true
	}
	if l := t.byMAC[mac]; l != nil && t.usable(mac, l.Addr, now) {
		return l.Addr, true
	}
	if t.usable(mac, wish, now) {
		return wish, true
	}
	var best *Lease
	for _, pool := range t.Pools {
		for n := uint64(toInt(pool.First)); n <= uint64(toInt(pool.Last)); n++ {
			a := fromInt(uint32(n))
			if !t.usable(mac, a, now) {
				continue
			}
			l := t.byAddr[a]
			if l == nil {
				return a, true
			}
			if best == nil || cmp.Compare(l.Expires.UnixNano(), best.Expires.UnixNano()) < 0 {
				best = l
			}
		}
	}
	if best == nil {
		return netip.Addr{}, false
	}
	return best.Addr, true
}
