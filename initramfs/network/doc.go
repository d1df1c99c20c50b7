// Package network gets a machine onto its network: it brings every Ethernet
// interface up, asks for DHCPv4 leases on those with a carrier, the one it was
// booted from first, configures what it gets and keeps the leases renewed.
package network
