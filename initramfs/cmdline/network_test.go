package cmdline_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"huck/initramfs/cmdline"
)

func TestNetwork(t *testing.T) {
	for _, tt := range []struct{ line, want, err string }{
		{line: "ip=dhcp"},
		{line: "ip=eth0:dhcp"},
		{line: "ip=10.0.0.5::10.0.0.1:255.255.255.0:host:eth0:none", want: "[10.0.0.5/24 via 10.0.0.1 on eth0 dns [] mtu 0]"},
		{line: "ip=10.0.0.5:::24", want: "[10.0.0.5/24 via invalid IP on  dns [] mtu 0]"},
		{line: "ip=10.0.0.5:10.0.0.9:10.1.0.1:32::52-54-00-00-00-01:off:10.0.0.53:10.0.0.54:10.0.0.7",
			want: "[10.0.0.5/32 via 10.1.0.1 on 52-54-00-00-00-01 dns [10.0.0.53 10.0.0.54] mtu 0]"},
		{line: "ip=10.0.0.5::10.0.0.1:24::eth0:none:9000", want: "[10.0.0.5/24 via 10.0.0.1 on eth0 dns [] mtu 9000]"},
		{line: "ip=[fd00::5]::[fe80::1]:64::eth0:none:[fd00::53]", want: "[fd00::5/64 via fe80::1 on eth0 dns [fd00::53] mtu 0]"},
		{line: "ip=10.0.0.5:::24 ip=[fd00::5]:::64", want: "[10.0.0.5/24 via invalid IP on  dns [] mtu 0 fd00::5/64 via invalid IP on  dns [] mtu 0]"},
		{line: "huck.vlan=100 huck.mtu=9000", want: "vlan 100 on '' mtu 9000"},
		{line: "huck.vlan=1:eth1", want: "vlan 1 on 'eth1' mtu 0"},
		{line: "vlan=eth0.0042:eth0", want: "vlan 42 on 'eth0' mtu 0"},
		{line: "vlan=vlan7:eth0", want: "vlan 7 on 'eth0' mtu 0"},
		{line: "ip=10.0.0.5", err: "want ip="},
		{line: "ip=", err: "want ip="},
		{line: "ip=10.0.0.5::10.0.0.1:::eth0:none", err: "mask"},
		{line: "ip=10.0.0.5::10.0.0.1:255.0.255.0", err: "mask"},
		{line: "ip=10.0.0.5::[fe80::1]:24", err: "gateway"},
		{line: "ip=10.0.0.5::10.0.0.5:24", err: "gateway"},
		{line: "ip=224.0.0.1:::24", err: "no address of a machine"},
		{line: "ip=[fe80::1%eth0]:::64", err: "no address of a machine"},
		{line: "ip=10.0.0.5::10.0.0.1:24::eth0:dhcp", err: "want none"},
		{line: "ip=10.0.0.5::10.0.0.1:24::eth0:none:100", err: "MTU"},
		{line: "ip=10.0.0.5::10.0.0.1:24::eth0:none:dns", err: "name server"},
		{line: "huck.vlan=4095", err: "VLAN"},
		{line: "huck.vlan=x", err: "VLAN"},
		{line: "vlan=5:eth0", err: "want vlan="},
		{line: "vlan=eth0.5", err: "want vlan="},
		{line: "huck.mtu=68", err: "MTU"},
	} {
		o, err := cmdline.Parse(tt.line)
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: error %v, want %q", tt.line, err, tt.err)
		}
		var words []string
		for _, s := range o.Network.Static {
			words = append(words, fmt.Sprintf("%v via %v on %s dns %v mtu %d", s.Addr, s.Gateway, s.Interface, s.DNS, s.MTU))
		}
		got := ""
		if words != nil {
			got = fmt.Sprint(words)
		}
		if n := o.Network; n.VLAN.ID != 0 {
			got = fmt.Sprintf("vlan %d on '%s' mtu %d", n.VLAN.ID, n.VLAN.Interface, n.MTU)
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.line, got, tt.want)
		}
	}
}

func TestMatches(t *testing.T) {
	mac, _ := net.ParseMAC("52:54:00:00:00:01")
	ifi := net.Interface{Name: "eth0", HardwareAddr: mac}
	for setting, want := range map[string]bool{"": true, "eth0": true, "52-54-00-00-00-01": true, "eth1": false, "52-54-00-00-00-02": false} {
		if cmdline.Matches(setting, ifi) != want {
			t.Errorf("%q matches: %v", setting, !want)
		}
	}
}
