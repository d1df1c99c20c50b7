// Package dhcp6 tells machines with IPv6 what to boot, and gives an address to
// those that insist on one from DHCPv6 (RFC 8415), as UEFI firmware does;
// everybody else makes one of the prefix that package ra advertises.
//
// There is no table of leases: an address is a hash of the client's identifier
// in the 64 bits below the prefix, where two clients do not meet. A client has
// the same one for ever, also from a server that lost its state. Whoever finds
// it in use and declines it gets the next hash.
//
// One interface, one link: messages through relays are ignored. The boot file
// is option 59 (RFC 5970). A system that is no firmware and asks for one is
// told the boot server's own URL.
//
// Responder is the protocol: a message in, a message out. Server is the shell
// with the socket.
package dhcp6
