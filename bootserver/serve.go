package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"huck/bootserver/boot"
	"huck/bootserver/config"
	"huck/bootserver/dhcp"
	"huck/bootserver/events"
	"huck/bootserver/nodes"
	"huck/bootserver/state"
	"huck/bootserver/web"
	"huck/imager/api"
	"huck/imager/cast"
	"huck/imager/origin"
)

type serveCmd struct {
	Config    config.Flag `placeholder:"FILE" help:"Read settings from a TOML file: values of these flags, which win over it, and more subnets and reservations for DHCP. bootserver/reference.conf is its manual."`
	Interface string      `required:"" placeholder:"IF" help:"The network interface to serve; no other sees DHCP, TFTP or multicast."`
	Data      string      `required:"" placeholder:"DIR" help:"Where images and state are kept."`
	DHCP      string      `name:"dhcp" default:"off" placeholder:"MODE" help:"off (default); proxy: tell machines what to boot beside the network's own DHCP server; authoritative: be that server."`
	Pool      string      `placeholder:"A-B" help:"Addresses to lease; the upper half of the subnet by default."`
	Router    string      `placeholder:"ADDR" help:"The router that leases name; this host's own by default, if it is on that interface."`
	DNS       []string    `name:"dns" placeholder:"ADDR" help:"DNS servers that leases name; none by default."`
	Probe     bool        `default:"true" negatable:"" help:"Look by ARP or ping whether an address is in use before it is leased (default). --no-probe is for networks where a router answers for every address."`
	HTTP      string      `name:"http" default:":8480" placeholder:"[HOST]:PORT" help:"Where to answer HTTP (${default}); port 0 takes a free one."`
	Netboot   string      `placeholder:"DIR" help:"The folder with the appliance; by default netboot beside this program or build/out/netboot."`
	Append    string      `placeholder:"WORDS" help:"More words for the appliance's kernel command line."`
	LogLevel  string      `name:"log-level" default:"info" placeholder:"LEVEL" help:"debug, info (default), warn or error."`
	origin.CastFlags
}

// settings are the flags after checking.
type settings struct {
	ifi *net.Interface
	owned
	mode  dhcpMode
	dhcp  dhcp.Config       // without the boot files
	dns6  []netip.Addr      // what IPv6 machines are told
	cast  cast.ServerConfig // what the flags say
	level slog.Level
}

// dhcpMode is a value of --dhcp.
type dhcpMode string

const (
	dhcpOff           dhcpMode = "off"
	dhcpProxy         dhcpMode = "proxy"
	dhcpAuthoritative dhcpMode = "authoritative"
)

// Run serves until the context ends.
func (c *serveCmd) Run(a *app) (err error) {
	set, err := c.check(a.config)
	if err != nil {
		return a.config.Blame(err)
	}
	log := a.logger(set.level)
	unlock, err := openData(c.Data)
	if err != nil {
		return err
	}
	defer closing(&err, unlock)
	s := &site{cmd: c, set: set, log: log, ctx: a.ctx}
	defer closing(&err, s)
	if err := s.open(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(a.ctx)
	for _, t := range s.tasks {
		g.Go(func() error {
			if err := t.run(ctx); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			return nil
		})
	}
	s.events.Add(api.Event{Type: api.EventServer, Message: "serving at " + s.url.String()})
	g.Go(func() error { return c.ready(a, s) })
	return g.Wait()
}

// closing closes c at the end of a function; its error counts if there is no
// other.
func closing(err *error, c io.Closer) {
	if cerr := c.Close(); *err == nil {
		*err = cerr
	}
}

// ready prints the line that tells scripts where we answer.
func (c *serveCmd) ready(a *app, s *site) error {
	if !a.json {
		_, err := fmt.Fprintf(a.env.Stdout, "serving %s at %s, DHCP %s\n", c.Interface, s.url, c.DHCP)
		return err
	}
	return json.NewEncoder(a.env.Stdout).Encode(struct {
		Event     string `json:"event"`
		HTTP      string `json:"http"` // ADDR:PORT
		URL       string `json:"url"`
		Interface string `json:"interface"`
		DHCP      string `json:"dhcp"`
		Pool      string `json:"pool,omitempty"`
	}{"ready", s.url.Host, s.url.String(), c.Interface, c.DHCP, s.pool})
}

// check turns the flags into settings, or refuses them; nothing is opened.
func (c *serveCmd) check(file *config.File) (settings, error) {
	var s settings
	usage := func(err error) (settings, error) { return s, usageError{err} }
	switch s.mode = dhcpMode(c.DHCP); s.mode {
	case dhcpOff, dhcpProxy, dhcpAuthoritative:
	default:
		return usage(fmt.Errorf("--dhcp %q: want off, proxy or authoritative", c.DHCP))
	}
	if err := s.level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return usage(fmt.Errorf("--log-level %q: want debug, info, warn or error", c.LogLevel))
	}
	if err := boot.CheckAppend(c.Append); err != nil {
		return usage(err)
	}
	var err error
	if s.cast, err = c.Server(); err != nil {
		return usage(err)
	}
	if s.ifi, err = net.InterfaceByName(c.Interface); err != nil {
		return usage(fmt.Errorf("--interface %s: %w", c.Interface, err))
	}
	if s.owned, err = addresses(s.ifi); err != nil {
		return s, err
	}
	if s.mode != dhcpOff && (s.ifi.Flags&net.FlagLoopback != 0 || s.ifi.Flags&net.FlagUp == 0) {
		return usage(fmt.Errorf("--dhcp %s: interface %s is down or the loopback", s.mode, s.ifi.Name))
	}
	if s.mode == dhcpProxy && !s.own.Addr().Is4() {
		return usage(fmt.Errorf("--dhcp proxy: interface %s has no IPv4 address; beside an IPv6 router machines find this server with --dhcp off", s.ifi.Name))
	}
	if s.dns6, err = c.dns6(); err != nil {
		return usage(err)
	}
	if s.mode == dhcpAuthoritative && s.own.Addr().Is4() {
		if s.dhcp, err = c.checkDHCP(file, s.ifi, s.own); err != nil {
			return usage(err)
		}
	}
	return s, nil
}

