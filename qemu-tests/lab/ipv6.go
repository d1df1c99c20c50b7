package lab

import (
	"context"
	"fmt"
)

// Server6 is the server's address on a network without IPv4.
const Server6 = "fd00:77::1/64"

// OnlyIPv6 takes IPv4 from the network; the server is Server6. Before the
// server is started.
func (n *Network) OnlyIPv6(ctx context.Context) error {
	for _, args := range [][]string{
		{"ip", "-4", "addr", "flush", "dev", Interface},
		{"ip", "addr", "add", Server6, "dev", Interface, "nodad"},
	} {
		if err := n.run(ctx, args...); err != nil {
			return fmt.Errorf("lab: %v", err)
		}
	}
	return nil
}
