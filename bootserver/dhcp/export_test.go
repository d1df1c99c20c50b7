package dhcp

// The bytes of ARP, for tests.
var (
	ARPFrame = arpFrame
	ARPUser  = arpUser
)
