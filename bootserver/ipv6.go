package main

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"huck/bootserver/boot"
	"huck/bootserver/dhcp"
	"huck/bootserver/dhcp6"
	"huck/bootserver/discovery"
	"huck/bootserver/ra"
	"huck/bootserver/tftp"
)

// url6 is the server's URL for machines that have IPv6; nil if there is none.
func (s *site) url6() *url.URL {
	if !s.set.own6.IsValid() {
		return nil
	}
	u := publicURL(s.web.Addr(), s.set.own6.Addr())
	if a, err := netip.ParseAddr(u.Hostname()); err != nil || !a.Is6() {
		return nil // HTTP is answered on an IPv4 address only
	}
	return u
}

// openDiscovery answers machines that look for a boot server on the link. A
// port that is taken is no reason not to serve: few machines need it.
func (s *site) openDiscovery() error {
	if s.set.ifi.Flags&net.FlagLoopback != 0 {
		return nil
	}
	cfg := discovery.Config{Interface: s.set.ifi, URL6: s.url6(), Log: s.log}
	if s.set.own.Addr().Is4() {
		cfg.URL4 = s.url
	}
	server, err := discovery.Listen(s.ctx, cfg)
	if err != nil {
		s.log.Warn("machines that no DHCP server tells of us will not find us", "err", err)
		return nil
	}
	s.closers = append(s.closers, server)
	s.tasks = append(s.tasks, task{"discovery", server.Run})
	return nil
}

// openIPv6 advertises, and with an IPv6 address of our own answers DHCPv6.
// Addresses are given only of a prefix that this host was configured with; one
// that it took from a router is the router's to give.
func (s *site) openIPv6() error {
	if s.set.mode != dhcpAuthoritative {
		return nil
	}
	advertised := ra.Network{DNS: s.set.dns6}
	if s.set.static6 && s.set.own6.Bits() == 64 {
		advertised.Prefix = s.set.own6
	}
	adv := ra.New(s.set.ifi, advertised, s.log)
	s.tasks = append(s.tasks, task{"ra", adv.Run})
	u := s.url6()
	if u == nil {
		return nil
	}
	r, err := dhcp6.NewResponder(dhcp6.Config{
		MAC: s.set.ifi.HardwareAddr, Server: s.set.own6.Addr(), Prefix: advertised.Prefix, Quiet: adv.Silent, DNS: s.set.dns6,
		BootURL: s.bootURL6, ServerURL: u.String(),
	})
	if err != nil {
		return err
	}
	server, err := dhcp6.Listen(s.ctx, dhcp6.ServerConfig{Interface: s.set.ifi, Responder: r, Answered: s.answered6, Log: s.log})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, server)
	s.tasks = append(s.tasks, task{"dhcp6", server.Run})
	files, err := tftp.Listen(s.ctx, s.tftpConfig(true))
	if err != nil {
		return err
	}
	s.closers = append(s.closers, files)
	s.tasks = append(s.tasks, task{"tftp6", files.Run})
	return nil
}

// bootURL6 is what a machine's firmware is told to load over IPv6.
func (s *site) bootURL6(c dhcp.Client) string {
	u := s.url6()
	if c.Firmware == dhcp.IPXE {
		return boot.ScriptURL(u, c.MAC.String())
	}
	names := boot.Loaders(uint16(c.Arch))
	name := s.files.First(names...)
	switch {
	case name == "":
		s.log.Warn("nothing to boot for this machine's firmware", "mac", c.MAC.String(), "firmware", c.Firmware.String(), "arch", c.Arch.String(), "missing", names)
		return ""
	case c.Firmware == dhcp.HTTPBoot:
		return u.JoinPath(boot.PathBoot, name).String()
	}
	return (&url.URL{Scheme: "tftp", Host: "[" + s.set.own6.Addr().String() + "]", Path: "/" + name}).String()
}

// answered6 notes what a machine was told.
func (s *site) answered6(req, reply *dhcpv6.Message, from netip.Addr) {
	if reply.MessageType != dhcpv6.MessageTypeReply {
		return
	}
	words := "asked DHCPv6"
	if ia := reply.Options.OneIANA(); ia != nil && ia.Options.OneAddress() != nil {
		words = fmt.Sprintf("has %v", ia.Options.OneAddress().IPv6Addr)
	}
	if file := reply.Options.BootFileURL(); file != "" {
		words += ", boots " + file
	}
	s.boot(dhcp6.Identify(req, from).MAC.String(), "dhcp6", words)
}
