package dhcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/ipv4"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// BootServerPort is where firmware asks a proxyDHCP server or a PXE boot server
// once it has an address (PXE 2.1 section 2.2.3).
const BootServerPort = 4011

// maxMessage is more than any request: an Ethernet frame's worth, and room for
// jumbo frames to be told from it.
const maxMessage = 4096

// maxAtOnce bounds the requests that are being answered at once. Most take no
// time; one that needs a look whether an address is free takes half a second.
const maxAtOnce = 128

// Handler makes the answer to a request that came at now. An error that wraps
// ErrIgnored is no failure: the protocol wants silence.
type Handler func(ctx context.Context, req *dhcpv4.DHCPv4, now time.Time) (*dhcpv4.DHCPv4, error)

// ServerConfig is what a Server needs. Handlers are called by several goroutines
// at once.
type ServerConfig struct {
	// Interface is the only one served.
	Interface *net.Interface
	// Source is our address on it.
	Source netip.Addr
	// Handler answers on port 67; BootServer, if set, on port 4011.
	Handler, BootServer Handler
	// Answered, if set, is called after each reply that was sent, by several
	// goroutines; it must not block.
	Answered func(req, reply *dhcpv4.DHCPv4)
	// Log may be nil.
	Log *slog.Logger
}

// Server owns the sockets of one interface.
type Server struct {
	cfg   ServerConfig
	ports []*port
}

// port is one of the sockets.
type port struct {
	*Server
	conn   *ipv4.PacketConn
	sock   net.PacketConn
	handle Handler
	// direct is true where answers go back to where the request came from.
	direct bool
}

// Listen opens the sockets; Run serves them.
func Listen(ctx context.Context, cfg ServerConfig) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg}
	for number, handle := range map[int]Handler{dhcpv4.ServerPort: cfg.Handler, BootServerPort: cfg.BootServer} {
		if handle == nil {
			continue
		}
		sock, err := listen(ctx, cfg.Interface.Name, number)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.ports = append(s.ports, &port{s, ipv4.NewPacketConn(sock), sock, handle, number == BootServerPort})
	}
	return s, nil
}

func listen(ctx context.Context, ifname string, number int) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, ifname),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
		})
		return errors.Join(ctlErr, err)
	}}
	sock, err := lc.ListenPacket(ctx, "udp4", fmt.Sprintf(":%d", number))
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("dhcp: another program on this host answers DHCP on %s (UDP port %d); end it, or bind it to other interfaces (see `ss -lunp`): %w", ifname, number, err)
	}
	if err != nil {
		return nil, fmt.Errorf("dhcp: listen on %s: %w", ifname, err)
	}
	return sock, nil
}

// Run answers requests until ctx ends, then closes the sockets and returns nil.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	for _, p := range s.ports {
		g.Go(func() error { return p.run(ctx) })
	}
	return g.Wait()
}

func (p *port) run(ctx context.Context) error {
	var answering errgroup.Group
	answering.SetLimit(maxAtOnce)
	defer answering.Wait()
	buf := make([]byte, maxMessage)
	for {
		n, _, from, err := p.conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("dhcp: read on %s: %v", p.cfg.Interface.Name, err)
		}
		b := bytes.Clone(buf[:n])
		if !answering.TryGo(func() error { p.serve(ctx, b, from); return nil }) {
			p.cfg.Log.Warn("dhcp: too many requests at once; the client will ask again", "peer", from)
		}
	}
}

// serve answers one datagram.
func (p *port) serve(ctx context.Context, b []byte, from net.Addr) {
	req, err := dhcpv4.FromBytes(b)
	if err != nil {
		p.cfg.Log.Debug("dhcp: unreadable message", "peer", from, "bytes", len(b), "err", err)
		return
	}
	log := p.cfg.Log.With("mac", req.ClientHWAddr.String())
	reply, err := p.handle(ctx, req, time.Now())
	switch {
	case errors.Is(err, ErrIgnored):
		log.Debug("dhcp: no answer", "err", err)
	case err != nil:
		log.Warn("dhcp: no answer", "err", err)
	}
	if err != nil || reply == nil {
		return
	}
	to := from
	if !p.direct {
		to = net.UDPAddrFromAddrPort(Destination(req, reply))
	}
	// Source and interface by packet: the socket is not bound to our address,
	// else it would get no broadcasts.
	cm := &ipv4.ControlMessage{Src: ip(p.cfg.Source), IfIndex: p.cfg.Interface.Index}
	if _, err := p.conn.WriteTo(reply.ToBytes(), cm, to); err != nil {
		log.Warn("dhcp: send", "addr", to, "err", err)
		return
	}
	a, _ := netip.AddrFromSlice(reply.YourIPAddr.To4())
	log.Info("dhcp: answered", "type", reply.MessageType(), "addr", a, "file", reply.BootFileName)
	if p.cfg.Answered != nil {
		p.cfg.Answered(req, reply)
	}
}

// Close closes the sockets; Run does so itself.
func (s *Server) Close() error {
	var errs []error
	for _, p := range s.ports {
		errs = append(errs, p.sock.Close())
	}
	return errors.Join(errs...)
}
