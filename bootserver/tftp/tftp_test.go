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
		if err := <-done; err != nil || time.Since(began) > 4*time.Second {
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
// 512-byte blocks, and curl, which asks for tsize and blksize.
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

// onLoopback starts a server on lo and returns a socket that has asked it for
// "file" of 3000 bytes, and a way to end the server.
func onLoopback(t *testing.T, options ...string) (*net.UDPConn, func() error) {
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
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	b := []byte("\x00\x01file\x00octet\x00")
	for _, o := range options {
		b = append(append(b, o...), 0)
	}
	if _, err := c.WriteTo(b, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: s.Port()}); err != nil {
		t.Fatal(err)
	}
	return c, func() error { cancel(); return <-done }
}

// TestOptions looks at the bytes: RFC 2347 OACK with what was asked for and
// nothing else.
func TestOptions(t *testing.T) {
	c, stop := onLoopback(t, "tsize", "0", "blksize", "1432", "windowsize", "8")
	defer stop()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 2000)
	n, from, err := c.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	got := string(buf[:n])
	if !strings.HasPrefix(got, "\x00\x06") || !strings.Contains(got, "tsize\x003000\x00") || !strings.Contains(got, "blksize\x001432\x00") || strings.Contains(got, "windowsize") {
		t.Fatalf("answer %q", got)
	}
	if _, err := c.WriteTo([]byte{0, 4, 0, 0}, from); err != nil {
		t.Fatal(err)
	}
	if n, _, err = c.ReadFrom(buf); err != nil || n != 4+1432 || string(buf[:4]) != "\x00\x03\x00\x01" {
		t.Errorf("first block: %d bytes, %v", n, err)
	}
}

// TestShutdownBesideDeadClient: a client that asked and went away does not
// keep the server from ending.
func TestShutdownBesideDeadClient(t *testing.T) {
	c, stop := onLoopback(t)
	buf := make([]byte, 600)
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, _, err := c.ReadFrom(buf); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := stop(); err != nil || time.Since(began) > 4500*time.Millisecond {
		t.Errorf("ended with %v after %v", err, time.Since(began))
	}
}
