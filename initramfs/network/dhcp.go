package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// retry is the pause between two DISCOVERs or REQUESTs. RFC 2131 4.1 starts at
// 4 s for the sake of a campus booting at once; ports that drop the first
// packets after link-up are the commoner case here, and imaging servers answer
// thousands of packets a second.
const retry = time.Second

// requests is what option 55 asks for.
var requests = []dhcpv4.OptionCode{
	dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionInterfaceMTU,
	dhcpv4.OptionIPAddressLeaseTime, dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue,
	dhcpv4.GenericOptionCode(OptionServer),
}

// client asks for leases on one interface.
type client struct {
	ifname string
	mac    net.HardwareAddr
}

// modifiers are the options of every message. The client identifier is the
// one that iPXE and most firmware use, so that the machine keeps its address.
func (c client) modifiers() []dhcpv4.Modifier {
	return []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{1}, c.mac...))),
		dhcpv4.WithOption(dhcpv4.OptParameterRequestList(requests...)),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("huck")),
	}
}

// with runs do with an open DHCP client. Each of its calls sends once and
// waits for a retry interval.
func (c client) with(do func(*nclient4.Client) error) error {
	nc, err := nclient4.New(c.ifname, nclient4.WithHWAddr(c.mac), nclient4.WithTimeout(retry), nclient4.WithRetry(1))
	if err != nil {
		return fmt.Errorf("network: dhcp on %s: %v", c.ifname, err)
	}
	err = do(nc)
	if cerr := nc.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("network: dhcp on %s: close: %v", c.ifname, cerr)
	}
	return err
}

// acquire asks until it has a lease or ctx is done. note hears of each failed
// try.
func (c client) acquire(ctx context.Context, note func(error)) (lease *nclient4.Lease, err error) {
	for {
		started := time.Now()
		err := c.with(func(nc *nclient4.Client) error {
			offer, err := nc.DiscoverOffer(ctx, c.modifiers()...)
			if err != nil {
				return err
			}
			// Two more REQUESTs for the same offer: the answer to one may be lost.
			for range 3 {
				if lease, err = nc.RequestFromOffer(ctx, offer, c.modifiers()...); err == nil || !errors.Is(err, nclient4.ErrNoResponse) {
					break
				}
			}
			return err
		})
		if err == nil {
			return lease, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		note(err)
		// What failed at once (link down again, NAK) does not turn into a flood.
		if err := sleep(ctx, retry-time.Since(started)); err != nil {
			return nil, err
		}
	}
}

// renew extends a lease. It returns an error if the server says no or the
// lease has run out.
func (c client) renew(ctx context.Context, l *nclient4.Lease, until time.Time) (*nclient4.Lease, error) {
	for pause := retry; ; pause = min(2*pause, time.Minute) {
		var renewed *nclient4.Lease
		// Broadcast also before T2: a few packets more, and no way to fail that a route could cause.
		err := c.with(func(nc *nclient4.Client) (err error) {
			renewed, err = nc.Renew(ctx, l, c.modifiers()...)
			return err
		})
		if err == nil {
			return renewed, nil
		}
		if nak := (*nclient4.ErrNak)(nil); errors.As(err, &nak) {
			return nil, fmt.Errorf("network: %s: lease taken back: %v", c.ifname, err)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if time.Now().Add(pause).After(until) {
			return nil, fmt.Errorf("network: %s: lease has run out: %v", c.ifname, err)
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
