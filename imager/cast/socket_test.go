package cast

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// burstOf returns a burst of packets of these sizes, each of random bytes, and
// the packets.
func burstOf(to netip.AddrPort, sizes ...int) (*burst, [][]byte) {
	b := newBurst(to)
	rnd := rand.NewChaCha8([32]byte{1})
	var packets [][]byte
	for _, n := range sizes {
		p := make([]byte, n)
		rnd.Read(p)
		packets = append(packets, p)
		b.add(append(b.buf, p...))
	}
	return b, packets
}

// sizesOf repeats a size.
func sizesOf(n, size int) []int { return slices.Repeat([]int{size}, n) }

func TestArrange(t *testing.T) {
	const most = maxMessage
	for _, c := range []struct {
		name    string
		sizes   []int
		longest int
		want    []int // packets in each message
	}{
		{"none", nil, most, nil},
		{"one", []int{500}, most, []int{1}},
		{"no segments", sizesOf(5, 100), 0, []int{1, 1, 1, 1, 1}},
		{"shorter packet ends a message", []int{100, 100, 60, 60, 60, 100}, most, []int{3, 2, 1}},
		{"longer packet begins one", []int{100, 200, 200}, most, []int{1, 2}},
		{"kernel's number", sizesOf(100, 100), most, []int{64, 36}},
		{"kernel's length", sizesOf(90, 1442), most, []int{45, 45}},
		{"jumbo", sizesOf(14, 8972), most, []int{7, 7}},
		{"pace", sizesOf(7, 1000), 3500, []int{3, 3, 1}},
		{"packet longer than the pace", sizesOf(2, 1000), 600, []int{1, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, packets := burstOf(netip.AddrPort{}, c.sizes...)
			var got []int
			for _, m := range b.ms[:b.arrange(c.longest)] {
				told := control{size: m.size}
				n := 0
				for p := range told.packets(m.packets) {
					if !bytes.Equal(p, packets[n]) {
						t.Fatalf("packet %d of message %d differs", n, len(got))
					}
					n++
				}
				packets = packets[n:]
				got = append(got, n)
			}
			if !slices.Equal(got, c.want) || len(packets) > 0 {
				t.Errorf("messages of %v packets, want %v", got, c.want)
			}
		})
	}
}

