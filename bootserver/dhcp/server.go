package dhcp

import (
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
	"golang.org/x/sys/unix"
)

// maxMessage is more than any request: an Ethernet frame's worth, and room for
// jumbo frames to be told from it.
const maxMessage = 4096

// ServerConfig is what a Server needs.
type ServerConfig struct {
	// Interface is the only one served.
	Interface *net.Interface
	// Responder makes the answers.
	Responder *Responder
	// Answered, if set, is called after each reply that was sent; it must not
	// block.
	Answered func(req, reply *dhcpv4.DHCPv4)
	// Log may be nil.
	Log *slog.Logger
}

// Server owns the socket on port 67 of one interface.
type Server struct {
	cfg  ServerConfig
	conn *ipv4.PacketConn
	sock net.PacketConn
}

// Listen opens the socket; Run serves it.
func Listen(ctx context.Context, cfg ServerConfig) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, cfg.Interface.Name),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
		})
		return errors.Join(ctlErr, err)
	}}
	sock, err := lc.ListenPacket(ctx, "udp4", fmt.Sprintf(":%d", dhcpv4.ServerPort))
	if err != nil {
		return nil, fmt.Errorf("dhcp: listen on %s: %w", cfg.Interface.Name, err)
	}
	return &Server{cfg, ipv4.NewPacketConn(sock), sock}, nil
}

// Run answers requests until ctx ends, then closes the socket and returns nil.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.sock.Close() })
	defer stop()
	defer s.sock.Close()
	buf := make([]byte, maxMessage)
	for {
		n, _, _, err := s.conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("dhcp: read on %s: %v", s.cfg.Interface.Name, err)
		}
		s.serve(ctx, buf[:n])
	}
}

// serve answers one datagram. One at a time: what is slow is the disk, and a
// client that gets no answer asks again.
func (s *Server) serve(ctx context.Context, b []byte) {
	req, err := dhcpv4.FromBytes(b)
	if err != nil {
		s.cfg.Log.Debug("dhcp: unreadable message", "bytes", len(b), "err", err)
		return
	}
	log := s.cfg.Log.With("mac", req.ClientHWAddr.String())
	reply, err := s.cfg.Responder.Handle(ctx, req, time.Now())
	switch {
	case errors.Is(err, ErrIgnored):
		log.Debug("dhcp: no answer", "err", err)
	case err != nil:
		log.Warn("dhcp: no answer", "err", err)
	}
	if err != nil || reply == nil {
		return
	}
	to := Destination(req, reply)
	// Source and interface by packet: the socket is not bound to our address,
	// else it would get no broadcasts.
	cm := &ipv4.ControlMessage{Src: ip(s.cfg.Responder.cfg.Server), IfIndex: s.cfg.Interface.Index}
	if _, err := s.conn.WriteTo(reply.ToBytes(), cm, net.UDPAddrFromAddrPort(to)); err != nil {
		log.Warn("dhcp: send", "addr", to, "err", err)
		return
	}
	a, _ := netip.AddrFromSlice(reply.YourIPAddr.To4())
	log.Info("dhcp: answered", "type", reply.MessageType(), "addr", a, "file", reply.BootFileName)
	if s.cfg.Answered != nil {
		s.cfg.Answered(req, reply)
	}
}

// Close closes a server that never ran.
func (s *Server) Close() error { return s.sock.Close() }
