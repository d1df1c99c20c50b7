package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxConns bounds all connections, maxConnsPerPeer those of one address
	// other than this host's. An appliance has about ten.
	maxConns        = 4096
	maxConnsPerPeer = 64
	// headerTime is what a client may take for its request's header, idleTime
	// how long it may keep a connection without a request.
	headerTime = 10 * time.Second
	idleTime   = 2 * time.Minute
	// closeTime is what requests under way have left when we shut down.
	closeTime = 2 * time.Second
)

// Server is an HTTP server with its listener.
type Server struct {
	ln   net.Listener
	http *http.Server
}

// Listen opens addr, HOST:PORT with either part optional; Run serves h there.
func Listen(ctx context.Context, addr string, h http.Handler, log *slog.Logger) (*Server, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("web: listen: %w", err)
	}
	return &Server{&limited{Listener: ln, log: log, peers: map[netip.Addr]int{}}, &http.Server{
		Handler: h, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), // out of descriptors, a panic
	}}, nil
}

// Addr returns the address the server listens on.
func (s *Server) Addr() netip.AddrPort { return s.ln.Addr().(*net.TCPAddr).AddrPort() }

// SetHandler replaces the handler; only before Run.
func (s *Server) SetHandler(h http.Handler) { s.http.Handler = h }

// Run serves until ctx ends, then lets requests under way finish for a moment,
// and returns nil.
func (s *Server) Run(ctx context.Context) error {
	// Requests that wait for news end with ctx.
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		graceful, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
		defer cancel()
		err := s.http.Shutdown(graceful)
		if err != nil {
			err = s.http.Close()
		}
		stopped <- err
	})
	err := s.http.Serve(s.ln)
	if stop() {
		return errors.Join(fmt.Errorf("web: serve: %w", err), s.http.Close())
	}
	if err := <-stopped; err != nil {
		return fmt.Errorf("web: close: %w", err)
	}
	return nil
}

// Close closes a server that never ran.
func (s *Server) Close() error { return s.ln.Close() }

// limited refuses connections beyond the limits by closing them.
type limited struct {
	net.Listener
	log *slog.Logger

	mu    sync.Mutex
	all   int
	peers map[netip.Addr]int
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		if l.enter(peer) {
			return &counted{Conn: c, leave: func() { l.leave(peer) }}, nil
		}
		l.log.Warn("web: too many connections", "peer", peer)
		c.Close() // refused; whatever this says, it is gone
	}
}

func (l *limited) enter(peer netip.Addr) bool {
	own := isLocal(peer)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= maxConns || !own && l.peers[peer] >= maxConnsPerPeer {
		return false
	}
	l.all++
	l.peers[peer]++
	return true
}

func (l *limited) leave(peer netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.peers[peer]--; l.peers[peer] == 0 {
		delete(l.peers, peer)
	}
}

// counted is a connection that leaves once.
type counted struct {
	net.Conn
	once  sync.Once
	leave func()
}

// ReadFrom keeps sendfile for boot files: net/http looks for it.
func (c *counted) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// Close implements net.Conn.
func (c *counted) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}
