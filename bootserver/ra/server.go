package ra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
)

// addressPoll is how often we look whether the interface has its link-local
// address: it is tentative for 1 to 2 s after the link came up (RFC 4862).
const addressPoll = time.Second

// Server advertises on one interface.
type Server struct {
	ifi    *net.Interface
	net    Network
	log    *slog.Logger
	silent atomic.Bool
}

// New returns a server for an interface. A nil log discards.
func New(ifi *net.Interface, n Network, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{ifi: ifi, net: n, log: log.With("interface", ifi.Name)}
}

// Silent tells whether another router was heard.
func (s *Server) Silent() bool { return s.silent.Load() }

// Run advertises until ctx ends or another router is heard, and returns nil.
// Trouble is logged and tried again, never returned: nobody depends on an
// advertisement, they only spare a wait.
func (s *Server) Run(ctx context.Context) error {
	told := false
	for ctx.Err() == nil {
		foreign, err := s.session(ctx)
		if foreign.IsValid() {
			s.silent.Store(true)
			s.log.Warn("ra: another IPv6 router is here; no more advertisements from us", "router", foreign)
			return nil
		}
		if err != nil && ctx.Err() == nil && !told {
			s.log.Info("ra: cannot advertise yet; old iPXE will wait 13 s", "err", err)
			told = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(addressPoll):
		}
	}
	return nil
}

// session listens and advertises until another router is heard, ctx ends or
// the socket fails.
func (s *Server) session(ctx context.Context) (foreign netip.Addr, err error) {
	conn, _, err := ndp.Listen(s.ifi, ndp.LinkLocal)
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := prepare(conn); err != nil {
		return netip.Addr{}, err
	}
	s.log.Debug("ra: listening for routers")
	a := NewAdvertiser(time.Now())
	for {
		next, ok := a.Next()
		if !ok {
			return a.Foreign, nil
		}
		if err := conn.SetReadDeadline(next); err != nil {
			return netip.Addr{}, err
		}
		m, cm, from, err := conn.ReadFrom()
		var to netip.Addr
		switch now := time.Now(); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if a.Tick(now) {
				to = allNodes()
			}
		case errors.Is(err, net.ErrClosed) || ctx.Err() != nil:
			return netip.Addr{}, nil
		case err != nil:
			return netip.Addr{}, fmt.Errorf("ra: read: %w", err)
		case cm != nil: // the kernel gives it, as we asked for it
			to = a.Receive(m, from.WithZone(""), cm.HopLimit, now)
		}
		if !to.IsValid() {
			continue
		}
		if err := conn.WriteTo(advertisement(s.ifi.HardwareAddr, s.net), nil, to); err != nil {
			// A solicitor that cannot be reached, or the link is down.
			s.log.Debug("ra: send", "addr", to, "err", err)
		}
	}
}

// prepare makes conn hear solicitations and advertisements, and asks for the
// latter.
func prepare(conn *ndp.Conn) error {
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
	if err := errors.Join(
		conn.SetICMPFilter(&filter),
		conn.SetControlMessage(ipv6.FlagHopLimit, true),
		conn.JoinGroup(allRouters()),
		conn.JoinGroup(allNodes()),
	); err != nil {
		return err
	}
	return conn.WriteTo(&ndp.RouterSolicitation{}, nil, allRouters())
}
