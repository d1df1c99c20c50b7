package cast

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"huck/imager/api"
	"huck/imager/cast/protocol"
)

// Server owns the request socket that any number of channels share.
type Server struct {
	cfg   ServerConfig
	conn  *conn       // requests come to it
	out   *sendSocket // groups are sent to over it
	total limiter

	mu       sync.Mutex
	channels map[uint32]*Channel // by session
	closed   bool
	stats    ServerStats

	// What only Run knows.
	gate    floodgate
	flooded time.Time // when the last log line about a flood was written
}

// Listen opens the request socket. It is closed when Run returns.
func Listen(cfg ServerConfig) (*Server, error) {
	if cfg.Interface == nil {
		return nil, errors.New("cast: listen: no interface to send multicast over")
	}
	if !cfg.Addr.Addr().IsValid() {
		cfg.Addr = netip.AddrPortFrom(netip.IPv4Unspecified(), cfg.Addr.Port())
	}
	cfg.Addr = withZone(netip.AddrPortFrom(cfg.Addr.Addr().Unmap(), cfg.Addr.Port()), cfg.Interface)
	if cfg.TTL == 0 {
		cfg.TTL = 1
	}
	if cfg.DSCP < 0 || cfg.DSCP > 63 {
		return nil, fmt.Errorf("cast: listen: DSCP %d outside 0 to 63", cfg.DSCP)
	}
	if cfg.SymbolSize == 0 {
		cfg.SymbolSize = symbolSize(&cfg)
	}
	if cfg.SymbolSize < 1024 || cfg.SymbolSize > protocol.MaxPacket-protocol.DataSize {
		return nil, fmt.Errorf("cast: listen: symbol size %d outside 1024 to %d", cfg.SymbolSize, protocol.MaxPacket-protocol.DataSize)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c, err := listenRequests(&cfg)
	if err != nil {
		return nil, err
	}
	out, err := openSend(&cfg)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("cast: send multicast over %s: %v", cfg.Interface.Name, err)
	}
	return &Server{
		cfg: cfg, conn: c, out: out, total: limiter{rate: float64(cfg.Rate) / 8}, channels: make(map[uint32]*Channel), gate: newFloodgate(),
	}, nil
}

// symbolSize is the payload that fits the interface's MTU with IPv6 and our
// headers; with jumbo frames, as much as fits with the headers there are.
func symbolSize(cfg *ServerConfig) int {
	mtu := cfg.Interface.MTU
	if cfg.Jumbo {
		return min(mtu-headerBytes(cfg.Addr), protocol.MaxPacket) - protocol.DataSize
	}
	if mtu >= 1500 {
		return 1408
	}
	return 1152 // for the least MTU of IPv6, 1280 (RFC 8200 section 5)
}

// Addr returns the address that requests go to.
func (s *Server) Addr() netip.AddrPort {
	a := s.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// Run receives requests for all channels until ctx ends, then closes the
// channels that are open and the socket, and returns nil. It is called once.
func (s *Server) Run(ctx context.Context) error {
	defer s.shutdown()
	stop := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	ms := newRequests(receiveBatch, requestSize)
	for {
		n, err := s.conn.readBatch(ms)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if transient(err) {
				continue
			}
			return fmt.Errorf("cast: receive requests: %v", err)
		}
		now := time.Now()
		for i := range n {
			s.dispatch(now, source(&ms[i]), ms[i].Buffers[0][:ms[i].N])
		}
	}
}

// dispatch hands a packet to the channel of its session.
func (s *Server) dispatch(now time.Time, from netip.AddrPort, packet []byte) {
	if !s.gate.admit(now, from.Addr()) {
		s.flood(now, from)
		return
	}
	h, _, err := protocol.ParseHeader(packet)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.channels[h.Session]
	if err != nil || c == nil {
		s.stats.Rejected++
		return
	}
	select {
	case c.inbox <- append([]byte(nil), packet...):
	default: // more than the channel can look at: a lost request is asked again
		s.stats.Rejected++
	}
}

