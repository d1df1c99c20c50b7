package tftp_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"huck/bootserver/boot"
	"huck/bootserver/nettest"
	"huck/bootserver/tftp"
)

// serve starts a server on interface srv and returns its port.
func serve(t *testing.T, dir string, served chan<- string) int {
	t.Helper()
	ifi, err := net.InterfaceByName("srv")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := tftp.Listen(ctx, tftp.Config{Interface: ifi, Files: boot.Folder(dir),
		Served: func(peer net.IP, name string, n int64) { served <- fmt.Sprintf("%v %s %d", peer, name, n) }})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		began := time.Now()
		if err := <-done; err != nil || time.Since(began) > 5*time.Second {
			t.Errorf("Run ended with %v after %v", err, time.Since(began))
		}
	})
	return s.Port()
}

// inClient runs a command in the client's namespace.
func inClient(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", append([]string{"netns", "exec", "client"}, args...)...).CombinedOutput()
	return string(out), err
}

// TestClients lets two clients that are not ours fetch files: tftp-hpa with
// 512-byte blocks, and curl, which asks for tsize, blksize and timeout.
func TestClients(t *testing.T) {
	nettest.Tool(t, "tftp")
	nettest.Tool(t, "curl")
	if !nettest.Isolate(t) {
		return
	}
	nettest.Veth(t, "10.0.0.1/24")
	nettest.Run(t, "ip -n client addr add 10.0.0.2/24 dev cli")
	dir := filepath.Join(t.TempDir(), "netboot")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "..", "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	served := make(chan string, 100)
	port := serve(t, dir, served)
	rng := rand.NewChaCha8([32]byte{})
	// Whole blocks, none, a rest; and more than 65535 blocks of 512 bytes, where
	// the block number wraps.
	for _, size := range []int{0, 1, 511, 512, 513, 1468, 100000, 65536*512 + 100} {
		want := make([]byte, size)
		rng.Read(want)
		if err := os.WriteFile(filepath.Join(dir, "file"), want, 0o644); err != nil {
			t.Fatal(err)
		}
		got := filepath.Join(t.TempDir(), "got")
		for name, args := range map[string][]string{
			"tftp": {"tftp", "-m", "binary", "10.0.0.1", fmt.Sprint(port), "-c", "get", "file", got},
			"curl": {"curl", "-sS", "--tftp-blksize", "1468", "-o", got, fmt.Sprintf("tftp://10.0.0.1:%d/file", port)},
		} {
			os.Remove(got)
			out, err := inClient(t, args...)
			b, readErr := os.ReadFile(got)
			if size == 0 && os.IsNotExist(readErr) { // curl makes no file of nothing
				readErr = nil
			}
			if err != nil || readErr != nil || !bytes.Equal(b, want) {
				t.Errorf("%s of %d bytes: %v, %v, %d bytes, %s", name, size, err, readErr, len(b), out)
			}
			if s := <-served; !strings.HasPrefix(s, "10.0.0.2 ") || !strings.HasSuffix(s, fmt.Sprintf("file %d", size)) {
				t.Errorf("noted as %q", s)
			}
		}
	}
	for _, name := range []string{"../secret", "/../secret", `..\secret`, "none", ".", "/etc/passwd"} {
		got := filepath.Join(t.TempDir(), "got")
		out, _ := inClient(t, "tftp", "-m", "binary", "10.0.0.1", fmt.Sprint(port), "-c", "get", name, got)
		if b, _ := os.ReadFile(got); len(b) != 0 || !strings.Contains(out, "file not found") {
			t.Errorf("%q gives %q, %s", name, b, out)
		}
	}
	put := filepath.Join(t.TempDir(), "put")
	if err := os.WriteFile(put, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	inClient(t, "tftp", "-m", "binary", "10.0.0.1", fmt.Sprint(port), "-c", "put", put, "written")
	if _, err := os.Stat(filepath.Join(dir, "written")); !os.IsNotExist(err) {
		t.Errorf("a client could write: %v", err)
	}
}

// wish is a request for the file that onLoopback serves.
const wish = "\x00\x01file\x00octet\x00"

// onLoopback starts a server on lo, with a "file" of 3000 bytes, and returns its
// port and a way to end it.
func onLoopback(t *testing.T) (int, func() error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 3000), 0o644); err != nil {
		t.Fatal(err)
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := tftp.Listen(ctx, tftp.Config{Interface: lo, Files: boot.Folder(dir)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s.Port(), func() error { cancel(); return <-done }
}

// ask sends a datagram to a server on loopback from a socket of its own.
func ask(t *testing.T, port int, request string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := c.WriteTo([]byte(request), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	return c
}

// reply reads one datagram.
func reply(t *testing.T, c *net.UDPConn) (string, net.Addr) {
	t.Helper()
	buf := make([]byte, 2000)
	n, from, err := c.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n]), from
}

// TestRefusals: what is refused, and in which words; and what is not answered.
func TestRefusals(t *testing.T) {
	port, stop := onLoopback(t)
	defer stop()
	for request, want := range map[string]string{
		"\x00\x02file\x00octet\x00":        "\x00\x05\x00\x02read only\x00",
		"\x00\x01file\x00netascii\x00":     "\x00\x05\x00\x04mode octet only\x00",
		"\x00\x01none\x00octet\x00":        "\x00\x05\x00\x01file not found\x00",
		"\x00\x01../secret\x00octet\x00":   "\x00\x05\x00\x01file not found\x00",
		"\x00\x01\\..\\x\x00octet\x00":     "\x00\x05\x00\x01file not found\x00",
		"\x00\x01/etc/passwd\x00octet\x00": "\x00\x05\x00\x01file not found\x00",
	} {
		if got, _ := reply(t, ask(t, port, request)); got != want {
			t.Errorf("%q is answered with %q", request, got)
		}
	}
	for _, silent := range []string{"\x00\x05\x00\x01x\x00", "\x00\x04\x00\x01", "\x00\x03\x00\x01x", "", "\x00\x01file"} {
		c := ask(t, port, silent)
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if n, _, err := c.ReadFrom(make([]byte, 600)); err == nil {
			t.Errorf("%q is answered with %d bytes", silent, n)
		}
	}
}

// TestIPv6: the same over IPv6, from the address that was asked.
func TestIPv6(t *testing.T) {
	if !nettest.Isolate(t) {
		return
	}
	nettest.Veth(t, "10.0.0.1/24")
	nettest.Run(t, "ip addr add fd00::1/64 dev srv nodad")
	nettest.Run(t, "ip addr add fd00::2/64 dev srv nodad")
	nettest.Run(t, "ip -n client addr add fd00::9/64 dev cli nodad")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 3000), 0o644); err != nil {
		t.Fatal(err)
	}
	ifi, err := net.InterfaceByName("srv")
	if err != nil {
		t.Fatal(err)
	}
	s, err := tftp.Listen(t.Context(), tftp.Config{Interface: ifi, IPv6: true, Files: boot.Folder(dir)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for name, want := range map[string]string{"file": "\x00\x06blksize\x001448\x00", "none": "\x00\x05\x00\x01file not found\x00"} {
		var c *net.UDPConn
		nettest.In(t, "client", func() { c, err = net.ListenUDP("udp6", nil) })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.WriteTo([]byte("\x00\x01"+name+"\x00octet\x00blksize\x009000\x00"), &net.UDPAddr{IP: net.ParseIP("fd00::1"), Port: s.Port()}); err != nil {
			t.Fatal(err)
		}
		if got, from := reply(t, c); got != want || !from.(*net.UDPAddr).IP.Equal(net.ParseIP("fd00::1")) {
			t.Errorf("%s: %q from %v", name, got, from)
		}
	}
}

// TestDoubledRequest: a request that comes twice is one transfer.
func TestDoubledRequest(t *testing.T) {
	port, stop := onLoopback(t)
	defer stop()
	c := ask(t, port, wish)
	first, from := reply(t, c)
	to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
	if _, err := c.WriteTo([]byte(wish), to); err != nil {
		t.Fatal(err)
	}
	second, again := reply(t, c) // the first transfer's retry
	if first != second || from.String() != again.String() {
		t.Errorf("a second transfer from %v beside %v", again, from)
	}
}

// TestFlood: half-open transfers of one address are few; those of all give way
// to new ones, and one that has begun is not disturbed.
func TestFlood(t *testing.T) {
	port, stop := onLoopback(t)
	defer stop()
	c := ask(t, port, wish)
	block, from := reply(t, c)
	c.WriteTo([]byte(block[:1]+"\x04"+block[2:4]), from) // begun
	if block, _ = reply(t, c); block[:4] != "\x00\x03\x00\x02" {
		t.Fatalf("second block %q", block[:4])
	}
	for n := range 20 { // of the same address, which may have 8 at a time
		flood := ask(t, port, wish)
		if n < 7 {
			reply(t, flood)
			continue
		}
		flood.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, _, err := flood.ReadFrom(make([]byte, 600)); err == nil {
			t.Errorf("%d transfers beside another of one address", n+1)
		}
	}
	for i := range 600 { // of 200 addresses
		local := &net.UDPAddr{IP: net.IPv4(127, 0, 1, byte(i%200))}
		conn, err := net.DialUDP("udp4", local, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(wish))
		conn.Close()
	}
	late := &net.UDPAddr{IP: net.IPv4(127, 0, 2, 1)}
	conn, err := net.ListenUDP("udp4", late)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 600)
	for try := 0; ; try++ { // in a flood a request may get lost
		conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		conn.WriteTo([]byte(wish), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if n, _, err := conn.ReadFrom(buf); err == nil && string(buf[:4]) == "\x00\x03\x00\x01" {
			break
		} else if try > 20 {
			t.Fatalf("after the flood: %q, %v", buf[:n], err)
		}
	}
	for n := byte(2); n <= 6; n++ {
		c.WriteTo([]byte{0, 4, 0, n}, from)
		for got := ""; n < 6 && got != string([]byte{0, 3, 0, n + 1}); got = got[:4] {
			got, _ = reply(t, c) // maybe an earlier one once more
		}
	}
}

// TestOptions looks at the bytes: RFC 2347 OACK with what was asked for and
// nothing else.
func TestOptions(t *testing.T) {
	port, stop := onLoopback(t)
	defer stop()
	c := ask(t, port, wish+"tsize\x000\x00blksize\x001432\x00windowsize\x002\x00multicast\x00\x00")
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 2000)
	n, from, err := c.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	got := string(buf[:n])
	if got != "\x00\x06tsize\x003000\x00blksize\x001432\x00windowsize\x002\x00" {
		t.Fatalf("answer %q", got)
	}
	for _, step := range []struct {
		ack    byte
		blocks map[string]int // by their header, with their lengths
	}{{0, map[string]int{"\x00\x03\x00\x01": 4 + 1432, "\x00\x03\x00\x02": 4 + 1432}}, {2, map[string]int{"\x00\x03\x00\x03": 4 + 136}}} {
		if _, err := c.WriteTo([]byte{0, 4, 0, step.ack}, from); err != nil {
			t.Fatal(err)
		}
		for range step.blocks {
			if n, _, err = c.ReadFrom(buf); err != nil || n != step.blocks[string(buf[:4])] {
				t.Errorf("after %d: %q and %d bytes, %v", step.ack, buf[:4], n, err)
			}
		}
	}
	if _, err := c.WriteTo([]byte{0, 4, 0, 3}, from); err != nil {
		t.Fatal(err)
	}
}

// TestShutdownBesideDeadClient: a client that asked and went away does not
// keep the server from ending.
func TestShutdownBesideDeadClient(t *testing.T) {
	port, stop := onLoopback(t)
	c := ask(t, port, wish)
	buf := make([]byte, 600)
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, _, err := c.ReadFrom(buf); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := stop(); err != nil || time.Since(began) > 5*time.Second {
		t.Errorf("ended with %v after %v", err, time.Since(began))
	}
}
