package cast_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"huck/imager/api"
	"huck/imager/cast"
	"huck/imager/cast/casttest"
	"huck/imager/cast/protocol"
)

// logged collects what is logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// run runs a server on a host until the test ends, or until stop is called.
func (l *lanNS) run(host int, cfg cast.ServerConfig) (s *cast.Server, stop func()) {
	l.t.Helper()
	err := l.in(host, func(eth0 *net.Interface) (err error) {
		cfg.Interface = eth0
		s, err = cast.Listen(cfg)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Run(ctx); err != nil {
			l.t.Errorf("server: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	l.t.Cleanup(stop)
	return s, stop
}

func (l *lanNS) open(s *cast.Server, group string, src cast.Source, rate int64) *cast.Channel {
	l.t.Helper()
	ch, err := s.Open(netip.MustParseAddrPort(group), src, rate)
	if err != nil {
		l.t.Fatal(err)
	}
	return ch
}

// receive receives on a host and returns when it is done.
func (l *lanNS) receive(ctx context.Context, host int, cfg cast.ReceiverConfig, feed cast.Feed) (st cast.ReceiveStats, err error) {
	err = l.in(host, func(eth0 *net.Interface) error {
		cfg.Interface = eth0
		st, err = receive(ctx, cfg, feed)
		return err
	})
	return st, err
}

// receive joins a channel, feeds one sink after the other and leaves.
func receive(ctx context.Context, cfg cast.ReceiverConfig, feeds ...cast.Feed) (cast.ReceiveStats, error) {
	r, err := cast.Join(ctx, cfg)
	if err != nil {
		return cast.ReceiveStats{}, err
	}
	for _, f := range feeds {
		if err == nil {
			err = r.Feed(ctx, f)
		}
	}
	st, closing := r.Close()
	return st, errors.Join(err, closing)
}

// waitFor polls until ok.
func waitFor(ctx context.Context, t *testing.T, what string, ok func() bool) {
	t.Helper()
	for tick := time.NewTicker(5 * time.Millisecond); !ok(); {
		select {
		case <-ctx.Done():
			t.Fatalf("waiting until %s: %v", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// snoop opens a socket that sees every packet a host's eth0 receives, from
// before it returns on.
func (l *lanNS) snoop(host int) *snooper {
	l.t.Helper()
	s := &snooper{t: l.t}
	err := l.in(host, func(eth0 *net.Interface) (err error) {
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL)) // htons
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		return unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: eth0.Index})
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

type snooper struct {
	t  *testing.T
	fd int
}

// find returns the first IP packet that is as wanted.
func (s *snooper) find(what string, wanted func(ip []byte) bool) []byte {
	s.t.Helper()
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		s.t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(s.fd, buf, 0)
		if err != nil {
			s.t.Fatalf("waiting for %s: %v", what, err)
		}
		if n >= 20 && wanted(buf[:n]) {
			return buf[:n]
		}
	}
}

// TestRealReports: joining a group tells switches and routers so in the newest
// protocols, IGMPv3 (RFC 9776 section 4.2) and MLDv2 (RFC 9777 section 5.2).
func TestRealReports(t *testing.T) {
	l := newLAN(t, 2)
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 1, 1000, 2000)
	for _, c := range []struct {
		name, sender, group string
		wanted              func(ip, group []byte) bool
	}{
		{"IGMPv3", "10.9.0.1:9", "239.9.9.20:9100", func(ip, group []byte) bool {
			if ip[0]>>4 != 4 || ip[9] != unix.IPPROTO_IGMP || !net.IP(ip[16:20]).Equal(net.IPv4(224, 0, 0, 22)) {
				return false
			}
			igmp := ip[int(ip[0]&15)*4:]
			return igmp[0] == 0x22 && bytes.Contains(igmp[8:], group)
		}},
		{"MLDv2", "[fe80::9:1]:9", "[ff15::4243]:9100", func(ip, group []byte) bool {
			// The hop-by-hop header with the router alert is 8 bytes.
			return ip[0]>>4 == 6 && len(ip) > 56 && ip[6] == unix.IPPROTO_HOPOPTS && ip[40] == unix.IPPROTO_ICMPV6 &&
				net.IP(ip[24:40]).Equal(net.ParseIP("ff02::16")) && ip[48] == 143 && bytes.Contains(ip[56:], group)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sees := l.snoop(0)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			ch := api.Channel{
				Group: netip.MustParseAddrPort(c.group), Sender: netip.MustParseAddrPort(c.sender),
				Secret: make([]byte, protocol.SecretSize), SymbolSize: 1408,
			}
			go func() {
				_, err := l.receive(ctx, 1, cast.ReceiverConfig{Channel: ch}, cast.Feed{Sink: casttest.NewSink(img, nil)})
				done <- err
			}()
			sees.find("a report of "+c.group, func(ip []byte) bool { return c.wanted(ip, ch.Group.Addr().AsSlice()) })
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}

// TestRealHeader: TTL and DSCP are as configured.
func TestRealHeader(t *testing.T) {
	l := newLAN(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 3, 1000, 2000)
	for _, c := range []struct {
		addr, sender, group string
		header              func(ip []byte) (dst net.IP, class, ttl byte)
	}{
		{"0.0.0.0:0", "10.9.0.1", "239.9.9.21:9100", func(ip []byte) (net.IP, byte, byte) { return ip[16:20], ip[1], ip[8] }},
		{"[::]:0", "fe80::9:1", "[ff15::4244]:9100", func(ip []byte) (net.IP, byte, byte) {
			return ip[24:40], byte(binary.BigEndian.Uint16(ip) >> 4), ip[7]
		}},
	} {
		sees := l.snoop(1)
		s, stop := l.run(0, cast.ServerConfig{Addr: netip.MustParseAddrPort(c.addr), TTL: 7, DSCP: 10})
		info := l.open(s, c.group, img, 100e6).Info()
		info.Sender = netip.AddrPortFrom(netip.MustParseAddr(c.sender), info.Sender.Port())
		if _, err := l.receive(ctx, 1, cast.ReceiverConfig{Channel: info}, cast.Feed{Sink: casttest.NewSink(img, nil)}); err != nil {
			t.Fatal(err)
		}
		sees.find("packets of "+c.group+" with TTL 7 and DSCP 10", func(ip []byte) bool {
			if len(ip) < 40 || (ip[0]>>4 == 4) != info.Group.Addr().Is4() {
				return false
			}
			dst, class, ttl := c.header(ip)
			if !dst.Equal(info.Group.Addr().AsSlice()) || ip[0]>>4 == 4 && ip[9] != unix.IPPROTO_UDP || ip[0]>>4 == 6 && ip[6] != unix.IPPROTO_UDP {
				return false
			}
			if class != 10<<2 || ttl != 7 {
				t.Errorf("packet of %s with class %#x and TTL %d", c.group, class, ttl)
			}
			return true
		})
		stop()
	}
}

// mtu sets the MTU of some hosts and their ports.
func (l *lanNS) mtu(bytes string, hosts ...int) {
	for _, h := range hosts {
		l.ip("-n", l.names[h], "link", "set", "eth0", "mtu", bytes)
	}
}

// jumboSwitch lets the switch carry frames of 9000 bytes.
func (l *lanNS) jumboSwitch() {
	for i := range l.names {
		l.ip("-n", l.sw, "link", "set", fmt.Sprintf("p%d", i), "mtu", "9000")
	}
	l.ip("-n", l.sw, "link", "set", "br0", "mtu", "9000")
}

// replace takes a host's interface out and puts another in.
func (l *lanNS) replace(host int) {
	l.ip("-n", l.names[host], "link", "del", "eth0")
	l.plug(host)
}

// TestRealJumbo: symbols as long as the sender's MTU allows; a receiver whose
// MTU is smaller says so instead of waiting for packets that its interface
// drops.
func TestRealJumbo(t *testing.T) {
	l := newLAN(t, 3)
	l.jumboSwitch()
	l.mtu("9000", 0, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 40, 1000, region)
	for _, c := range []struct {
		addr, group string
		symbol      int
	}{
		{"10.9.0.1:0", "239.9.9.22:9100", 9000 - 20 - 8 - protocol.DataSize},
		{"[fe80::9:1]:0", "[ff15::4245]:9100", 9000 - 40 - 8 - protocol.DataSize},
	} {
		s, stop := l.run(0, cast.ServerConfig{Addr: netip.MustParseAddrPort(c.addr), Jumbo: true})
		ch := l.open(s, c.group, img, 400e6)
		if got := ch.Info().SymbolSize; got != c.symbol {
			t.Errorf("symbols of %d bytes, want %d", got, c.symbol)
		}
		sink := casttest.NewSink(img, nil)
		if _, err := l.receive(ctx, 1, cast.ReceiverConfig{Channel: ch.Info()}, cast.Feed{Sink: sink}); err != nil || sink.Left() > 0 {
			t.Errorf("%v, %d left", err, sink.Left())
		}
		_, err := l.receive(ctx, 2, cast.ReceiverConfig{Channel: ch.Info()}, cast.Feed{Sink: casttest.NewSink(img, nil)})
		if !errors.Is(err, cast.ErrNoMulticast) || !strings.Contains(err.Error(), "9000") || !strings.Contains(err.Error(), "1500") {
			t.Errorf("receiver with an MTU of 1500: %v", err)
		}
		stop()
	}
}

// TestRealShrunkMTU: an MTU that shrinks while a channel is open stops the
// kernel from cutting messages up; the packets go singly, in fragments.
func TestRealShrunkMTU(t *testing.T) {
	l := newLAN(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var lines logged
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 40, region, region)
	s, _ := l.run(0, cast.ServerConfig{Addr: netip.MustParseAddrPort("10.9.0.1:0"), Log: lines.logger()})
	ch := l.open(s, "239.9.9.23:9100", img, 100e6)
	sink := casttest.NewSink(img, nil)
	done := make(chan error, 1)
	go func() {
		_, err := l.receive(ctx, 1, cast.ReceiverConfig{Channel: ch.Info()}, cast.Feed{Sink: sink})
		done <- err
	}()
	waitFor(ctx, t, "the transfer is on", func() bool { return sink.Left() < img.Chunks() })
	l.mtu("1300", 0)
	if err := <-done; err != nil || sink.Left() > 0 || sink.Wrong > 0 {
		t.Errorf("%v, %d left, %d wrong", err, sink.Left(), sink.Wrong)
	}
	if st := ch.Stats(); st.SendErrors > 0 {
		t.Errorf("%d packets lost", st.SendErrors)
	}
	if !strings.Contains(lines.String(), "packet by packet") {
		t.Errorf("logged %q", lines.String())
	}
}

// TestRealLinkDown: links of either side that go down, or interfaces that are
// taken out and put in again, interrupt a transfer and no more.
func TestRealLinkDown(t *testing.T) {
	l := newLAN(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 80, region, region)
	s, _ := l.run(0, cast.ServerConfig{Addr: netip.MustParseAddrPort("0.0.0.0:0")})
	ch := l.open(s, "239.9.9.24:9100", img, 40e6)
	info := ch.Info()
	info.Sender = netip.AddrPortFrom(netip.MustParseAddr("10.9.0.1"), info.Sender.Port())
	sink := casttest.NewSink(img, nil)
	done := make(chan error, 1)
	go func() {
		_, err := l.receive(ctx, 1, cast.ReceiverConfig{
			Channel: info, Refresh: func(context.Context) (api.Channel, error) { return info, nil },
		}, cast.Feed{Sink: sink})
		done <- err
	}()
	arrives := func() { // more chunks, if any are left on a slow machine
		t.Helper()
		before := sink.Left()
		waitFor(ctx, t, "chunks arrive", func() bool { return sink.Left() < max(before-2, 1) })
	}
	arrives()
	l.ip("-n", l.names[0], "link", "set", "eth0", "down")
	refused := ch.Stats().SendErrors
	waitFor(ctx, t, "the sender notices", func() bool { return ch.Stats().SendErrors > refused || sink.Left() == 0 })
	l.ip("-n", l.names[0], "link", "set", "eth0", "up")
	arrives()
	l.ip("-n", l.names[1], "link", "set", "eth0", "down")
	l.ip("-n", l.names[1], "link", "set", "eth0", "up")
	arrives()
	l.replace(1)
	arrives()
	l.replace(0)
	if err := <-done; err != nil || sink.Left() > 0 || sink.Wrong > 0 {
		t.Errorf("%v, %d left, %d wrong", err, sink.Left(), sink.Wrong)
	}
}

// TestRealMoved: the sender dies and is found again at another address, with
// a new session.
func TestRealMoved(t *testing.T) {
	l := newLAN(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 60, region, region)
	s, stop := l.run(0, cast.ServerConfig{Addr: netip.MustParseAddrPort("10.9.0.1:0")})
	first := l.open(s, "239.9.9.25:9100", img, 40e6).Info()
	info := make(chan api.Channel, 1)
	sink := casttest.NewSink(img, nil)
	done := make(chan error, 1)
	go func() {
		_, err := l.receive(ctx, 1, cast.ReceiverConfig{
			Channel: first, Refresh: func(ctx context.Context) (api.Channel, error) {
				select {
				case ch := <-info:
					info <- ch
					return ch, nil
				case <-ctx.Done():
					return api.Channel{}, ctx.Err()
				}
			},
		}, cast.Feed{Sink: sink})
		done <- err
	}()
	waitFor(ctx, t, "half has come", func() bool { return sink.Left() <= img.Chunks()/2 })
	stop()
	l.ip("-n", l.names[0], "addr", "del", "10.9.0.1/24", "dev", "eth0")
	l.ip("-n", l.names[0], "addr", "add", "10.9.0.77/24", "dev", "eth0")
	s, _ = l.run(0, cast.ServerConfig{Addr: netip.MustParseAddrPort("10.9.0.77:0")})
	second := l.open(s, "239.9.9.25:9100", img, 100e6)
	info <- second.Info()
	if err := <-done; err != nil || sink.Left() > 0 {
		t.Errorf("%v, %d left", err, sink.Left())
	}
	if sent := second.Stats().Bytes; sent > uint64(img.Bytes())*7/10 {
		t.Errorf("the second sent %d bytes of an image of %d, half of which was there", sent, img.Bytes())
	}
}

// TestRealTwoSenders: two servers were given one group. Receivers of either
// are served, and told who the other is.
func TestRealTwoSenders(t *testing.T) {
	l := newLAN(t, 4)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 60, region, region)
	var lines [2]logged
	var channels [2]*cast.Channel // on hosts 0 and 2
	for i := range channels {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 0, byte(2*i + 1)}), 0)
		s, _ := l.run(2*i, cast.ServerConfig{Addr: addr})
		channels[i] = l.open(s, "239.9.9.26:9100", img, 40e6)
	}
	var receivers sync.WaitGroup
	for i, ch := range channels {
		receivers.Go(func() {
			sink := casttest.NewSink(img, nil)
			st, err := l.receive(ctx, 2*i+1, cast.ReceiverConfig{Channel: ch.Info(), Log: lines[i].logger()}, cast.Feed{Sink: sink})
			if err != nil || sink.Left() > 0 || st.Foreign == 0 {
				t.Errorf("%v, %d left, %d foreign packets", err, sink.Left(), st.Foreign)
			}
		})
	}
	receivers.Wait()
	for i, other := range []string{"10.9.0.3", "10.9.0.1"} {
		text := lines[i].String()
		if n := strings.Count(text, "another sender"); n != 1 || !strings.Contains(text, "peer="+other+":") || !strings.Contains(text, "group=239.9.9.26:9100") {
			t.Errorf("receiver %d logged %q", i, text)
		}
	}
}

// TestRealFlood: a host that floods the request socket, with packets that look
// right, is cut down to what one address may send; others are served.
func TestRealFlood(t *testing.T) {
	l := newLAN(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var lines logged
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 40, region, region)
	s, _ := l.run(0, cast.ServerConfig{Addr: netip.MustParseAddrPort("10.9.0.1:0"), Log: lines.logger()})
	ch := l.open(s, "239.9.9.27:9100", img, 100e6)
	h := protocol.Header{Type: protocol.TypeRequest, Session: ch.Info().Session, Epoch: ch.Info().Epoch, Counter: 1}
	packet, err := h.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	packet = append(packet, make([]byte, 200)...)
	var flood net.Conn
	err = l.in(2, func(*net.Interface) (err error) {
		flood, err = net.Dial("udp4", ch.Info().Sender.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var flooding sync.WaitGroup
	flooding.Go(func() {
		defer flood.Close()
		for tick := time.NewTicker(time.Millisecond); ; {
			select {
			case <-stop:
				return
			case <-tick.C:
				for range 20 {
					flood.Write(packet) // some may be refused
				}
			}
		}
	})
	start := time.Now()
	sink := casttest.NewSink(img, nil)
	if _, err := l.receive(ctx, 1, cast.ReceiverConfig{Channel: ch.Info()}, cast.Feed{Sink: sink}); err != nil || sink.Left() > 0 {
		t.Errorf("%v, %d left", err, sink.Left())
	}
	waitFor(ctx, t, "the flood is over what is allowed", func() bool { return s.Stats().Flooded > 0 })
	took := time.Since(start)
	close(stop)
	flooding.Wait()
	most := uint64(500 + 500*took.Seconds() + 500)
	if st := ch.Stats(); st.Rejected == 0 || st.Rejected > most {
		t.Errorf("the channel had to look at %d forged requests in %v, want at most %d", st.Rejected, took, most)
	}
	if !strings.Contains(lines.String(), "peer=10.9.0.3 ") {
		t.Errorf("logged %q", lines.String())
	}
}

// TestRealSending: what the server says it sends is what channels that have
// something to send may send.
func TestRealSending(t *testing.T) {
	l := newLAN(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 40, region, region)
	s, _ := l.run(0, cast.ServerConfig{Addr: netip.MustParseAddrPort("10.9.0.1:0"), Rate: 80e6})
	ch := l.open(s, "239.9.9.28:9100", img, 50e6)
	l.open(s, "239.9.9.29:9100", img, 50e6)
	if got := s.Sending(); got != 0 {
		t.Errorf("idle channels send at %d", got)
	}
	var seen []int64
	done := make(chan error, 1)
	go func() {
		_, err := l.receive(ctx, 1, cast.ReceiverConfig{Channel: ch.Info()}, cast.Feed{Sink: casttest.NewSink(img, nil)})
		done <- err
	}()
	waitFor(ctx, t, "it sends", func() bool { seen = append(seen, s.Sending()); return seen[len(seen)-1] > 0 })
	if got := slices.Max(seen); got > 50e6 {
		t.Errorf("one channel of 50 Mbit/s sends at %d", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	waitFor(ctx, t, "it is done", func() bool { return s.Sending() == 0 })
}

// TestRealNoDescriptors: a process that has run out of file descriptors goes
// on with the channels it has, and says what it cannot do.
func TestRealNoDescriptors(t *testing.T) {
	l := newLAN(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 60, region, region)
	s, _ := l.run(0, cast.ServerConfig{Addr: netip.MustParseAddrPort("10.9.0.1:0")})
	ch := l.open(s, "239.9.9.30:9100", img, 100e6)
	sink := casttest.NewSink(img, nil)
	done := make(chan error, 1)
	go func() {
		_, err := l.receive(ctx, 1, cast.ReceiverConfig{Channel: ch.Info()}, cast.Feed{Sink: sink})
		done <- err
	}()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	waitFor(ctx, t, "the transfer is on", func() bool { return sink.Left() < img.Chunks() })
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	_, listenErr := cast.Listen(cast.ServerConfig{Interface: lo})
	_, receiveErr := receive(ctx, cast.ReceiverConfig{Channel: ch.Info(), Interface: lo}, cast.Feed{Sink: sink})
	err = <-done
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err != nil || sink.Left() > 0 {
		t.Errorf("%v, %d left", err, sink.Left())
	}
	for _, err := range []error{listenErr, receiveErr} {
		if err == nil || !strings.Contains(err.Error(), unix.EMFILE.Error()) {
			t.Errorf("without descriptors: %v", err)
		}
	}
}
