package cast_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"huck/imager/api"
	"huck/imager/cast"
	"huck/imager/cast/casttest"
)

// lanNS is a bridge in a network namespace and hosts in others on it; host 0
// is the sender.
type lanNS struct {
	t     *testing.T
	sw    string
	names []string
}

func newLAN(t *testing.T, hosts int) *lanNS {
	t.Helper()
	_, err := exec.LookPath("ip")
	if os.Getuid() != 0 || err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal("needs root and iproute2")
		}
		t.Skip("needs root and iproute2")
	}
	l := &lanNS{t: t}
	prefix := fmt.Sprintf("huckcast%d-%d-", os.Getpid(), rand.IntN(10000))
	add := func(name string) string {
		ns := prefix + name
		l.ip("netns", "add", ns)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
		// No duplicate address detection: addresses work at once.
		l.ip("netns", "exec", ns, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
		l.ip("-n", ns, "link", "set", "lo", "up")
		return ns
	}
	l.sw = add("sw")
	l.ip("-n", l.sw, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	l.ip("-n", l.sw, "link", "set", "br0", "up")
	for i := range hosts {
		l.names = append(l.names, add(fmt.Sprint(i)))
		l.plug(i)
	}
	return l
}

// plug connects a host to the switch by a new interface with its old
// addresses.
func (l *lanNS) plug(host int) {
	ns, port := l.names[host], fmt.Sprintf("p%d", host)
	l.ip("-n", l.sw, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", ns)
	l.ip("-n", l.sw, "link", "set", port, "master", "br0", "up")
	l.ip("-n", ns, "link", "set", "eth0", "address", fmt.Sprintf("02:00:00:09:00:%02x", host+1))
	l.ip("-n", ns, "addr", "add", fmt.Sprintf("10.9.0.%d/24", host+1), "dev", "eth0")
	l.ip("-n", ns, "link", "set", "eth0", "up")
	l.ip("-n", ns, "addr", "add", fmt.Sprintf("fe80::9:%d/64", host+1), "dev", "eth0", "nodad")
}

func (l *lanNS) ip(args ...string) {
	l.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		l.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// in runs f on a thread in the namespace of a host. The thread is not used
// for anything else afterwards.
func (l *lanNS) in(host int, f func(eth0 *net.Interface) error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		result <- func() error {
			fd, err := unix.Open("/var/run/netns/"+l.names[host], unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return err
			}
			ifi, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			return f(ifi)
		}()
	}()
	return <-result
}

// serve opens a server with one channel on host 0, until ctx ends.
func (l *lanNS) serve(ctx context.Context, wait *sync.WaitGroup, addr, group string, src cast.Source, rate int64) *cast.Channel {
	l.t.Helper()
	var ch *cast.Channel
	err := l.in(0, func(eth0 *net.Interface) error {
		s, err := cast.Listen(cast.ServerConfig{Interface: eth0, Addr: netip.MustParseAddrPort(addr)})
		if err != nil {
			return err
		}
		if ch, err = s.Open(netip.MustParseAddrPort(group), src, rate); err != nil {
			return err
		}
		wait.Go(func() {
			if err := s.Run(ctx); err != nil {
				l.t.Errorf("server: %v", err)
			}
		})
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return ch
}

func TestRealNetwork(t *testing.T) {
	l := newLAN(t, 3)
	for _, c := range []struct{ name, addr, sender, group string }{
		{"IPv4", "0.0.0.0:0", "10.9.0.1", "239.9.9.9:9100"},
		{"IPv6 link-local", "[fe80::9:1]:0", "fe80::9:1", "[ff02::4242]:9101"},
		{"IPv6 site-local", "[::]:0", "fe80::9:1", "[ff15::4242]:9102"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			var wait sync.WaitGroup
			defer wait.Wait()
			defer cancel()
			img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 103, 1000, 256<<10)
			img.MapParts = 3
			ch := l.serve(ctx, &wait, c.addr, c.group, img, 400e6)
			info := ch.Info()
			info.Sender = netip.AddrPortFrom(netip.MustParseAddr(c.sender), info.Sender.Port())
			start := time.Now()
			var receivers sync.WaitGroup
			for host := 1; host <= 2; host++ {
				receivers.Go(func() {
					chunkMap := casttest.NewSink(img, func(n uint32) bool { return n >= 100 })
					sink := casttest.NewSink(img, func(n uint32) bool { return n < 100 })
					err := l.in(host, func(eth0 *net.Interface) error {
						st, err := receive(ctx, cast.ReceiverConfig{Channel: info, Interface: eth0}, cast.Feed{Sink: chunkMap}, cast.Feed{Sink: sink})
						t.Logf("host %d after %v: %+v", host, time.Since(start), st)
						return err
					})
					if left := sink.Left() + chunkMap.Left(); err != nil || left > 0 || sink.Wrong+chunkMap.Wrong > 0 {
						t.Errorf("host %d: %v, %d left, %d wrong", host, err, left, sink.Wrong+chunkMap.Wrong)
					}
				})
			}
			receivers.Wait()
			st := ch.Stats()
			ratio := float64(st.Bytes) / float64(img.Bytes())
			t.Logf("ratio %.3f: %+v", ratio, st)
			if ratio > 1.3 { // a busy machine may lose some
				t.Errorf("sent %.3f times the image", ratio)
			}
			if st.Members != 2 {
				t.Errorf("%d receivers counted, want 2", st.Members)
			}
		})
	}
}

// TestRealRestart: the server dies without a word and comes back with another
// port and session; the receiver goes on.
func TestRealRestart(t *testing.T) {
	l := newLAN(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 60, 1000, 256<<10)
	first, kill := context.WithCancel(ctx)
	ch := l.serve(first, &wait, "10.9.0.1:0", "239.9.9.10:9100", img, 20e6)
	var mu sync.Mutex
	info := ch.Info()
	refresh := func(context.Context) (api.Channel, error) {
		mu.Lock()
		defer mu.Unlock()
		return info, nil
	}
	sink := casttest.NewSink(img, nil)
	done := make(chan error, 1)
	go func() {
		done <- l.in(1, func(eth0 *net.Interface) error {
			st, err := receive(ctx, cast.ReceiverConfig{Channel: ch.Info(), Refresh: refresh}, cast.Feed{Sink: sink})
			t.Logf("%+v", st)
			return err
		})
	}()
	for sink.Left() > img.Chunks()/2 {
		select {
		case err := <-done:
			t.Fatalf("receive ended: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	kill()
	mu.Lock()
	second := l.serve(ctx, &wait, "10.9.0.1:0", "239.9.9.11:9105", img, 200e6)
	info = second.Info()
	mu.Unlock()
	if err := <-done; err != nil || sink.Left() > 0 {
		t.Fatalf("%v, %d left", err, sink.Left())
	}
	if sent := second.Stats().Bytes; sent > uint64(img.Bytes())*7/10 {
		t.Errorf("the second server sent %d bytes of an image of %d, half of which was there", sent, img.Bytes())
	}
}

// TestRealNoMulticast: requests arrive nowhere.
func TestRealNoMulticast(t *testing.T) {
	l := newLAN(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 1, 1000, 2000)
	ch := api.Channel{
		Group:  netip.MustParseAddrPort("239.9.9.9:9100"),
		Sender: netip.MustParseAddrPort("10.9.0.1:9"),
		Secret: make([]byte, 32), SymbolSize: 1408,
	}
	start := time.Now()
	err := l.in(1, func(eth0 *net.Interface) error {
		_, err := receive(ctx, cast.ReceiverConfig{Channel: ch}, cast.Feed{Sink: casttest.NewSink(img, nil)})
		return err
	})
	if !errors.Is(err, cast.ErrNoMulticast) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v to tell", d)
	}
}

// TestRealFailures: a chunk the store cannot give is told; the sink's own
// error ends Feed; ctx ends it.
func TestRealFailures(t *testing.T) {
	l := newLAN(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 20, 1000, 256<<10)
	img.Broken[11] = true
	ch := l.serve(ctx, &wait, "10.9.0.1:0", "239.9.9.12:9100", img, 200e6)
	receive := func(ctx context.Context, sink cast.Sink, failed func(uint32, error)) error {
		return l.in(1, func(*net.Interface) error {
			_, err := receive(ctx, cast.ReceiverConfig{Channel: ch.Info()}, cast.Feed{Sink: sink, Failed: failed})
			return err
		})
	}
	if err := receive(ctx, casttest.NewSink(img, nil), nil); !errors.Is(err, cast.ErrUnavailable) {
		t.Errorf("nobody to tell: %v", err)
	}
	told := make(chan uint32, 10)
	sink := casttest.NewSink(img, nil)
	err := receive(ctx, sink, func(n uint32, err error) {
		if !errors.Is(err, cast.ErrUnavailable) {
			t.Errorf("chunk %d: %v", n, err)
		}
		told <- n
		go sink.Deliver(ctx, n, img.Encoded[n], "http")
	})
	if err != nil || len(told) != 1 || <-told != 11 {
		t.Errorf("with another way for chunk 11: %v", err)
	}
	broken := brokenSink{casttest.NewSink(img, nil)}
	if err := receive(ctx, broken, func(uint32, error) {}); !errors.Is(err, errDiskFull) {
		t.Errorf("sink that fails: %v", err)
	}
	ended, end := context.WithTimeout(ctx, 50*time.Millisecond)
	defer end()
	if err := receive(ended, waitingSink{casttest.NewSink(img, nil)}, func(uint32, error) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ctx that ends: %v", err)
	}
}

var errDiskFull = errors.New("disk full")

type brokenSink struct{ *casttest.Sink }

func (brokenSink) Deliver(context.Context, uint32, []byte, string) error { return errDiskFull }

type waitingSink struct{ *casttest.Sink }

func (waitingSink) Deliver(ctx context.Context, _ uint32, _ []byte, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestRealTotalRate: two channels stay below the server's rate together.
func TestRealTotalRate(t *testing.T) {
	l := newLAN(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 10, 256<<10, 256<<10)
	const rate = 40e6
	var infos []api.Channel
	done := make(chan error, 1)
	err := l.in(0, func(eth0 *net.Interface) error {
		s, err := cast.Listen(cast.ServerConfig{Interface: eth0, Addr: netip.MustParseAddrPort("10.9.0.1:0"), Rate: rate})
		if err != nil {
			return err
		}
		for _, group := range []string{"239.9.9.13:9100", "239.9.9.14:9100"} {
			ch, err := s.Open(netip.MustParseAddrPort(group), img, 0)
			if err != nil {
				return err
			}
			infos = append(infos, ch.Info())
		}
		go func() { done <- s.Run(ctx) }()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	var receivers sync.WaitGroup
	for _, info := range infos {
		receivers.Go(func() {
			err := l.in(1, func(*net.Interface) error {
				_, err := receive(ctx, cast.ReceiverConfig{Channel: info}, cast.Feed{Sink: casttest.NewSink(img, nil)})
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	receivers.Wait()
	if took, least := time.Since(start).Seconds(), 2*float64(img.Bytes())*8/rate; took < least {
		t.Errorf("took %.2f s, less than the %.2f s that the rate allows", took, least)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestLoopback needs no root: server and receivers meet on the loopback
// interface, several on one group and port. Linux has no IPv6 multicast there.
func TestLoopback(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	s, err := cast.Listen(cast.ServerConfig{Interface: lo, Addr: netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		t.Fatal(err)
	}
	wait.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 30, 1000, 256<<10)
	group := netip.AddrPortFrom(netip.MustParseAddr("239.77.1.1"), s.Addr().Port()) // a port of our own
	ch, err := s.Open(group, img, 0)
	if err != nil {
		t.Fatal(err)
	}
	var receivers sync.WaitGroup
	for range 3 {
		receivers.Go(func() {
			sink := casttest.NewSink(img, nil)
			st, err := receive(ctx, cast.ReceiverConfig{Channel: ch.Info()}, cast.Feed{Sink: sink})
			if err != nil || sink.Left() > 0 || st.Chunks != 30 {
				t.Errorf("%v, %d left, %+v", err, sink.Left(), st)
			}
		})
	}
	receivers.Wait()
}

func TestListenRefuses(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	for name, cfg := range map[string]cast.ServerConfig{
		"no interface":  {},
		"symbol size":   {Interface: lo, SymbolSize: 100},
		"address taken": {Interface: lo, Addr: netip.MustParseAddrPort("192.0.2.1:1")},
	} {
		if _, err := cast.Listen(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	s, err := cast.Listen(cast.ServerConfig{Interface: lo, Addr: netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		t.Fatal(err)
	}
	img := casttest.NewImage(rand.New(rand.NewPCG(3, 3)), 1, 1, 1)
	for name, group := range map[string]string{
		"unicast":        "10.0.0.1:9000",
		"no port":        "239.0.0.1:0",
		"another family": "[ff15::1]:9000",
	} {
		if _, err := s.Open(netip.MustParseAddrPort(group), img, 0); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	c, err := s.Open(netip.MustParseAddrPort("239.0.0.1:9000"), img, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
	if _, err := s.Open(netip.MustParseAddrPort("239.0.0.1:9000"), img, 0); err == nil {
		t.Error("a closed server opens a channel")
	}
}
