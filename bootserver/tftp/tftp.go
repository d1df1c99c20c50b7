// Package tftp serves the netboot folder read-only over TFTP (RFC 1350) with
// the options blksize, tsize, timeout and windowsize (RFC 2347, 2348, 2349,
// 7440), as PXE ROMs and UEFI firmware want it.
//
// It is our own because no maintained Go package sends windows: with a window
// of 1, each block of 1.4 KiB costs a round trip, and firmware that asks for 4
// or 16 takes a UKI of 20 MiB in a fraction of the time. window is the sender's
// state, transfer one client's file, Server what starts and bounds them.
package tftp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"huck/bootserver/boot"
)

const (
	// maxTransfers bounds the sockets, files and goroutines that strangers can
	// make us hold. A room of machines switched on at once stays below it.
	maxTransfers = 256
	// maxPerPeer bounds those of one address; firmware has one or two.
	maxPerPeer = 8
	// A lost packet is sent again after retryAfter, then twice that and so on
	// up to 8 times, retries times in all: 27 s with the first try. Emulated
	// and busy machines stall for seconds. To who has never answered, and may
	// be the victim of a forged request, firstRetries times.
	retryAfter   = 700 * time.Millisecond
	retries      = 6
	firstRetries = 3
	// headers4 is IPv4, UDP and TFTP around a block, headers6 the same with
	// IPv6, in bytes.
	headers4 = 20 + 8 + 4
	headers6 = 40 + 8 + 4
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
	// Served, if set, is called after each complete transfer, by several
	// goroutines; it must not block.
	Served func(peer net.IP, name string, bytes int64)
	// Log may be nil.
	Log *slog.Logger
}

// Server is a TFTP server.
type Server struct {
	cfg     Config
	network string // udp4 or udp6
	sock    *net.UDPConn

	mu     sync.Mutex
	active map[netip.AddrPort]*transfer
	order  []*transfer // of active, oldest first
	wg     sync.WaitGroup
}

// Listen opens the socket; Run serves it.
func Listen(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, network: "udp4", active: map[netip.AddrPort]*transfer{}}
	if cfg.IPv6 {
		s.network = "udp6"
	}
	lc := net.ListenConfig{Control: s.bind}
	conn, err := lc.ListenPacket(ctx, s.network, fmt.Sprintf(":%d", cfg.Port))
	if err != nil {
		return nil, fmt.Errorf("tftp: listen on %s: %w", cfg.Interface.Name, err)
	}
	s.sock = conn.(*net.UDPConn)
	// An answer must leave from the address that was asked.
	if cfg.IPv6 {
		err = ipv6.NewPacketConn(conn).SetControlMessage(ipv6.FlagDst, true)
	} else {
		err = ipv4.NewPacketConn(conn).SetControlMessage(ipv4.FlagDst, true)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tftp: listen on %s: %w", cfg.Interface.Name, err), conn.Close())
	}
	return s, nil
}

// bind ties a socket to the interface.
func (s *Server) bind(_, _ string, c syscall.RawConn) error {
	var err error
	ctlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, s.cfg.Interface.Name)
	})
	return errors.Join(ctlErr, err)
}

// Port returns the port the server listens on.
func (s *Server) Port() int { return s.sock.LocalAddr().(*net.UDPAddr).Port }

// Close closes a server that never ran.
func (s *Server) Close() error { return s.sock.Close() }

// Run serves until ctx ends, then ends the transfers under way, and returns nil.
func (s *Server) Run(ctx context.Context) error {
	serving, cancel := context.WithCancelCause(ctx)
	defer s.wg.Wait()
	defer cancel(errors.New("the server shuts down"))
	stop := context.AfterFunc(ctx, func() { s.sock.Close() })
	defer stop()
	defer s.sock.Close()
	buf, control := make([]byte, maxRequest+1), make([]byte, 128)
	for {
		n, size, _, from, err := s.sock.ReadMsgUDPAddrPort(buf, control)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("tftp: read on %s: %v", s.cfg.Interface.Name, err)
		}
		s.request(serving, buf[:n], from, s.asked(control[:size]))
	}
}

// asked returns our address that a datagram was for, from what the kernel says
// beside it; invalid for a group's or everybody's.
func (s *Server) asked(control []byte) netip.Addr {
	var dst net.IP
	if s.cfg.IPv6 {
		var cm ipv6.ControlMessage
		if cm.Parse(control) == nil {
			dst = cm.Dst
		}
	} else {
		var cm ipv4.ControlMessage
		if cm.Parse(control) == nil {
			dst = cm.Dst.To4()
		}
	}
	a, ok := netip.AddrFromSlice(dst)
	if !ok || a.IsMulticast() || dst.Equal(net.IPv4bcast) {
		return netip.Addr{}
	}
	if a.IsLinkLocalUnicast() {
		a = a.WithZone(s.cfg.Interface.Name)
	}
	return a
}

