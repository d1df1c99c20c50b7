package main

import (
	"fmt"
	"net"
	"path/filepath"

	"huck/bootserver/calm"
	"huck/bootserver/tftp"
	"huck/bootserver/web"
	"huck/imager/api"
	"huck/imager/intake"
)

// openImages opens the library and, knowing all parts now, the handler.
func (s *site) openImages() (err error) {
	s.library, err = openLibrary(filepath.Join(s.cmd.Data, "images"), &s.set, web.Authorize(s.nodes), s.log)
	if err != nil {
		return err
	}
	s.tasks = append(s.tasks, task{"cast", s.library.cast.Run}, task{"origin", s.library.origin.Run})
	captures := intake.New(s.library.store, s.log)
	s.tasks = append(s.tasks, task{"intake", captures.Run})
	s.web.SetHandler(web.Handler(web.Config{
		Nodes: s.nodes, Events: s.events, Files: s.files, Server: s.url, Server6: s.url6(), Append: s.cmd.Append,
		Intake: captures,
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
	return tftp.Config{Interface: s.set.ifi, IPv6: six, Port: 69, Files: s.files, Log: calm.Logger(s.log, calm.NewBucket(logBurst, logRate)),
		Served: func(peer net.IP, name string, n int64) {
			s.events.Add(api.Event{Type: api.EventServer, Step: "tftp", State: api.StepDone, Message: fmt.Sprintf("%v took %s, %d bytes", peer, name, n)})
		}}
}