// checkDHCP makes the configuration of a server that leases: the subnets of the
// file, with our own among them, and what flags say of our own.
func (c *serveCmd) checkDHCP(file *config.File, ifi *net.Interface, own netip.Prefix) (d dhcp.Config, err error) {
	d.Server, d.Subnets, d.Reservations = own.Addr(), slices.Clone(file.Subnets), file.Reservations
	i := slices.IndexFunc(d.Subnets, func(s dhcp.Subnet) bool { return s.Prefix.Contains(own.Addr()) })
	if i < 0 {
		sub := dhcp.Subnet{Prefix: own, Pools: []dhcp.Pool{dhcp.DefaultPool(own)}}
		if sub.Router, err = gateway(ifi, own); err != nil {
			return d, err
		}
		d.Subnets, i = append(d.Subnets, sub), len(d.Subnets)
	} else if p := d.Subnets[i].Prefix.Masked(); p != own.Masked() {
		return d, file.At(fmt.Sprintf("subnet[%d].prefix", i), fmt.Errorf("%v is not the network of interface %s, which is %v", p, ifi.Name, own.Masked()))
	}
	sub := &d.Subnets[i]
	if c.Pool != "" {
		pool, err := dhcp.ParsePool(c.Pool)
		if err != nil {
			return d, fmt.Errorf("--pool: %w", err)
		}
		sub.Pools = []dhcp.Pool{pool}
	}
	if c.Router != "" {
		if sub.Router, err = netip.ParseAddr(c.Router); err != nil {
			return d, fmt.Errorf("--router: %w", err)
		}
	}
	if len(c.DNS) > 0 {
		sub.DNS = nil
	}
	for _, text := range c.DNS {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return d, fmt.Errorf("--dns: %w", err)
		}
		if a.Is4() {
			sub.DNS = append(sub.DNS, a)
		}
	}
	return d, d.Check()
}

// dns6 are those of the DNS servers that have an IPv6 address.
func (c *serveCmd) dns6() (list []netip.Addr, err error) {
	for _, text := range c.DNS {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return nil, fmt.Errorf("--dns %q is no address, or one with a zone", text)
		}
		if a.Is6() {
			list = append(list, a)
		}
	}
	return list, nil
}

// openData makes the data folder and locks it, against a second server.
func openData(dir string) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("data folder %s is in use by another boot server (%v): %w", dir, err, errRefused), f.Close())
	}
	return f, nil
}

// task is a part of the server with a life of its own: run returns nil after
// its context ended, or the error that is to end the server.
type task struct {
	name string
	run  func(context.Context) error
}

// site is all parts of a server, opened one after the other.
type site struct {
	cmd *serveCmd
	set settings
	log *slog.Logger
	ctx context.Context // while opening

	events  *events.Log
	state   *state.Store
	nodes   *nodes.Registry
	files   boot.Folder
	library *library
	web     *web.Server
	url     *url.URL
	pool    string
	tasks   []task
	closers []io.Closer
}

// open opens everything that can fail. Whatever it opened before it failed,
// Close closes; but for the images, whose sockets only their tasks close, and
// which therefore come last.
func (s *site) open() error {
	for _, step := range []func() error{s.openState, s.openWeb, s.openDHCP, s.openIPv6, s.openTFTP, s.openDiscovery, s.openImages} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// Close closes what has no task, or whose task never ran, in reverse order.
func (s *site) Close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		if err := s.closers[i].Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *site) openState() (err error) {
	if s.events, err = events.Open(s.cmd.Data, 0, s.log); err != nil {
		return err
	}
	s.closers = append(s.closers, s.events)
	if s.state, err = state.Open(s.ctx, filepath.Join(s.cmd.Data, "state"), s.log); err != nil {
		return err
	}
	s.closers = append(s.closers, s.state)
	s.tasks = append(s.tasks, task{"state", s.state.Run})
	s.nodes, err = nodes.Open(s.ctx, s.state, s.events.Add)
	return err
}

// openWeb opens the HTTP port, which everything else wants to know.
func (s *site) openWeb() (err error) {
	if s.web, err = web.Listen(s.ctx, s.cmd.HTTP, http.NotFoundHandler(), s.log); err != nil {
		return err
	}
	s.closers = append(s.closers, s.web)
	s.tasks = append(s.tasks, task{"web", s.web.Run})
	s.url = publicURL(s.web.Addr(), s.set.own.Addr())
	if s.set.mode != dhcpOff && s.web.Addr().Addr().IsLoopback() {
		s.log.Warn("HTTP is answered on the loopback only; the machines that boot from here cannot reach it", "http", s.web.Addr())
	}
	s.files = boot.Folder(findNetboot(s.cmd.Netboot))
	if missing := s.files.Missing(boot.Kernel, boot.Initramfs); len(missing) > 0 {
		s.log.Warn("the appliance cannot be booted from here: files are missing", "dir", string(s.files), "files", missing)
	}
	return nil
}
