// Package tftp serves the netboot folder read-only over TFTP (RFC 1350) with
// the options blksize and tsize (RFC 2348, 2349), as PXE ROMs want it.
package tftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"syscall"
	"time"

	"github.com/pin/tftp/v3"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"huck/bootserver/boot"
)

const (
	// maxTransfers bounds the sockets and goroutines that strangers can make
	// us hold. A transfer takes a second; a ROM that is refused asks again.
	maxTransfers = 256
	// A lost packet is sent again after retryAfter, retries times. Their
	// product, 3.5 s, also bounds how long a client that went away can hold
	// up a shutdown.
	retryAfter = 700 * time.Millisecond
	retries    = 4
	// headers4 is IPv4, UDP and TFTP around a block, headers6 the same with
	// IPv6; maxBlock is the largest block of RFC 2348, in bytes.
	headers4 = 20 + 8 + 4
	headers6 = 40 + 8 + 4
	maxBlock = 65464
)

// Config is what a Server needs.
type Config struct {
	// Interface is the only one served.
	Interface *net.Interface
	// IPv6 serves that and not IPv4.
	IPv6 bool
	// Port is 69 but for tests; 0 is any.
	Port  int
	Files boot.Folder
	// Served, if set, is called after each complete transfer; it must not
	// block.
	Served func(peer net.IP, name string, bytes int64)
	// Log may be nil.
	Log *slog.Logger
}

// Server is a TFTP server.
type Server struct {
	cfg  Config
	conn *net.UDPConn
	busy chan struct{}
}

// Listen opens the socket; Run serves it.
func Listen(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, cfg.Interface.Name)
		})
		return errors.Join(ctlErr, err)
	}}
	network := "udp4"
	if cfg.IPv6 {
		network = "udp6"
	}
	conn, err := lc.ListenPacket(ctx, network, fmt.Sprintf(":%d", cfg.Port))
	if err != nil {
		return nil, fmt.Errorf("tftp: listen on %s: %w", cfg.Interface.Name, err)
	}
	// Serve asks for this, too, but a request may be here before it. Without,
	// the answer may leave from another of our addresses.
	if cfg.IPv6 {
		err = ipv6.NewPacketConn(conn).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	} else {
		err = ipv4.NewPacketConn(conn).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tftp: listen on %s: %w", cfg.Interface.Name, err), conn.Close())
	}
	return &Server{cfg, conn.(*net.UDPConn), make(chan struct{}, maxTransfers)}, nil
}

// Port returns the port the server listens on.
func (s *Server) Port() int { return s.conn.LocalAddr().(*net.UDPAddr).Port }

// Close closes a server that never ran.
func (s *Server) Close() error { return s.conn.Close() }

// Run serves until ctx ends, then waits for the transfers under way to notice,
// and returns nil.
func (s *Server) Run(ctx context.Context) error {
	// Shutdown closes the socket only if Serve has seen it.
	defer s.conn.Close()
	serving, cancel := context.WithCancel(ctx)
	srv := tftp.NewServer(func(name string, to io.ReaderFrom) error { return s.read(serving, name, to) }, nil)
	srv.SetTimeout(retryAfter)
	srv.SetRetries(retries)
	srv.SetBackoff(func(int) time.Duration { return 0 })
	// By the MTU of the interface we serve: the library's own rule forgets the
	// TFTP header, and knows no MTU for a request that came before Serve.
	srv.SetBlockSizeNegotiation(false)
	headers := headers4
	if s.cfg.IPv6 {
		headers = headers6
	}
	srv.SetBlockSize(min(s.cfg.Interface.MTU-headers, maxBlock))
	stopped := make(chan struct{})
	go func() { // ends with serving; Run waits for it
		defer close(stopped)
		<-serving.Done()
		srv.Shutdown()
	}()
	err := srv.Serve(s.conn)
	cancel()
	<-stopped
	if ctx.Err() == nil {
		return fmt.Errorf("tftp: serve: %v", err)
	}
	return nil
}

var errBusy = errors.New("too many transfers, try again")

// read sends one file. Its error goes to the client as a TFTP error.
func (s *Server) read(ctx context.Context, name string, to io.ReaderFrom) error {
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	default:
		return errBusy
	}
	var peer net.IP
	if t, ok := to.(tftp.OutgoingTransfer); ok {
		addr := t.RemoteAddr()
		peer = addr.IP
	}
	log := s.cfg.Log.With("peer", peer, "file", name)
	file, _, err := s.cfg.Files.Open(name)
	if err != nil {
		log.Info("tftp: refused", "err", err)
		return errors.New("file not found")
	}
	defer file.Close()
	n, err := to.ReadFrom(&reader{ctx, file})
	if err != nil {
		// Usual for ROMs: they ask for the size, hang up, and ask again.
		log.Debug("tftp: transfer ended", "bytes", n, "err", err)
		return err
	}
	log.Info("tftp: sent", "bytes", n)
	if s.cfg.Served != nil {
		s.cfg.Served(peer, name, n)
	}
	return nil
}

// reader ends a transfer when ctx does. It seeks, which tells the library the
// transfer size.
type reader struct {
	ctx context.Context
	io.ReadSeeker
}

func (r *reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, errors.New("server shuts down")
	}
	return r.ReadSeeker.Read(p)
}