// loopback returns a socket that sends and one that has joined a group on the
// loopback interface, and a burst to the group.
func loopback(t testing.TB, sizes ...int) (out *sendSocket, in *groupSocket, b *burst, packets [][]byte) {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	out, err = openSend(&ServerConfig{Interface: lo, Addr: netip.MustParseAddrPort("127.0.0.1:0"), TTL: 1, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	from, err := unix.Getsockname(out.fd)
	if err != nil {
		t.Fatal(err)
	}
	group := netip.AddrPortFrom(netip.MustParseAddr("239.77.2.2"), uint16(from.(*unix.SockaddrInet4).Port))
	in, err = joinGroup(group, lo, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	b, packets = burstOf(group, sizes...)
	return out, in, b, packets
}

// receive reads n packets and returns them and how many messages they came in.
func receive(t testing.TB, in *groupSocket, n int) (packets [][]byte, messages int) {
	t.Helper()
	ms := newInbound(receiveBatch)
	for len(packets) < n {
		in.await(10 * time.Second)
		got, err := in.readBatch(ms)
		if got == 0 {
			t.Fatalf("after %d of %d packets: %v", len(packets), n, err)
		}
		for i := range got {
			message, told := ms[i].message()
			for p := range told.packets(message) {
				packets = append(packets, bytes.Clone(p))
			}
		}
		if age := time.Since(in.stamp()); age < 0 || age > time.Minute {
			t.Errorf("the kernel says that a packet came %v ago", age)
		}
		messages += got
	}
	return packets, messages
}

// mixed is what a sender sends: whole chunks, each with a shorter last symbol,
// announcements between them, parity.
var mixed = slices.Concat(sizesOf(30, 1442), []int{1400, 84}, sizesOf(40, 1442), []int{84, 300, 300, 200, 1442, 1442})

// TestSegments: the same packets arrive, in order, whether the kernel cuts
// messages up and puts them together or not.
func TestSegments(t *testing.T) {
	for _, c := range []struct {
		name     string
		segments bool
		rate     int64
	}{
		{"plain", false, 10e9},
		{"fast", true, 10e9},
		{"paced", true, 100e6},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, in, b, packets := loopback(t, mixed...)
			if !out.segments.Load() {
				t.Fatal("this kernel has no UDP_SEGMENT")
			}
			out.segments.Store(c.segments)
			if refused, err := out.send(b, c.rate); refused > 0 || err != nil {
				t.Fatalf("%d refused: %v", refused, err)
			}
			got, messages := receive(t, in, len(packets))
			if !slices.EqualFunc(got, packets, bytes.Equal) {
				t.Error("what arrived is not what was sent")
			}
			if together := messages < len(packets)/2; together != c.segments {
				t.Errorf("%d packets came in %d messages", len(packets), messages)
			}
			if out.segments.Load() != c.segments {
				t.Error("the socket changed its mind")
			}
		})
	}
}

// BenchmarkSockets sends and receives a burst of full packets over the loopback
// interface, with and without segments.
func BenchmarkSockets(b *testing.B) {
	for name, segments := range map[string]bool{"plain": false, "segments": true} {
		b.Run(name, func(b *testing.B) {
			out, in, burst, packets := loopback(b, sizesOf(90, 1442)...)
			out.segments.Store(segments)
			b.SetBytes(int64(len(burst.buf)))
			b.ReportAllocs()
			ms := newInbound(receiveBatch)
			for b.Loop() {
				if refused, err := out.send(burst, 100e9); refused > 0 || err != nil {
					b.Fatalf("%d refused: %v", refused, err)
				}
				for left := len(packets); left > 0; {
					n, err := in.readBatch(ms)
					if err != nil {
						b.Fatal(err)
					}
					for i := range n {
						message, told := ms[i].message()
						for range told.packets(message) {
							left--
						}
					}
				}
			}
		})
	}
}

// TestSegmentsRefused: a kernel that will not segment costs no packet, and is
// not tried again.
func TestSegmentsRefused(t *testing.T) {
	out, in, b, packets := loopback(t, mixed...)
	// Without checksums there are no segments (udp(7)).
	if err := unix.SetsockoptInt(out.fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1); err != nil {
		t.Fatal(err)
	}
	if refused, err := out.send(b, 10e9); refused > 0 || err != nil {
		t.Fatalf("%d refused: %v", refused, err)
	}
	if got, _ := receive(t, in, len(packets)); !slices.EqualFunc(got, packets, bytes.Equal) {
		t.Error("what arrived is not what was sent")
	}
	if out.segments.Load() {
		t.Error("it would be tried again")
	}
}

// TestSendRefused: where single packets are refused, too, segments are not
// the reason.
func TestSendRefused(t *testing.T) {
	out, _, b, packets := loopback(t, mixed...)
	b.to = netip.AddrPortFrom(b.to.Addr(), 0) // no port
	b.nameLen = putSockaddr(&b.name, b.to)
	refused, err := out.send(b, 10e9)
	if refused != len(packets) || !transient(err) || !out.segments.Load() {
		t.Errorf("%d of %d packets refused: %v; segments %v", refused, len(packets), err, out.segments.Load())
	}
}

func TestControlGarbage(t *testing.T) {
	rnd := rand.NewChaCha8([32]byte{2})
	for range 10000 {
		b := make([]byte, rnd.Uint64()%controlSize)
		rnd.Read(b)
		if len(b) > 8 {
			clear(b[1:8]) // a length that may be right
		}
		parseControl(b)
	}
}

func TestArrival(t *testing.T) {
	now := time.Now()
	last := now.Add(-50 * time.Millisecond)
	for name, c := range map[string]struct{ stamp, want time.Time }{
		"untold":           {time.Time{}, now},
		"a while ago":      {now.Add(-20 * time.Millisecond).Round(0), now.Add(-20 * time.Millisecond)},
		"before the last":  {now.Add(-90 * time.Millisecond).Round(0), last},
		"clock set back":   {now.Add(time.Minute).Round(0), now},
		"clock set to now": {now.Add(-time.Hour).Round(0), now},
	} {
		if got := arrival(now, c.stamp, last); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", name, got.Sub(now), c.want.Sub(now))
		}
	}
}

