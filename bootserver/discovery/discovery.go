// Package discovery answers appliances that were told no boot server and ask
// their link for one. The messages are imager/api's; BOOTING.md tells them.
//
// An answer is no longer than its question, goes to the asker only, and there
// are at most maxAnswers a second: forged questions gain nobody anything.
package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"huck/imager/api"
)

// maxAnswers is how many questions are answered in a second, each family on
// its own: a thousand machines that start at once ask twice a second and have
// three seconds each time, and 200 answers of 60 bytes are nothing.
const maxAnswers = 200

// Config is what a Server needs.
type Config struct {
	// Interface is the only one served.
	Interface *net.Interface
	// URL4 is the answer over IPv4, URL6 over IPv6; nil answers nothing there.
	URL4, URL6 *url.URL
	// Log may be nil.
	Log *slog.Logger
}

// Server owns the sockets.
type Server struct {
	cfg     Config
	sockets []socket
}

type socket struct {
	net.PacketConn
	url *url.URL
}

// Listen opens the sockets; Run serves them.
func Listen(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg}
	for _, family := range []struct {
		kind  string
		url   *url.URL
		group netip.AddrPort
	}{{"udp4", cfg.URL4, api.DiscoveryGroup4()}, {"udp6", cfg.URL6, api.DiscoveryGroup6()}} {
		if family.url == nil {
			continue
		}
		conn, err := listen(ctx, cfg.Interface, family.kind, family.group)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("discovery: listen on %s: %w", cfg.Interface.Name, err), s.Close())
		}
		s.sockets = append(s.sockets, socket{conn, family.url})
	}
	return s, nil
}

func listen(ctx context.Context, ifi *net.Interface, kind string, group netip.AddrPort) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), ifi.Name) }), err)
	}}
	conn, err := lc.ListenPacket(ctx, kind, fmt.Sprintf(":%d", group.Port()))
	if err != nil {
		return nil, err
	}
	to := net.UDPAddrFromAddrPort(group)
	if kind == "udp4" {
		err = ipv4.NewPacketConn(conn).JoinGroup(ifi, to)
	} else {
		err = ipv6.NewPacketConn(conn).JoinGroup(ifi, to)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Run answers until ctx ends, then closes the sockets and returns nil.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	var wg sync.WaitGroup
	errs := make([]error, len(s.sockets))
	for i, c := range s.sockets {
		wg.Go(func() {
			if errs[i] = s.answer(c); errs[i] != nil {
				s.Close() // the others end, too
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("discovery: read on %s: %w", s.cfg.Interface.Name, errors.Join(errs...))
}

// answer serves one socket until it is closed.
func (s *Server) answer(c socket) error {
	limit := limiter{}
	buf := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		nonce, err := api.ParseDiscoveryQuestion(buf[:n])
		if err != nil || !limit.allow(time.Now()) {
			continue
		}
		b, err := api.AppendDiscoveryAnswer(nil, nonce, c.url)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(b, from); err != nil {
			s.cfg.Log.Debug("discovery: send", "peer", from, "err", err)
			continue
		}
		s.cfg.Log.Info("discovery: answered", "peer", from.(*net.UDPAddr).AddrPort().Addr())
	}
}

// limiter allows maxAnswers in each second.
type limiter struct {
	second time.Time
	n      int
}

func (l *limiter) allow(now time.Time) bool {
	if now.Sub(l.second) >= time.Second {
		l.second, l.n = now, 0
	}
	l.n++
	return l.n <= maxAnswers
}

// Close closes the sockets.
func (s *Server) Close() error {
	var errs []error
	for _, c := range s.sockets {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
