package lab

import (
	"context"
	"encoding/json"
	"fmt"

	"huck/qemu-tests/proc"
)

// counters sees each packet the server sent as it enters the bridge, behind
// any segmentation; nft counts from the IP header on.
const counters = `
table netdev traffic {
	counter multicast-bytes { }
	counter unicast-bytes { }
	chain sent {
		type filter hook ingress device "` + serverPort + `" priority 0;
		ip daddr { 224.0.0.0/4, 255.255.255.255 } counter name multicast-bytes accept
		ip6 daddr ff00::/8 counter name multicast-bytes accept
		meta protocol { ip, ip6 } counter name unicast-bytes
	}
}
`

func (n *Network) nft(ctx context.Context, rules string) error {
	_, err := proc.RunInput(ctx, proc.Command{Netns: n.Netns, Args: []string{"nft", "-f", "-"}}, []byte(rules))
	return err
}

// Sent is what the server has put on its link, in IP bytes.
type Sent struct {
	// Multicast counts broadcasts, too.
	Multicast, Unicast int64
}

// Sub returns what was sent between old and s.
func (s Sent) Sub(old Sent) Sent {
	return Sent{Multicast: s.Multicast - old.Multicast, Unicast: s.Unicast - old.Unicast}
}

// Sent returns what the server has sent since New.
func (n *Network) Sent(ctx context.Context) (Sent, error) {
	out, err := proc.Run(ctx, proc.Command{Netns: n.Netns, Args: []string{"nft", "-j", "list", "counters"}})
	if err != nil {
		return Sent{}, fmt.Errorf("lab: read counters: %v", err)
	}
	var list struct {
		Nftables []struct {
			Counter *struct {
				Name  string
				Bytes int64
			}
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return Sent{}, fmt.Errorf("lab: read counters: %v", err)
	}
	var s Sent
	for _, entry := range list.Nftables {
		switch c := entry.Counter; {
		case c == nil:
		case c.Name == "multicast-bytes":
			s.Multicast = c.Bytes
		case c.Name == "unicast-bytes":
			s.Unicast = c.Bytes
		}
	}
	return s, nil
}

// State describes the network for people: interfaces with their counters, and
// the packet filter's.
func (n *Network) State(ctx context.Context) []byte {
	var all []byte
	for _, args := range [][]string{{"ip", "-s", "-s", "address"}, {"nft", "list", "ruleset"}, {"tc", "-s", "qdisc"}} {
		out, err := proc.Run(ctx, proc.Command{Netns: n.Netns, Args: args})
		if err != nil {
			out = []byte(err.Error())
		}
		all = append(append(all, out...), '\n')
	}
	return all
}

// SetLoss drops percent (0 to 100) of all IP packets on their way to a tap,
// at random. Call it once per tap.
func (n *Network) SetLoss(ctx context.Context, tap string, percent int) error {
	rules := fmt.Sprintf(`
table netdev loss-%[1]s {
	chain drop-some {
		type filter hook egress device %[1]q priority 0;
		meta protocol { ip, ip6 } numgen random mod 100 < %[2]d counter drop
	}
}
`, tap, percent)
	if err := n.nft(ctx, rules); err != nil {
		return fmt.Errorf("lab: set loss: %v", err)
	}
	return nil
}

// LimitSending drops what comes from a tap faster than a rate in bytes per second,
// as a policing switch does: TCP settles a little below it. Call it once per tap.
func (n *Network) LimitSending(ctx context.Context, tap string, rate int) error {
	rules := fmt.Sprintf(`
table netdev limit-%[1]s {
	chain drop-most {
		type filter hook ingress device %[1]q priority 0;
		limit rate over %[2]d bytes/second burst 256 kbytes counter drop
	}
}
`, tap, rate)
	if err := n.nft(ctx, rules); err != nil {
		return fmt.Errorf("lab: limit sending: %v", err)
	}
	return nil
}

// LimitMulticast holds what the server sends by IPv4 multicast to a rate in
// bits per second, by a queue on its own interface: the sender blocks and
// loses nothing.
func (n *Network) LimitMulticast(ctx context.Context, rate int64) error {
	class := []string{"tc", "class", "change", "dev", Interface, "parent", "1:", "classid", "1:10", "htb", "rate", fmt.Sprint(rate)}
	if n.run(ctx, class...) == nil {
		return nil
	}
	class[2] = "add"
	for _, args := range [][]string{
		{"tc", "qdisc", "replace", "dev", Interface, "root", "handle", "1:", "htb"}, // other traffic is not queued
		class,
		{"tc", "qdisc", "add", "dev", Interface, "parent", "1:10", "pfifo", "limit", "10000"},
		{"tc", "filter", "add", "dev", Interface, "parent", "1:", "protocol", "ip", "u32", "match", "ip", "dst", "224.0.0.0/4", "flowid", "1:10"},
	} {
		if err := n.run(ctx, args...); err != nil {
			return fmt.Errorf("lab: limit multicast: %v", err)
		}
	}
	return nil
}
