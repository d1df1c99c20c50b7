package network

import (
	"context"
	"fmt"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// cycle4 gets an IPv4 lease and keeps it for as long as it can.
func (n *Network) cycle4(ctx context.Context, c *nic, regained <-chan struct{}) error {
	n.note(c, four, "no answer from a DHCP server")
	dhcp := client{ifname: c.dev, mac: c.ifi.HardwareAddr}
	raw, err := dhcp.acquire(ctx, func(err error) { n.note(c, four, "DHCP: "+err.Error()) })
	if err != nil {
		return err
	}
	lease, err := ParseLease(c.dev, raw.ACK)
	if err != nil {
		return err
	}
	n.mtu(lease)
	if err := configure(lease); err != nil {
		return err
	}
	n.note(c, four, lease.Addr.String())
	n.publish(lease)
	return n.keep4(ctx, holder{c, dhcp, raw, lease}, regained)
}

// holder is a lease with what is needed to renew it.
type holder struct {
	nic   *nic
	dhcp  client
	raw   *nclient4.Lease
	lease Lease
}

// keep4 renews a lease when its time has come, or asks whether it still holds
// after the carrier was lost (as RFC 2131 section 4.4.2 does after a reboot),
// and returns when it is lost.
func (n *Network) keep4(ctx context.Context, h holder, regained <-chan struct{}) error {
	const forever = 1 << 62
	for {
		left := time.Duration(forever)
		until := time.Now().Add(left)
		if h.lease.Expire != 0 {
			left, until = time.Until(h.raw.CreationTime.Add(h.lease.Renew)), h.raw.CreationTime.Add(h.lease.Expire)
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-regained:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		next, err := h.dhcp.renew(ctx, h.raw, until)
		if err != nil {
			if ctx.Err() == nil {
				if uerr := unconfigure4(h.nic.dev); uerr != nil {
					n.cfg.Log.Warn("expired address not removed", "interface", h.nic.dev, "err", uerr)
				}
			}
			return err
		}
		// Only the times are new: some servers leave out of a renewal what they said at first.
		if !next.ACK.YourIPAddr.Equal(h.raw.ACK.YourIPAddr) {
			return fmt.Errorf("network: %s: lease renewed with another address, %v", h.nic.dev, next.ACK.YourIPAddr)
		}
		h.raw = next
		h.lease.times(h.raw.ACK)
	}
}
