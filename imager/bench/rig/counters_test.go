package rig

import (
	"net/netip"
	"strings"
	"testing"
)

const nftJSON = `{"nftables": [{"metainfo": {"version": "1.0.6", "release_name": "x", "json_schema_version": 1}},
 {"table": {"family": "netdev", "name": "wire", "handle": 1}},
 {"counter": {"family": "netdev", "name": "group_bytes", "table": "wire", "handle": 1, "packets": 10, "bytes": 10000}},
 {"counter": {"family": "netdev", "name": "tcp_bytes", "table": "wire", "handle": 2, "packets": 3, "bytes": 180}},
 {"counter": {"family": "netdev", "name": "udp_bytes", "table": "wire", "handle": 3, "packets": 0, "bytes": 0}},
 {"counter": {"family": "netdev", "name": "feedback", "table": "wire", "handle": 9, "packets": 77, "bytes": 5000}},
 {"set": {"family": "netdev", "name": "groups", "table": "wire", "type": "ipv4_addr", "handle": 4, "size": 65535, "flags": ["dynamic"],
  "elem": [{"elem": {"val": "239.1.2.3", "counter": {"packets": 10, "bytes": 9000}}}, {"elem": {"val": "224.0.0.22", "counter": {"packets": 1, "bytes": 1000}}}]}},
 {"chain": {"family": "netdev", "table": "wire", "name": "in", "handle": 5}}]}`

func TestParseCounters(t *testing.T) {
	c, err := parseCounters([]byte(nftJSON))
	if err != nil {
		t.Fatal(err)
	}
	if c.Multicast != 10000 || c.TCP != 180 || c.UDP != 0 || c.Feedback != 77 || c.Groups[netip.MustParseAddr("239.1.2.3")] != 9000 || len(c.Groups) != 2 {
		t.Errorf("got %+v", c)
	}
	d := c.Since(Counters{Total: 1, Multicast: 9000, Groups: map[netip.Addr]int64{netip.MustParseAddr("239.1.2.3"): 8500}})
	if d.Total != -1 || d.Multicast != 1000 || d.TCP != 180 || d.Groups[netip.MustParseAddr("239.1.2.3")] != 500 {
		t.Errorf("since then %+v", d)
	}
	for name, bad := range map[string]string{
		"a counter is missing": strings.Replace(nftJSON, `"name": "tcp_bytes"`, `"name": "other"`, 1),
		"cut":                  nftJSON[:len(nftJSON)/2],
		"no address":           strings.Replace(nftJSON, "239.1.2.3", "eth0", 1),
	} {
		if c, err := parseCounters([]byte(bad)); err == nil {
			t.Errorf("%s: got %+v, want an error", name, c)
		}
	}
}

func TestParseDev(t *testing.T) {
	const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
   p10:    7000      10    0    0    0     0          0         0        0       0    0    0    0     0       0          0
    p1:123456789012 345    0    0    0     0          0         0        0       0    0    0    0     0       0          0
    p2:    x       345    0
    p3:    1
`
	bytes, packets, err := parseDev(text, "p1")
	if err != nil || bytes != 123456789012 || packets != 345 {
		t.Errorf("got %d bytes, %d packets, %v", bytes, packets, err)
	}
	for _, dev := range []string{"p", "p2", "p3", "eth0"} {
		if _, _, err := parseDev(text, dev); err == nil {
			t.Errorf("%s: want an error", dev)
		}
	}
}

func TestJoinedParse(t *testing.T) {
	const none = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n" +
		"1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n" +
		"2\teth0      :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"
	if joined(none) {
		t.Error("all hosts are in 224.0.0.1")
	}
	if !joined(none + "\t\t\t\t030201EF     1 0:00000000\t\t0\n") {
		t.Error("239.1.2.3 not seen")
	}
}

func TestLossRules(t *testing.T) {
	if r := lossRules(Link{}); strings.Contains(r, "drop") {
		t.Errorf("nothing is to be lost: %s", r)
	}
	if r := lossRules(Link{Loss: 0.01}); !strings.Contains(r, "random mod 100000 < 1000 drop") {
		t.Errorf("1 %%: %s", r)
	}
}
