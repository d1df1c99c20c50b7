package casttest

import (
	"cmp"
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"huck/imager/api"
	"huck/imager/cast"
	"huck/imager/image"
)

// Sender runs a cast.Sender.
type Sender struct {
	*cast.Sender
	// Channel is what the API tells of it.
	Channel api.Channel
	// ReadTime is how long reading a chunk takes; 0 is 1 ms.
	ReadTime time.Duration

	image *Image
	net   *Network
	timer time.Time
	dead  bool
}

func (n *Network) newSender(m *Image, cfg cast.SenderConfig) (*Sender, error) {
	secret := make([]byte, 32)
	for i := range secret {
		secret[i] = byte(n.rnd.Uint32())
	}
	if cfg.Channel.SymbolSize == 0 {
		cfg.Channel.SymbolSize = 1408
	}
	if !cfg.Channel.Group.IsValid() {
		cfg.Channel.Group = netip.MustParseAddrPort("239.1.1.1:9000")
	}
	cfg.Channel.Sender = netip.MustParseAddrPort("10.0.0.1:9000")
	cfg.Channel.Session, cfg.Channel.Epoch, cfg.Channel.Secret = n.rnd.Uint32(), n.rnd.Uint32(), secret
	cfg.Chunks, cfg.Parts = m.Chunks(), m.Parts()
	s, err := cast.NewSender(cfg)
	if err != nil {
		return nil, err
	}
	return &Sender{Sender: s, Channel: cfg.Channel, image: m, net: n}, nil
}

// senderOf returns the sender of a packet's session: each has an address of
// its own. Packets of no session go to the one that there mostly is.
func (n *Network) senderOf(packet []byte) *Sender {
	if len(packet) >= 6 {
		if s := n.session(binary.BigEndian.Uint32(packet[2:])); s != nil {
			return s
		}
	}
	return n.Sender
}

// session returns the living sender of a session, or nil.
func (n *Network) session(session uint32) *Sender {
	if s := n.Sender; s != nil && s.Channel.Session == session {
		return s
	}
	i := slices.IndexFunc(n.Others, func(s *Sender) bool { return s.Channel.Session == session })
	if i < 0 {
		return nil
	}
	return n.Others[i]
}

// api returns the sender that the API gives out for a group, or nil.
func (n *Network) api(group netip.AddrPort) *Sender {
	if s := n.Sender; s != nil && s.Channel.Group == group {
		return s
	}
	i := slices.IndexFunc(n.Others, func(s *Sender) bool { return s.Channel.Group == group })
	if n.Sender == nil || i < 0 {
		return nil
	}
	return n.Others[i]
}

// poll does what an owner of a cast.Sender does.
func (s *Sender) poll() {
	if s.dead {
		return
	}
	for c, ok := s.Need(); ok; c, ok = s.Need() {
		s.net.After(cmp.Or(s.ReadTime, time.Millisecond), func() { s.read(c) })
	}
	blocked := s.send()
	t := s.Timer(s.net.Now)
	if !blocked.IsZero() {
		t = blocked
	}
	if t.IsZero() || t.Equal(s.timer) {
		return
	}
	s.timer = t
	s.net.At(later(t, s.net.Now), func() {
		if t.Equal(s.timer) {
			s.timer = time.Time{}
			s.poll()
		}
	})
}

// send sends what there is to send, up to what the host's queue holds. It
// returns when there is room again, zero if there is.
func (s *Sender) send() (blocked time.Time) {
	n := s.net
	n.train = n.train[:0]
	for {
		if full := n.host.free.Add(-n.Host.room()); n.Host.Rate > 0 && full.After(n.Now) {
			blocked = full.Add(n.Host.room() / 2)
			break
		}
		packet, ok := s.Next(n.Now, nil)
		if !ok {
			break
		}
		if n.Snoop != nil {
			n.Snoop(packet)
		}
		at, _ := n.host.pass(n.Host, n.Now, wireSize(packet)) // there is room
		n.train = append(n.train, sent{packet, at})
	}
	n.multicast(s.Channel.Group, n.train)
	return blocked
}

func (s *Sender) read(c uint32) {
	if s.dead {
		return
	}
	b, err := s.image.Chunk(context.Background(), c)
	s.Supply(s.net.Now, c, b, image.Tag(b), err)
	s.poll()
}

// later keeps a timer that is due from stopping the time.
func later(t, now time.Time) time.Time {
	if !t.After(now) {
		return now.Add(time.Microsecond)
	}
	return t
}
