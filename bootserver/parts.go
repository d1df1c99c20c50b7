package main

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"huck/bootserver/boot"
	"huck/bootserver/dhcp"
	"huck/bootserver/tftp"
	"huck/bootserver/web"
	"huck/imager/api"
)

// openImages opens the library and, knowing all parts now, the handler.
func (s *site) openImages() (err error) {
	s.library, err = openLibrary(filepath.Join(s.cmd.Data, "images"), &s.set, web.Authorize(s.nodes), s.log)
	if err != nil {
		return err
	}
	s.tasks = append(s.tasks, task{"cast", s.library.cast.Run}, task{"origin", s.library.origin.Run})
	s.web.SetHandler(web.Handler(web.Config{
		Nodes: s.nodes, Events: s.events, Files: s.files, Server: s.url, Append: s.cmd.Append,
		Images: s.library.origin.Handler(), Resolve: s.library.origin.Resolve, Tags: s.library.store.Tags,
		Scripted: func(mac string) { s.boot(mac, "ipxe", "boot script sent") },
		Log:      s.log,
	}))
	return nil
}

// boot notes a step of a boot before the appliance runs.
func (s *site) boot(mac, step, message string) {
	s.events.Add(api.Event{Type: api.EventServer, Node: s.nodes.ByMAC(mac), Step: step, State: api.StepDone, Message: mac + " " + message})
}

func (s *site) openDHCP() error {
	if !s.set.own.Addr().Is4() {
		return nil
	}
	cfg := dhcp.ServerConfig{Interface: s.set.ifi, Source: s.set.own.Addr(), Answered: s.answered, Log: s.log}
	tell := dhcp.BootConfig{Server: s.set.own.Addr(), BootFile: s.bootFile, ServerURL: s.url.String()}
	switch s.set.mode {
	case dhcpOff:
		return nil
	case dhcpProxy:
		p, err := dhcp.NewProxy(tell)
		if err != nil {
			return err
		}
		cfg.Handler, cfg.BootServer = p.Handle, p.HandleBoot
	case dhcpAuthoritative:
		lease := s.set.dhcp
		lease.BootConfig = tell
		s.pool = pools(lease)
		r, err := dhcp.NewResponder(s.ctx, lease, s.state)
		if err != nil {
			return err
		}
		cfg.Handler = r.Handle
	}
	server, err := dhcp.Listen(s.ctx, cfg)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, server)
	s.tasks = append(s.tasks, task{"dhcp", server.Run})
	return nil
}

// pools is what of our own subnet is leased, as the ready line has it.
func pools(cfg dhcp.Config) string {
	var words []string
	for _, s := range cfg.Subnets {
		for _, p := range s.Pools {
			if s.Prefix.Contains(cfg.Server) {
				words = append(words, p.String())
			}
		}
	}
	return strings.Join(words, ",")
}

// bootFile is what a machine's firmware is told to load.
func (s *site) bootFile(c dhcp.Client) dhcp.Boot {
	if c.Firmware == dhcp.IPXE {
		return dhcp.Boot{File: boot.ScriptURL(s.url, c.MAC.String())}
	}
	names := boot.Loaders(uint16(c.Arch))
	name := s.files.First(names...)
	if name == "" {
		s.log.Warn("nothing to boot for this machine's firmware", "mac", c.MAC.String(), "firmware", c.Firmware.String(), "arch", c.Arch.String(), "missing", names)
		return dhcp.Boot{}
	}
	if c.Firmware == dhcp.HTTPBoot {
		name = s.url.JoinPath(boot.PathBoot, name).String()
	}
	return dhcp.Boot{File: name}
}

// answered notes what a machine was told: by us, with its lease; as a proxy,
// with its first answer.
func (s *site) answered(_, reply *dhcpv4.DHCPv4) {
	switch {
	case reply.MessageType() == dhcpv4.MessageTypeAck && !reply.YourIPAddr.IsUnspecified():
		words := "has " + reply.YourIPAddr.String()
		if reply.BootFileName != "" {
			words += ", boots " + reply.BootFileName
		}
		s.boot(reply.ClientHWAddr.String(), "dhcp", words)
	case reply.MessageType() == dhcpv4.MessageTypeOffer && s.set.mode == dhcpProxy:
		s.boot(reply.ClientHWAddr.String(), "dhcp", "is told to boot "+reply.BootFileName)
	}
}

// openTFTP is needed where our DHCP names it. Elsewhere somebody else's may,
// but then a port that is taken is no reason not to serve.
func (s *site) openTFTP() error {
	if !s.set.own.Addr().Is4() {
		return nil
	}
	server, err := tftp.Listen(s.ctx, s.tftpConfig(false))
	if err != nil && s.set.mode == dhcpOff {
		s.log.Warn("no TFTP", "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	s.closers = append(s.closers, server)
	s.tasks = append(s.tasks, task{"tftp", server.Run})
	return nil
}

func (s *site) tftpConfig(six bool) tftp.Config {
	return tftp.Config{Interface: s.set.ifi, IPv6: six, Port: 69, Files: s.files, Log: s.log,
		Served: func(peer net.IP, name string, n int64) {
			s.events.Add(api.Event{Type: api.EventServer, Step: "tftp", State: api.StepDone, Message: fmt.Sprintf("%v took %s, %d bytes", peer, name, n)})
		}}
}
