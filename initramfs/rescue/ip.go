package rescue

import (
	"context"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
)

// ip shows links, addresses and routes.
func ip(_ context.Context, s IO, args []string) error {
	what := "addr"
	if len(args) > 0 {
		what = args[0]
	}
	switch {
	case strings.HasPrefix("address", what):
		return links(s, true)
	case strings.HasPrefix("link", what):
		return links(s, false)
	case strings.HasPrefix("route", what):
		return routes(s)
	}
	return usageError{}
}

func links(s IO, addrs bool) error {
	list, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range list {
		a := l.Attrs()
		fmt.Fprintf(s.Out, "%d: %s: <%s> mtu %d state %s %s\n", a.Index, a.Name, a.Flags, a.MTU, a.OperState, a.HardwareAddr)
		if !addrs {
			continue
		}
		as, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range as {
			fmt.Fprintf(s.Out, "    %s\n", a.IPNet)
		}
	}
	return nil
}

func routes(s IO) error {
	list, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, r := range list {
		dst, dev := "default", ""
		if r.Dst != nil {
			dst = r.Dst.String()
		}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			dev = l.Attrs().Name
		}
		fmt.Fprintf(s.Out, "%s", dst)
		if r.Gw != nil {
			fmt.Fprintf(s.Out, " via %s", r.Gw)
		}
		fmt.Fprintf(s.Out, " dev %s metric %d\n", dev, r.Priority)
	}
	return nil
}
