package personalise

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"huck/imager/personal"
)

const systemdNetwork = "/etc/systemd/network"

// network writes the network's configuration for what the system has.
func (a *applier) network(p *personal.Personality) error {
	n := p.Network
	if n == nil {
		return nil
	}
	renderer := n.Renderer
	if renderer == "" || renderer == "auto" {
		if renderer = a.renderer(); renderer == "" {
			return errors.New("the installed system has none of netplan, NetworkManager, systemd-networkd and ifupdown enabled; name a \"renderer\"")
		}
	}
	write := map[string]func([]personal.Interface) []file{
		"netplan": netplan, "networkmanager": networkManager, "networkd": networkd, "ifupdown": ifupdown,
	}[renderer]
	if write == nil {
		return fmt.Errorf("network: unknown renderer %q", renderer)
	}
	files := links(n.Interfaces)
	for _, i := range n.Interfaces {
		if renderer == "ifupdown" && i.Name == "" {
			return fmt.Errorf("network: ifupdown needs a name for %s", i.MAC)
		}
	}
	for _, f := range append(files, write(n.Interfaces)...) {
		if err := a.write(f); err != nil {
			return err
		}
	}
	a.say("network of %d interfaces for %s", len(n.Interfaces), renderer)
	return nil
}

// renderer finds what the system configures its network with.
func (a *applier) renderer() string {
	const wants = "etc/systemd/system/multi-user.target.wants/"
	for _, c := range []struct {
		name  string
		files []string // one of them will do
	}{
		{"netplan", []string{"usr/sbin/netplan"}},
		{"networkmanager", []string{wants + "NetworkManager.service"}},
		{"networkd", []string{wants + "systemd-networkd.service", "etc/systemd/system/dbus-org.freedesktop.network1.service"}},
		{"ifupdown", []string{"usr/sbin/ifup", "sbin/ifup"}},
	} {
		for _, f := range c.files {
			// The links of enabled units need not lead anywhere here.
			if _, err := a.FS.Root.Lstat(f); err == nil {
				return c.name
			}
			if _, err := fs.Stat(a.FS, f); err == nil {
				return c.name
			}
		}
	}
	return ""
}

// configured tells whether there is more to an interface than its name.
func configured(i personal.Interface) bool {
	return i.DHCP4 || i.DHCP6 || len(i.Addresses) > 0
}

// text is a configuration in the making.
type text struct{ strings.Builder }

func (t *text) line(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }

// links names interfaces (systemd.link(5)).
func links(list []personal.Interface) []file {
	var files []file
	for k, i := range list {
		if i.Name == "" {
			continue
		}
		var t text
		t.line("[Match]\nMACAddress=%s\n\n[Link]\nName=%s", i.MAC, i.Name)
		if i.MTU != 0 {
			t.line("MTUBytes=%d", i.MTU)
		}
		files = append(files, file{path: fmt.Sprintf("%s/05-huck-%d.link", systemdNetwork, k+1), content: t.String(), mode: 0o644})
	}
	return files
}

// networkd writes systemd.network(5).
func networkd(list []personal.Interface) []file {
	var files []file
	for k, i := range list {
		if !configured(i) {
			continue
		}
		var t text
		t.line("[Match]\nMACAddress=%s", i.MAC)
		if i.MTU != 0 {
			t.line("\n[Link]\nMTUBytes=%d", i.MTU)
		}
		t.line("\n[Network]\nDHCP=%s", map[[2]bool]string{{true, true}: "yes", {true, false}: "ipv4", {false, true}: "ipv6", {}: "no"}[[2]bool{i.DHCP4, i.DHCP6}])
		for _, a := range i.Addresses {
			t.line("Address=%s", a)
		}
		for _, g := range i.Gateways {
			t.line("Gateway=%s", g)
		}
		for _, d := range i.DNS {
			t.line("DNS=%s", d)
		}
		if len(i.Search) > 0 {
			t.line("Domains=%s", strings.Join(i.Search, " "))
		}
		files = append(files, file{path: fmt.Sprintf("%s/05-huck-%d.network", systemdNetwork, k+1), content: t.String(), mode: 0o644})
	}
	return files
}

// ifupdown writes interfaces(5).
func ifupdown(list []personal.Interface) []file {
	var t text
	t.line("auto lo\niface lo inet loopback")
	for _, i := range list {
		if !configured(i) {
			continue
		}
		t.line("\nauto %s", i.Name)
		for _, is4 := range []bool{true, false} {
			t.family(i, is4)
		}
	}
	return []file{{path: "/etc/network/interfaces", content: t.String(), mode: 0o644}}
}

