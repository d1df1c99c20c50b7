package dhcp6

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// maxMessage is the longest message that is read; a UDP datagram is no longer.
const maxMessage = 65535

// allServers is where clients send to (RFC 8415 section 7.1).
func allServers() netip.Addr { return netip.MustParseAddr("ff02::1:2") }

// ServerConfig is what a Server needs.
type ServerConfig struct {
	// Interface is the only one served.
	Interface *net.Interface
	// Responder makes the answers.
	Responder *Responder
	// Answered, if set, is called after each reply that was sent; it must not
	// block.
	Answered func(req, reply *dhcpv6.Message, from netip.Addr)
	// Log may be nil.
	Log *slog.Logger
}

// Server owns the socket on port 547 of one interface.
type Server struct {
	cfg  ServerConfig
	sock net.PacketConn
}

// Listen opens the socket; Run serves it.
func Listen(ctx context.Context, cfg ServerConfig) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), cfg.Interface.Name) }), err)
	}}
	sock, err := lc.ListenPacket(ctx, "udp6", fmt.Sprintf("[::]:%d", dhcpv6.DefaultServerPort))
	if err == nil {
		if err = ipv6.NewPacketConn(sock).JoinGroup(cfg.Interface, &net.UDPAddr{IP: allServers().AsSlice()}); err != nil {
			err = errors.Join(err, sock.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("dhcp6: listen on %s: %w", cfg.Interface.Name, err)
	}
	return &Server{cfg, sock}, nil
}

// Run answers until ctx ends, then closes the socket and returns nil.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.sock.Close() })
	defer stop()
	defer s.sock.Close()
	buf := make([]byte, maxMessage)
	for {
		n, from, err := s.sock.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("dhcp6: read on %s: %v", s.cfg.Interface.Name, err)
		}
		s.serve(buf[:n], from.(*net.UDPAddr))
	}
}

// serve answers one datagram, one at a time.
func (s *Server) serve(b []byte, from *net.UDPAddr) {
	peer := from.AddrPort().Addr().WithZone("")
	log := s.cfg.Log.With("peer", peer)
	msg, err := dhcpv6.FromBytes(b)
	if err != nil {
		log.Debug("dhcp6: unreadable message", "bytes", len(b), "err", err)
		return
	}
	reply, err := s.cfg.Responder.Handle(msg, peer)
	if err != nil {
		log.Debug("dhcp6: no answer", "err", err)
		return
	}
	// RFC 8415 section 18.3.10: to where the message came from.
	if _, err := s.sock.WriteTo(reply.ToBytes(), from); err != nil {
		log.Warn("dhcp6: send", "err", err)
		return
	}
	log.Info("dhcp6: answered", "type", reply.MessageType, "file", reply.Options.BootFileURL())
	if s.cfg.Answered != nil {
		s.cfg.Answered(msg.(*dhcpv6.Message), reply, peer)
	}
}

// Close closes a server that never ran.
func (s *Server) Close() error { return s.sock.Close() }