// flood notes a packet too many from an address.
func (s *Server) flood(now time.Time, from netip.AddrPort) {
	s.mu.Lock()
	s.stats.Flooded++
	n := s.stats.Flooded
	s.mu.Unlock()
	if now.Sub(s.flooded) > complainGap {
		s.flooded = now
		s.cfg.Log.Warn("too many requests from one address, dropping what is over", "peer", from.Addr(), "limit", floodRate, "dropped", n)
	}
}

// ServerStats counts packets that came to the request socket in vain.
type ServerStats struct {
	// Rejected packets were malformed, of no channel, or more than a channel
	// could look at; Flooded ones were over what one address may send.
	Rejected, Flooded uint64
}

// Stats returns the counters.
func (s *Server) Stats() ServerStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Sending is the sum of the present rates, in bits a second of IP packets, of
// the channels that have something to send.
func (s *Server) Sending() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum int64
	for _, c := range s.channels {
		if st := c.Stats(); st.Queued > 0 {
			sum += st.Rate
		}
	}
	if s.cfg.Rate > 0 {
		sum = min(sum, s.cfg.Rate)
	}
	return sum
}

// renew looks the interface up again: one that was taken out and put back has
// another number.
func (s *Server) renew() {
	name := s.cfg.Interface.Name
	index, err := s.out.interfaceIndex(name)
	if err == nil {
		err = s.out.setMulticast(index, s.cfg.TTL, s.cfg.DSCP)
	}
	if err != nil {
		s.cfg.Log.Debug("look up interface for multicast", "interface", name, "err", err)
	}
}

func (s *Server) shutdown() {
	s.mu.Lock()
	s.closed = true
	var open []*Channel
	for _, c := range s.channels {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
	s.conn.Close()
	s.out.Close()
}

// Open adds a channel that sends src's chunks to group, at no more than rate
// bits a second of IP packets; 0 is no cap. The channel is a new
// session with a secret of its own. It serves until Close or until Run ends.
func (s *Server) Open(group netip.AddrPort, src Source, rate int64) (*Channel, error) {
	group = netip.AddrPortFrom(group.Addr().Unmap().WithZone(""), group.Port())
	if !group.Addr().IsMulticast() || group.Port() == 0 {
		return nil, fmt.Errorf("cast: open channel: %v is no multicast group and port", group)
	}
	if group.Addr().Is4() != s.cfg.Addr.Addr().Is4() {
		return nil, fmt.Errorf("cast: open channel: group %v and request address %v are of different families", group, s.Addr())
	}
	ch, err := s.session(group)
	if err != nil {
		return nil, err
	}
	m, err := NewSender(SenderConfig{
		Channel: ch, Chunks: src.Chunks(), Parts: src.Parts(), Rate: atMost(rate, s.cfg.Rate), Polite: s.cfg.Polite, Floor: s.cfg.Floor, Gather: s.cfg.Gather,
	})
	if err != nil {
		return nil, err
	}
	c := newChannel(s, ch, m, src)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("cast: open channel: the server is closed")
	}
	if s.channels[ch.Session] != nil {
		return nil, fmt.Errorf("cast: open channel: session %#x exists", ch.Session)
	}
	s.channels[ch.Session] = c
	c.start()
	return c, nil
}

// atMost returns the lower of two caps, of which 0 is none.
func atMost(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// session draws a new session.
func (s *Server) session(group netip.AddrPort) (api.Channel, error) {
	b := make([]byte, 8+protocol.SecretSize)
	if _, err := rand.Read(b); err != nil {
		return api.Channel{}, fmt.Errorf("cast: open channel: %v", err)
	}
	return api.Channel{
		Group:      group,
		Sender:     s.Addr(),
		Session:    binary.BigEndian.Uint32(b),
		Epoch:      binary.BigEndian.Uint32(b[4:]),
		Secret:     b[8:],
		SymbolSize: s.cfg.SymbolSize,
	}, nil
}

// limiter is the token bucket of all channels together.
type limiter struct {
	rate float64 // bytes a second; 0 is none

	mu    sync.Mutex
	until time.Time // when what was taken is paid for
}

// take takes n bytes and returns how long to wait before sending them.
func (l *limiter) take(now time.Time, n int) time.Duration {
	if l.rate == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if earliest := now.Add(-burstTime); l.until.Before(earliest) {
		l.until = earliest
	}
	wait := l.until.Sub(now)
	l.until = l.until.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	return max(wait, 0)
}
