package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"huck/bootserver/boot"
	"huck/bootserver/calm"
	"huck/bootserver/dhcp"
	"huck/imager/api"
)

const (
	// A room of machines that start at once makes a thousand messages in a
	// minute; a flood makes them in a second.
	logBurst = 1000
	logRate  = 20 // a second
	// maxRivals bounds what is remembered of other servers; a forger has more
	// addresses.
	maxRivals = 64
)

// told is what DHCP tells machines and the operator, with bounds on what
// strangers can make it say.
type told struct {
	*site
	log   *slog.Logger
	notes *calm.Bucket

	mu     sync.Mutex
	rivals map[netip.Addr]time.Time // when each was last told of
}

func newTold(s *site) *told {
	return &told{site: s, log: calm.Logger(s.log, calm.NewBucket(logBurst, logRate)), notes: calm.NewBucket(logBurst, logRate), rivals: map[netip.Addr]time.Time{}}
}

func (s *site) openDHCP() error {
	if !s.set.own.Addr().Is4() {
		return nil
	}
	told := newTold(s)
	cfg := dhcp.ServerConfig{Interface: s.set.ifi, Source: s.set.own.Addr(), Answered: told.answered, Log: told.log}
	tell := dhcp.BootConfig{Server: s.set.own.Addr(), BootFile: told.bootFile, ServerURL: s.url.String()}
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
		if s.cmd.Probe {
			lease.Probe = (&dhcp.Prober{Interface: s.set.ifi, Log: told.log}).Probe
		}
		lease.Conflict, lease.Rival = told.conflict, told.rival
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
	s.tasks = append(s.tasks, task{"dhcp", server.Run}, task{"other DHCP servers", told.lookAround})
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
func (t *told) bootFile(c dhcp.Client) dhcp.Boot {
	if c.Firmware == dhcp.IPXE {
		return dhcp.Boot{File: boot.ScriptURL(t.url, c.MAC.String())}
	}
	names := boot.Loaders(uint16(c.Arch))
	name := t.files.First(names...)
	if name == "" {
		t.log.Warn("nothing to boot for this machine's firmware", "mac", c.MAC.String(), "firmware", c.Firmware.String(), "arch", c.Arch.String(), "missing", names)
		return dhcp.Boot{}
	}
	if c.Firmware == dhcp.HTTPBoot {
		name = t.url.JoinPath(boot.PathBoot, name).String()
	}
	return dhcp.Boot{File: name}
}

// answered notes what a machine was told: by us, with its lease; as a proxy,
// with its first answer.
func (t *told) answered(_, reply *dhcpv4.DHCPv4) {
	mac := reply.ClientHWAddr.String()
	switch {
	case reply.MessageType() == dhcpv4.MessageTypeAck && !reply.YourIPAddr.IsUnspecified():
		words := "has " + reply.YourIPAddr.String()
		if reply.BootFileName != "" {
			words += ", boots " + reply.BootFileName
		}
		t.note(mac, words)
	case reply.MessageType() == dhcpv4.MessageTypeOffer && t.set.mode == dhcpProxy:
		t.note(mac, "is told to boot "+reply.BootFileName)
	}
}

// note adds an event, unless there are too many.
func (t *told) note(mac, words string) {
	if ok, _ := t.notes.Take(time.Now()); ok {
		t.boot(mac, "dhcp", words)
	}
}

// conflict tells of an address that is not free.
func (t *told) conflict(a netip.Addr, user string) {
	t.log.Warn("dhcp: an address of our pool is in use by a machine that has it not from us; it is left alone for an hour", "addr", a, "user", user)
}

// rival tells of another server that leases, once in an hour.
func (t *told) rival(server netip.Addr, mac string) {
	if !t.isNews(server, time.Now()) {
		return
	}
	t.events.Add(api.Event{Type: api.EventServer, Step: "dhcp", State: api.StepFailed, Message: fmt.Sprintf("another DHCP server, %v, leases addresses on %s", server, t.set.ifi.Name)})
	t.log.Error("ANOTHER DHCP SERVER LEASES ADDRESSES ON THIS NETWORK: machines get theirs from whichever answers first. End one of the two, or use --dhcp proxy here",
		"server", server, "interface", t.set.ifi.Name, "mac", mac)
}

// isNews reports whether a rival was not told of within the hour.
func (t *told) isNews(server netip.Addr, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.rivals, func(_ netip.Addr, last time.Time) bool { return now.Sub(last) > time.Hour })
	if _, ok := t.rivals[server]; ok || len(t.rivals) >= maxRivals {
		return false
	}
	t.rivals[server] = now
	return true
}

// lookAround looks for other servers at the start and every hour: as a server
// that leases, for any; as a proxy, whether there is one at all.
func (t *told) lookAround(ctx context.Context) error {
	for {
		found, err := dhcp.Servers(ctx, t.set.ifi, t.set.own.Addr())
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			t.log.Warn("dhcp: cannot look for other servers", "err", err)
		case t.set.mode == dhcpAuthoritative:
			for _, server := range found {
				t.rival(server, "")
			}
		case len(found) == 0:
			t.log.Warn("no DHCP server answers on this network: machines get no address; --dhcp authoritative would give them one", "interface", t.set.ifi.Name)
		default:
			t.log.Info("beside the network's DHCP server", "server", found)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Hour):
		}
	}
}
