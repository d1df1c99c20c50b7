package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// serversWait is how long servers have to answer: those that ping an address
// first take one to three seconds.
const serversWait = 4 * time.Second

// Servers returns the addresses of the DHCP servers that would lease an address
// on the interface, own excepted. It asks for one and takes none.
func Servers(ctx context.Context, ifi *net.Interface, own netip.Addr) (found []netip.Addr, err error) {
	c, err := nclient4.New(ifi.Name, nclient4.WithHWAddr(ifi.HardwareAddr), nclient4.WithTimeout(serversWait), nclient4.WithRetry(1))
	if err != nil {
		return nil, fmt.Errorf("dhcp: look for other servers on %s: %w", ifi.Name, err)
	}
	defer c.Close()
	discover, err := dhcpv4.NewDiscovery(ifi.HardwareAddr, dhcpv4.WithBroadcast(true))
	if err != nil {
		return nil, fmt.Errorf("dhcp: look for other servers on %s: %v", ifi.Name, err)
	}
	seen := make(chan netip.Addr, 64)
	_, err = c.SendAndRead(ctx, nclient4.DefaultServers, discover, func(m *dhcpv4.DHCPv4) bool {
		if server := addr(m.ServerIdentifier()); m.MessageType() == dhcpv4.MessageTypeOffer && addr(m.YourIPAddr).IsValid() && server != own {
			select {
			case seen <- server:
			default:
			}
		}
		return false // wait for more
	})
	close(seen)
	for a := range seen {
		if !slices.Contains(found, a) {
			found = append(found, a)
		}
	}
	if errors.Is(err, nclient4.ErrNoResponse) || ctx.Err() != nil {
		err = nil
	}
	return found, err
}
