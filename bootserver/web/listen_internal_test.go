package web

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"
)

// peers is a listener whose connections come from given addresses, then none.
type peers struct {
	net.Listener
	from []string
}

type conn struct {
	net.Conn
	from   *net.TCPAddr
	closed bool
}

func (c *conn) RemoteAddr() net.Addr { return c.from }
func (c *conn) Close() error         { c.closed = true; return nil }

func (p *peers) Accept() (net.Conn, error) {
	if len(p.from) == 0 {
		return nil, net.ErrClosed
	}
	ap := netip.AddrPortFrom(netip.MustParseAddr(p.from[0]), 1)
	p.from = p.from[1:]
	return &conn{from: net.TCPAddrFromAddrPort(ap)}, nil
}

func TestConnectionLimits(t *testing.T) {
	p := &peers{}
	l := &limited{Listener: p, log: slog.New(slog.DiscardHandler), peers: map[netip.Addr]int{}}
	var first net.Conn
	for i := range maxConnsPerPeer {
		p.from = []string{"192.0.2.1"}
		c, err := l.Accept()
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if first == nil {
			first = c
		}
	}
	p.from = []string{"192.0.2.1", "192.0.2.2"}
	if c, err := l.Accept(); err != nil || c.RemoteAddr().String() != "192.0.2.2:1" {
		t.Fatalf("beside a peer that is full: %v, %v", c, err)
	}
	first.Close()
	first.Close() // leaves once
	p.from = []string{"192.0.2.1", "192.0.2.1"}
	if _, err := l.Accept(); err != nil {
		t.Errorf("after one has left: %v", err)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("one more than the limit")
	}
	for range 2 * maxConnsPerPeer {
		p.from = []string{"127.0.0.1"}
		if _, err := l.Accept(); err != nil {
			t.Fatalf("this host is limited: %v", err)
		}
	}
	l.all = maxConns
	p.from = []string{"127.0.0.1"}
	if _, err := l.Accept(); err == nil {
		t.Error("more connections than the limit of all")
	}
}
