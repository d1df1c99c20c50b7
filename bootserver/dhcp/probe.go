package dhcp

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	// probeWait is how long an address on our own link is looked for: many
	// times what a machine needs to answer an ARP request, and little beside
	// the 4 s after which a ROM asks again. Two requests go out in it.
	probeWait = 400 * time.Millisecond
	// pingWait is the same beyond a router.
	pingWait = time.Second
)

// Prober finds out who uses an address: by ARP on its interface's link (RFC
// 5227 section 2.1.1, much hurried), by ICMP echo beyond (RFC 2131 section
// 3.1). What hides from these is not found; clients look themselves, too.
type Prober struct {
	Interface *net.Interface
	Log       *slog.Logger
}

// Probe is for Config.Probe: it returns the MAC of who uses a, or a word where
// that cannot be known, or "".
func (p *Prober) Probe(ctx context.Context, a netip.Addr, own bool) string {
	look, wait := p.ping, pingWait
	if own {
		look, wait = p.arp, probeWait
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	user, err := look(ctx, a)
	if err != nil {
		p.Log.Warn("dhcp: cannot look whether an address is in use", "addr", a, "err", err)
	}
	return user
}

// arpFrame is an ARP probe for a, in Ethernet (RFC 826, RFC 5227): it names no
// address of ours, so that nobody learns a wrong one.
func arpFrame(from net.HardwareAddr, a netip.Addr) []byte {
	b := bytes.Repeat([]byte{0xff}, 6)
	b = append(b, from...)
	b = append(b, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1)
	b = append(b, from...)
	b = append(b, 0, 0, 0, 0) // who asks
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, a.AsSlice()...)
}

// arpUser returns the hardware address of who says in an ARP frame, request or
// reply, that a is its own; nil if the frame says nothing of the kind.
func arpUser(b []byte, a netip.Addr) net.HardwareAddr {
	const size = 14 + 28
	if len(b) < size || !bytes.Equal(b[12:20], []byte{0x08, 0x06, 0, 1, 0x08, 0, 6, 4}) || !bytes.Equal(b[28:32], a.AsSlice()) {
		return nil
	}
	return net.HardwareAddr(bytes.Clone(b[22:28]))
}

func (p *Prober) arp(ctx context.Context, a netip.Addr) (string, error) {
	if len(p.Interface.HardwareAddr) != 6 {
		return "", nil // no Ethernet, no ARP
	}
	conn, err := packet.Listen(p.Interface, packet.Raw, unix.ETH_P_ARP, nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	frame := arpFrame(p.Interface.HardwareAddr, a)
	to := &packet.Addr{HardwareAddr: frame[:6]}
	return exchange(ctx, conn, frame, to, func(b []byte, _ net.Addr) string {
		if user := arpUser(b, a); user != nil && !bytes.Equal(user, p.Interface.HardwareAddr) {
			return user.String()
		}
		return ""
	})
}

func (p *Prober) ping(ctx context.Context, a netip.Addr) (string, error) {
	conn, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	id := rand.IntN(1 << 16)
	echo := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: 1, Data: []byte("in use?")}}
	b, err := echo.Marshal(nil)
	if err != nil {
		return "", err
	}
	return exchange(ctx, conn, b, &net.IPAddr{IP: ip(a)}, func(b []byte, from net.Addr) string {
		host, ok := from.(*net.IPAddr)
		if ok && host.IP.Equal(ip(a)) && len(b) >= 8 && b[0] == byte(ipv4.ICMPTypeEchoReply) && binary.BigEndian.Uint16(b[4:]) == uint16(id) {
			return "somebody who answers a ping"
		}
		return ""
	})
}

// exchange sends a question twice until the context's deadline, and returns the
// first answer that read makes something of.
func exchange(ctx context.Context, conn net.PacketConn, question []byte, to net.Addr, read func([]byte, net.Addr) string) (string, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	end, _ := ctx.Deadline()
	buf := make([]byte, 1500)
	for _, until := range []time.Time{time.Now().Add(time.Until(end) / 2), end} {
		if _, err := conn.WriteTo(question, to); err != nil {
			return "", err
		}
		if err := conn.SetReadDeadline(until); err != nil {
			return "", err
		}
		for ctx.Err() == nil {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				break // the deadline
			}
			if user := read(buf[:n], from); user != "" {
				return user, nil
			}
		}
	}
	return "", nil
}