// logLines collects what is logged.
type logLines struct{ bytes.Buffer }

func (l *logLines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
func (l *logLines) take() string         { defer l.Reset(); return l.String() }

func TestDrops(t *testing.T) {
	var d drops
	var lines logLines
	now := time.Now()
	note := func(after time.Duration, counter uint32, want string) {
		t.Helper()
		now = now.Add(after)
		d.note(now, counter, lines.logger())
		if got := lines.take(); (got != "") != (want != "") || !strings.Contains(got, want) {
			t.Errorf("logged %q, want %q", got, want)
		}
	}
	note(0, 0, "")
	note(time.Second, 3, "drops=3")
	note(time.Second, 10, "")
	note(dropGap, 10, "drops=7")
	note(dropGap, 10, "")
	d.last = 1<<32 - 2
	note(dropGap, 1, "drops=3")
	if d.total != 13 {
		t.Errorf("%d drops counted, want 13", d.total)
	}
}

// TestBufferOverflow: what the kernel drops since nobody reads is counted and
// told.
func TestBufferOverflow(t *testing.T) {
	out, in, b, packets := loopback(t, mixed...)
	if err := unix.SetsockoptInt(in.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096); err != nil {
		t.Fatal(err)
	}
	out.segments.Store(false)
	for range 3 {
		if _, err := out.send(b, 1e9); err != nil {
			t.Fatal(err)
		}
	}
	var lines logLines
	r := &Reception{group: in, machine: &Receiver{}, cfg: ReceiverConfig{Log: lines.logger()}}
	ms := newInbound(receiveBatch)
	for range 2 { // only what comes after a drop tells of it
		n, err := in.readBatch(ms)
		if err != nil {
			t.Fatal(err)
		}
		r.take(time.Now(), ms[:n])
		if _, err := out.send(b, 1e9); err != nil {
			t.Fatal(err)
		}
	}
	if got := lines.take(); r.drops.total < uint64(len(packets)) || !strings.Contains(got, "net.core.rmem_max") {
		t.Errorf("%d drops counted, logged %q", r.drops.total, got)
	}
}

// TestBufferCapped: a buffer that the kernel caps is told with the command
// that raises the cap.
func TestBufferCapped(t *testing.T) {
	_, in, _, _ := loopback(t)
	b, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if err != nil {
		t.Fatal(err)
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	var lines logLines
	unprivileged := receiveBuffers
	unprivileged.force = unprivileged.plain // as if SO_RCVBUFFORCE were refused
	got := setBuffer(in.fd, unprivileged, 2*limit, lines.logger())
	want := "sysctl -w net.core.rmem_max=" + strconv.Itoa(2*limit)
	if text := lines.take(); got != limit || !strings.Contains(text, want) {
		t.Errorf("size %d, limit %d; logged %q, want %q", got, limit, text, want)
	}
	if setBuffer(in.fd, unprivileged, limit, lines.logger()) != limit || lines.take() != "" {
		t.Error("warned of a buffer of the size asked for")
	}
}

func TestFloodgate(t *testing.T) {
	now := time.Now()
	g := newFloodgate()
	good, bad := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1%eth0")
	admitted := 0
	for range 10 * floodRate { // in 10 s; ten times as many from bad
		now = now.Add(time.Second / floodRate)
		for range 10 {
			if g.admit(now, bad) {
				admitted++
			}
		}
		if !g.admit(now, good) {
			t.Fatal("an address at its rate was refused")
		}
	}
	if want := floodBurst + 10*floodRate; admitted < want-1 || admitted > want+1 {
		t.Errorf("%d of %d packets admitted, want %d", admitted, 100*floodRate, want)
	}
	for i := range 3 * maxSources { // forged addresses
		var a [16]byte
		a[0], a[14], a[15] = 0xfd, byte(i>>8), byte(i)
		if !g.admit(now, netip.AddrFrom16(a)) {
			t.Fatal("a new address was refused")
		}
	}
	if len(g.until) > maxSources {
		t.Errorf("%d addresses remembered", len(g.until))
	}
}
