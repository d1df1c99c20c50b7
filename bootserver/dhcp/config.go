package dhcp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// DefaultLeaseTime outlasts a day's work of an installed system that cannot
// reach us for some hours; MinLeaseTime spares the disk that leases are kept
// on, MaxLeaseTime is what fits into 31 bits of seconds.
const (
	DefaultLeaseTime = 12 * time.Hour
	MinLeaseTime     = 2 * time.Minute
	MaxLeaseTime     = (1<<31 - 1) * time.Second
)

// Config is what a Responder tells its clients.
type Config struct {
	BootConfig
	// Subnets are served; the one that has Server in it is our own, the others
	// are reached through relays.
	Subnets []Subnet
	// Reservations keep addresses for machines.
	Reservations []Reservation
	// Probe, if set, reports who uses an address: a MAC, or another word where
	// that is not known, or "" for nobody. It is asked before an address is
	// offered to a machine that does not hold it; own is true for an address of
	// our own subnet. It may take a second.
	Probe func(ctx context.Context, a netip.Addr, own bool) (user string)
	// Conflict, if set, hears of an address that Probe found in use; Rival of
	// every machine that took an address from another server. Neither may
	// block.
	Conflict func(a netip.Addr, user string)
	Rival    func(server netip.Addr, mac string)
}

// Subnet is one network that clients are in, and what they are told.
type Subnet struct {
	// Prefix is the network; /30 or wider.
	Prefix netip.Prefix
	// Pools are given away, in order. None: machines with a reservation only.
	Pools []Pool
	// Router and DNS are handed out if they are valid.
	Router netip.Addr
	DNS    []netip.Addr
	// LeaseTime is DefaultLeaseTime if it is 0.
	LeaseTime time.Duration
}

// Reservation keeps an address for the machine with that MAC, in the form
// net.HardwareAddr.String has it.
type Reservation struct {
	MAC  string
	Addr netip.Addr
}

// Check refuses what cannot work, in words that name the value.
func (s Subnet) Check() error {
	p := s.Prefix.Masked()
	switch {
	case !p.Addr().Is4() || p.Bits() > 30:
		return fmt.Errorf("subnet %v: want an IPv4 prefix with room for machines, /30 or wider", p)
	case s.Router.IsValid() && !p.Contains(s.Router):
		return fmt.Errorf("subnet %v: router %v is not in it", p, s.Router)
	case s.LeaseTime != 0 && (s.LeaseTime < MinLeaseTime || s.LeaseTime > MaxLeaseTime):
		return fmt.Errorf("subnet %v: lease time %v: want %v to %v", p, s.LeaseTime, MinLeaseTime, MaxLeaseTime)
	}
	for i, pool := range s.Pools {
		if !p.Contains(pool.First) || !p.Contains(pool.Last) {
			return fmt.Errorf("subnet %v: pool %v is not in it", p, pool)
		}
		for _, other := range s.Pools[:i] {
			if pool.Contains(other.First) || other.Contains(pool.First) {
				return fmt.Errorf("subnet %v: the pools %v and %v overlap", p, other, pool)
			}
		}
	}
	for _, a := range s.DNS {
		if !a.Is4() {
			return fmt.Errorf("subnet %v: DNS server %v is no IPv4 address", p, a)
		}
	}
	return nil
}

// never returns the addresses that no machine of the subnet may have.
func (s Subnet) never(server netip.Addr) []netip.Addr {
	return append([]netip.Addr{s.Prefix.Masked().Addr(), broadcast(s.Prefix), server, s.Router}, s.DNS...)
}

func broadcast(p netip.Prefix) netip.Addr {
	return fromInt(toInt(p.Masked().Addr()) | (1<<(32-p.Bits()) - 1))
}

// Check refuses what cannot work, in words that name the value.
func (c Config) Check() error {
	if err := CheckSubnets(c.Subnets); err != nil {
		return err
	}
	if !slices.ContainsFunc(c.Subnets, func(s Subnet) bool { return s.Prefix.Contains(c.Server) }) {
		return fmt.Errorf("server address %v is in no subnet", c.Server)
	}
	return c.CheckReservations()
}

// CheckSubnets refuses subnets that cannot work, alone or together.
func CheckSubnets(subnets []Subnet) error {
	for i, s := range subnets {
		if err := s.Check(); err != nil {
			return err
		}
		for _, other := range subnets[:i] {
			if other.Prefix.Overlaps(s.Prefix) {
				return fmt.Errorf("the subnets %v and %v overlap", other.Prefix.Masked(), s.Prefix.Masked())
			}
		}
	}
	return nil
}

// CheckReservations refuses reservations that cannot work in the subnets.
func (c Config) CheckReservations() error {
	macs, addrs := map[string]bool{}, map[netip.Addr]bool{}
	for _, r := range c.Reservations {
		i := slices.IndexFunc(c.Subnets, func(s Subnet) bool { return s.Prefix.Contains(r.Addr) })
		switch {
		case i < 0:
			return fmt.Errorf("reservation of %v for %s: it is in no subnet", r.Addr, r.MAC)
		case slices.Contains(c.Subnets[i].never(c.Server), r.Addr):
			return fmt.Errorf("reservation of %v for %s: it is the address of the network, its broadcast, router, DNS server or this server", r.Addr, r.MAC)
		case addrs[r.Addr]:
			return fmt.Errorf("reservation of %v for %s: it is another machine's", r.Addr, r.MAC)
		case macs[fmt.Sprint(r.MAC, i)]:
			return fmt.Errorf("reservation of %v for %s: the machine has another in that subnet", r.Addr, r.MAC)
		}
		macs[fmt.Sprint(r.MAC, i)], addrs[r.Addr] = true, true
	}
	return nil
}
