// Package dhcp is an authoritative DHCPv4 server (RFC 2131) for one subnet and
// one interface, with what network boot needs (RFC 4578). Responder is the
// protocol: a request and the time in, a reply out, no socket and no clock.
// Server is the thin shell around it that owns the socket.
//
// Two choices differ from a general-purpose server:
//   - A lease belongs to a hardware address, whatever client identifier the
//     client sends. So the ROM, iPXE, the appliance and the installed system of
//     one machine have one address, and clones with the same identifier have
//     different ones.
//   - An address is reserved when it is offered, and the reservation is on the
//     disk before the offer leaves. Two clients are never offered one address,
//     not even by two runs of the server: the loser would get a DHCPNAK, after
//     which iPXE gives up for good.
package dhcp
