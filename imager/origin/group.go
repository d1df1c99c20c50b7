package origin

import (
	"encoding/binary"
	"net/netip"
	"time"

	"huck/imager/image"
)

// DefaultPort is the UDP port of channels. Groups differ, so one will do.
const DefaultPort = 8481

var (
	// DefaultGroups4 is the administratively scoped local range (RFC 2365, 6.1).
	DefaultGroups4 = netip.MustParsePrefix("239.255.0.0/16")
	// DefaultGroups6 are transient site-local groups (RFC 4291, 2.7).
	DefaultGroups6 = netip.MustParsePrefix("ff15::4855:434b:0:0/96")
)

// Gather is how long an idle channel waits for company after its first request
// and after each newcomer, as cast.ServerConfig says: machines that one switch
// turned on should share the image from its first chunk on, and one that is
// alone should not notice.
const Gather = 250 * time.Millisecond

// Groups returns what GroupFor picks from the default groups of the family of
// addr, the address that requests go to.
func Groups(addr netip.Addr) func(image.ID) netip.AddrPort {
	prefix := DefaultGroups4
	if addr.Is6() && !addr.Is4In6() {
		prefix = DefaultGroups6
	}
	return func(id image.ID) netip.AddrPort { return GroupFor(prefix, DefaultPort, id) }
}

// GroupFor picks an image's group out of prefix by its digest, so that a
// restarted origin comes back on the same group. Should two images meet on one
// group, their sessions still tell them apart.
func GroupFor(prefix netip.Prefix, port uint16, digest image.ID) netip.AddrPort {
	a := prefix.Masked().Addr()
	b := a.AsSlice()
	host := a.BitLen() - prefix.Bits()
	low := binary.BigEndian.Uint32(digest[:4])
	if host < 32 {
		low &= 1<<host - 1
	}
	tail := b[len(b)-4:]
	binary.BigEndian.PutUint32(tail, binary.BigEndian.Uint32(tail)|low)
	group, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(group, port)
}