func (t *text) family(i personal.Interface, is4 bool) {
	family, dhcp := "inet", i.DHCP4
	if !is4 {
		family, dhcp = "inet6", i.DHCP6
	}
	first := true
	if dhcp {
		t.line("iface %s %s dhcp", i.Name, family)
		t.common(i)
		first = false
	}
	for _, a := range i.Addresses {
		if isFour(a) != is4 {
			continue
		}
		t.line("iface %s %s static\n  address %s", i.Name, family, a)
		for _, g := range i.Gateways {
			if first && isFour(g) == is4 {
				t.line("  gateway %s", g)
			}
		}
		if first {
			t.common(i)
		}
		first = false
	}
}

func (t *text) common(i personal.Interface) {
	if i.MTU != 0 {
		t.line("  mtu %d", i.MTU)
	}
	if len(i.DNS) > 0 {
		t.line("  dns-nameservers %s", strings.Join(i.DNS, " "))
	}
	if len(i.Search) > 0 {
		t.line("  dns-search %s", strings.Join(i.Search, " "))
	}
}

// isFour tells whether an address or prefix is IPv4.
func isFour(s string) bool {
	a, _, _ := strings.Cut(s, "/")
	ip, err := netip.ParseAddr(a)
	return err == nil && ip.Unmap().Is4()
}

// networkManager writes its keyfiles (nm-settings-keyfile(5)), which nobody but
// root may read, or it ignores them.
func networkManager(list []personal.Interface) []file {
	var files []file
	for k, i := range list {
		if !configured(i) {
			continue
		}
		var t text
		t.line("[connection]\nid=huck-%d\ntype=ethernet\nautoconnect-priority=100", k+1)
		t.line("\n[ethernet]\nmac-address=%s", i.MAC)
		if i.MTU != 0 {
			t.line("mtu=%d", i.MTU)
		}
		t.keyfile(i, "ipv4", true, i.DHCP4, "disabled")
		t.keyfile(i, "ipv6", false, i.DHCP6, "link-local")
		files = append(files, file{path: fmt.Sprintf("/etc/NetworkManager/system-connections/huck-%d.nmconnection", k+1), content: t.String(), mode: 0o600})
	}
	return files
}

func (t *text) keyfile(i personal.Interface, section string, is4, dhcp bool, none string) {
	of := func(list []string) (own []string) {
		for _, s := range list {
			if isFour(s) == is4 {
				own = append(own, s)
			}
		}
		return own
	}
	addresses, method := of(i.Addresses), none
	switch {
	case dhcp:
		method = "auto"
	case len(addresses) > 0:
		method = "manual"
	}
	t.line("\n[%s]\nmethod=%s", section, method)
	for n, a := range addresses {
		t.line("address%d=%s", n+1, a)
	}
	if method == none {
		return
	}
	for _, g := range of(i.Gateways) {
		t.line("gateway=%s", g)
	}
	if dns := of(i.DNS); len(dns) > 0 {
		t.line("dns=%s;", strings.Join(dns, ";"))
	}
	if len(i.Search) > 0 {
		t.line("dns-search=%s;", strings.Join(i.Search, ";"))
	}
}

// netplan writes netplan(5). Its YAML is written by hand: all that is put into
// it has been checked and needs no quotes beyond these.
func netplan(list []personal.Interface) []file {
	var t text
	t.line("network:\n  version: 2\n  ethernets:")
	for k, i := range list {
		t.line("    huck%d:\n      match: {macaddress: %q}", k+1, i.MAC)
		if i.Name != "" {
			t.line("      set-name: %q", i.Name)
		}
		if i.MTU != 0 {
			t.line("      mtu: %d", i.MTU)
		}
		t.line("      dhcp4: %v\n      dhcp6: %v", i.DHCP4, i.DHCP6)
		if len(i.Addresses) > 0 {
			t.line("      addresses: [%s]", quoted(i.Addresses))
		}
		if len(i.Gateways) > 0 {
			t.line("      routes:")
		}
		for _, g := range i.Gateways {
			t.line("        - {to: %q, via: %q}", map[bool]string{true: "0.0.0.0/0", false: "::/0"}[isFour(g)], g)
		}
		if len(i.DNS)+len(i.Search) > 0 {
			t.line("      nameservers: {addresses: [%s], search: [%s]}", quoted(i.DNS), quoted(i.Search))
		}
	}
	return []file{{path: "/etc/netplan/90-huck.yaml", content: t.String(), mode: 0o600}}
}

func quoted(list []string) string {
	q := make([]string, len(list))
	for i, s := range list {
		q[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(q, ", ")
}