// dial opens a socket of our address local for one client.
func (s *Server) dial(ctx context.Context, local netip.Addr, peer netip.AddrPort) (*net.UDPConn, error) {
	dialer := net.Dialer{Control: s.bind}
	if local.IsValid() {
		dialer.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	conn, err := dialer.DialContext(ctx, s.network, peer.String())
	if err != nil {
		return nil, fmt.Errorf("tftp: %w", err)
	}
	return conn.(*net.UDPConn), nil
}

// refusal is an error that the client is told.
type refusal struct {
	code uint16
	text string
}

func (r refusal) Error() string { return r.text }

// request starts the transfer that a datagram asks for, or refuses it.
func (s *Server) request(ctx context.Context, b []byte, peer netip.AddrPort, local netip.Addr) {
	s.mu.Lock()
	again := s.active[peer] != nil
	s.mu.Unlock()
	if again {
		return // our answer to this is on its way, or will be sent again
	}
	log := s.cfg.Log.With("peer", peer)
	r, err := ParseRequest(b)
	if err != nil {
		log.Debug("tftp: unreadable request", "bytes", len(b), "err", err)
		return // to answer what is no request would invite loops
	}
	log = log.With("file", r.Name)
	conn, err := s.dial(ctx, local, peer)
	if err != nil {
		log.Warn("tftp: cannot answer", "err", err)
		return
	}
	t, err := s.open(r, conn, peer)
	var no refusal
	if errors.As(err, &no) {
		log.Info("tftp: refused", "err", err)
		if _, err := conn.Write(appendError(nil, no.code, no.text)); err != nil {
			log.Debug("tftp: send", "err", err)
		}
	}
	if err != nil {
		conn.Close()
		return
	}
	ctx, t.cancel = context.WithCancel(ctx)
	if !s.admit(t) {
		log.Info("tftp: refused", "err", "too many transfers")
		t.close()
		return
	}
	s.wg.Go(func() { s.serve(ctx, t, log) })
}

// open opens the file of a transfer, or returns a refusal.
func (s *Server) open(r Request, conn *net.UDPConn, peer netip.AddrPort) (*transfer, error) {
	switch {
	case r.Write:
		return nil, refusal{codeDenied, "read only"}
	case r.Mode != "octet":
		return nil, refusal{codeIllegal, "mode octet only"}
	}
	file, info, err := s.cfg.Files.Open(r.Name)
	if err != nil {
		s.cfg.Log.Debug("tftp: open", "file", r.Name, "err", err)
		return nil, refusal{codeNotFound, "file not found"}
	}
	headers := headers4
	if s.cfg.IPv6 {
		headers = headers6
	}
	// By the MTU of the interface: firmware cannot put fragments together.
	largest := min(max(s.cfg.Interface.MTU-headers, defaultBlock), maxBlock)
	return &transfer{conn: conn, peer: peer, name: r.Name, file: file, size: info.Size(),
		terms: negotiate(r.Options, largest, info.Size()), begun: make(chan struct{})}, nil
}

// close frees what open opened.
func (t *transfer) close() {
	t.cancel()
	t.conn.Close()
	t.file.(*os.File).Close()
}

// admit makes room for a transfer and takes it in. Where there is no room, the
// oldest that its client has never answered gives way: of a flood of requests
// from forged addresses, that is one of these.
func (s *Server) admit(t *transfer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := 0
	var silent *transfer
	for _, o := range s.order {
		if o.peer.Addr() == t.peer.Addr() {
			same++
		}
		select {
		case <-o.begun:
		default:
			if silent == nil {
				silent = o
			}
		}
	}
	switch {
	case same >= maxPerPeer:
		return false
	case len(s.order) < maxTransfers:
	case silent == nil:
		return false
	default:
		silent.cancel()
		s.forget(silent)
	}
	s.active[t.peer] = t
	s.order = append(s.order, t)
	return true
}

// forget takes a transfer out; s.mu is held.
func (s *Server) forget(t *transfer) {
	if s.active[t.peer] == t {
		delete(s.active, t.peer)
	}
	for i, o := range s.order {
		if o == t {
			s.order = append(s.order[:i], s.order[i+1:]...)
			return
		}
	}
}

// serve runs a transfer to its end.
func (s *Server) serve(ctx context.Context, t *transfer, log *slog.Logger) {
	began := time.Now()
	n, err := t.run(ctx)
	s.mu.Lock()
	s.forget(t)
	s.mu.Unlock()
	if err != nil && !errors.Is(err, errClient) && ctx.Err() == nil {
		// So that a client that does wait knows.
		t.conn.Write(appendError(nil, codeOther, "transfer failed"))
	}
	t.close()
	switch {
	case errors.Is(err, errClient) && n == 0:
		// Usual for ROMs: they ask for the size, hang up, and ask again.
		log.Debug("tftp: transfer ended", "err", err)
	case err != nil:
		log.Info("tftp: transfer failed", "bytes", n, "of", t.size, "err", err)
	default:
		log.Info("tftp: sent", "bytes", n, "blksize", t.block, "windowsize", t.window, "seconds", time.Since(began).Seconds())
		if s.cfg.Served != nil {
			s.cfg.Served(net.IP(t.peer.Addr().AsSlice()), t.name, n)
		}
	}
}
