// Package network gets a machine onto its network: it brings every Ethernet
// interface up, and on those with a carrier, the one it was booted from first,
// asks for a DHCPv4 lease and for IPv6 routers at the same time, configures
// what it gets and keeps it. Static addresses and a VLAN come from the kernel
// command line. Who was told no boot server can ask the link for one.
//
// IPv6 addresses by stateless autoconfiguration are the kernel's work (RFC
// 4862), lifetimes and duplicate address detection included; ours is what it
// does not do: DHCPv6 where routers say so, and name servers.
package network
