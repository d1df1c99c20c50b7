// Package dhcp answers DHCPv4 requests (RFC 2131) of one interface with what
// network boot needs (RFC 4578). Responder leases addresses; Proxy only tells
// firmware its boot file, beside a server that leases. Both are the protocol:
// a request and the time in, a reply out, no socket and no clock. Server is the
// thin shell around them that owns the sockets.
//
// Two choices of Responder differ from a general-purpose server:
//   - A lease belongs to a hardware address, whatever client identifier the
//     client sends. So the ROM, iPXE, the appliance and the installed system of
//     one machine have one address, and clones with the same identifier have
//     different ones.
//   - An address is reserved when it is offered, and the reservation is on the
//     disk before the offer leaves. Two clients are never offered one address,
//     not even by two runs of the server: the loser would get a DHCPNAK, after
//     which iPXE gives up for good.
package dhcp
