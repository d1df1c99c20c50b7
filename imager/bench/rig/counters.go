package rig

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Counters are IP bytes that the server has put on its link, and packets that
// came to it.
type Counters struct {
	// Total is the interface's count, all protocols, without Ethernet headers.
	Total int64
	// Multicast is what went to groups: IPv4 and UDP.
	Multicast int64
	// TCP is what went to hosts by TCP, and UDP what went to them by UDP.
	TCP, UDP int64
	// Groups tells Multicast by group.
	Groups map[netip.Addr]int64
	// Feedback is how many UDP packets the switch passed on to the server.
	Feedback int64
}

// Since returns what was added since an earlier count.
func (c Counters) Since(earlier Counters) Counters {
	d := Counters{
		Total: c.Total - earlier.Total, Multicast: c.Multicast - earlier.Multicast, TCP: c.TCP - earlier.TCP, UDP: c.UDP - earlier.UDP,
		Feedback: c.Feedback - earlier.Feedback,
		Groups:   make(map[netip.Addr]int64, len(c.Groups)),
	}
	for g, n := range c.Groups {
		d.Groups[g] = n - earlier.Groups[g]
	}
	return d
}

// ethernetHeader is what an interface counts of a packet besides IP: no frame
// check sequence, preamble or gap, which only a wire has.
const ethernetHeader = 14

// countingRules count at the switch's end of the server's link, where packets
// come in as the wire would carry them. There the Ethernet header is off
// already, so that bytes are IP bytes.
const countingRules = `table netdev wire {
	counter group_bytes { }
	counter tcp_bytes { }
	counter udp_bytes { }
	counter feedback { }
	set groups { type ipv4_addr; flags dynamic; counter; }
	chain in {
		type filter hook ingress device "p0" priority 0; policy accept;
		ip daddr 224.0.0.0/4 ip protocol udp counter name group_bytes update @groups { ip daddr } accept
		ip protocol tcp counter name tcp_bytes
		ip protocol udp counter name udp_bytes
	}
	chain out {
		type filter hook egress device "p0" priority 0; policy accept;
		ip protocol udp counter name feedback
	}
}
`

// lossRules drop packets as they come in. They replace earlier ones.
func lossRules(l Link) string {
	rules := "table netdev loss\ndelete table netdev loss\n"
	if l.Loss <= 0 && l.LoseFirst <= 0 {
		return rules
	}
	const parts = 100000
	rules += "table netdev loss {\n\tchain in {\n\t\ttype filter hook ingress device \"eth0\" priority 0; policy accept;\n"
	if l.LoseFirst > 0 {
		rules += fmt.Sprintf("\t\tip protocol udp numgen inc mod 4000000000 < %d drop\n", l.LoseFirst)
	}
	if l.Loss > 0 {
		rules += fmt.Sprintf("\t\tether type ip numgen random mod %d < %d drop\n", parts, int(l.Loss*parts))
	}
	return rules + "\t}\n}\n"
}

// Sent counts what the server has sent.
func (n *Network) Sent(ctx context.Context) (Counters, error) {
	total, err := n.SentTotal()
	if err != nil {
		return Counters{}, err
	}
	b, err := n.sw.output(ctx, "", "nft", "-j", "list", "table", "netdev", "wire")
	if err != nil {
		return Counters{}, fmt.Errorf("rig: counters: %w", err)
	}
	c, err := parseCounters(b)
	if err != nil {
		return Counters{}, fmt.Errorf("rig: counters: %v", err)
	}
	c.Total = total
	return c, nil
}

// SentTotal returns Counters.Total alone; it is cheap.
func (n *Network) SentTotal() (int64, error) {
	b, err := os.ReadFile(n.sw.proc("dev"))
	if err != nil {
		return 0, fmt.Errorf("rig: counters: %v", err)
	}
	bytes, packets, err := parseDev(string(b), port(0))
	if err != nil {
		return 0, fmt.Errorf("rig: counters: %v", err)
	}
	return bytes - ethernetHeader*packets, nil
}

// proc names a file of /proc/net as the namespace sees it.
func (ns *namespace) proc(name string) string {
	return fmt.Sprintf("/proc/self/task/%d/net/%s", ns.tid, name)
}

// parseCounters reads the JSON of nft, libnftables-json(5).
func parseCounters(b []byte) (Counters, error) {
	type counter struct{ Bytes, Packets int64 }
	var doc struct {
		Nftables []struct {
			Counter *struct {
				Name string
				counter
			}
			Set *struct {
				Elem []struct {
					Elem struct {
						Val     netip.Addr
						Counter counter
					}
				}
			}
		}
	}
	c := Counters{Groups: make(map[netip.Addr]int64)}
	if err := json.Unmarshal(b, &doc); err != nil {
		return c, err
	}
	found := make(map[string]counter)
	for _, o := range doc.Nftables {
		if o.Counter != nil {
			found[o.Counter.Name] = o.Counter.counter
		}
		if o.Set != nil {
			for _, e := range o.Set.Elem {
				c.Groups[e.Elem.Val] = e.Elem.Counter.Bytes
			}
		}
	}
	for _, name := range []string{"group_bytes", "tcp_bytes", "udp_bytes", "feedback"} {
		if _, ok := found[name]; !ok {
			return c, fmt.Errorf("no counter %s", name)
		}
	}
	c.Multicast, c.TCP, c.UDP = found["group_bytes"].Bytes, found["tcp_bytes"].Bytes, found["udp_bytes"].Bytes
	c.Feedback = found["feedback"].Packets
	return c, nil
}

// parseDev reads bytes and packets that a device received from /proc/net/dev.
func parseDev(text, dev string) (bytes, packets int64, err error) {
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(name) != dev {
			continue
		}
		f := strings.Fields(rest)
		if len(f) < 2 {
			return 0, 0, fmt.Errorf("/proc/net/dev: %q has too few fields", line)
		}
		if bytes, err = strconv.ParseInt(f[0], 10, 64); err != nil {
			return 0, 0, fmt.Errorf("/proc/net/dev: %v", err)
		}
		if packets, err = strconv.ParseInt(f[1], 10, 64); err != nil {
			return 0, 0, fmt.Errorf("/proc/net/dev: %v", err)
		}
		return bytes, packets, nil
	}
	return 0, 0, fmt.Errorf("/proc/net/dev: no device %s", dev)
}

// Joined reports whether host i is a member of a multicast group on its link,
// other than that of all hosts.
func (n *Network) Joined(i int) (bool, error) {
	b, err := os.ReadFile(n.hosts[i].proc("igmp"))
	if err != nil {
		return false, fmt.Errorf("rig: %v", err)
	}
	return joined(string(b)), nil
}

// allHosts is 224.0.0.1 as /proc/net/igmp writes it: hexadecimal, and in the
// order of memory.
const allHosts = "010000E0"

func joined(igmp string) bool {
	for line := range strings.Lines(igmp) {
		f := strings.Fields(line)
		// A group's line begins with blanks and the address.
		if strings.HasPrefix(line, "\t") && len(f) > 1 && len(f[0]) == 8 && f[0] != allHosts {
			return true
		}
	}
	return false
}

// Listens reports whether anybody on host i has a UDP socket bound to a port.
func (n *Network) Listens(i int) (bool, error) {
	b, err := os.ReadFile(n.hosts[i].proc("udp"))
	if err != nil {
		return false, fmt.Errorf("rig: %v", err)
	}
	sc := bufio.NewScanner(strings.NewReader(string(b)))
	sc.Scan() // the head
	return sc.Scan(), nil
}
