package tftp_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"huck/bootserver/nettest"
)

// fetch gets a file as firmware does, with blocks of 1468 bytes and a window,
// and returns what the server agreed to and how often it answered. It does so as
// RFC 7440 section 3 has it: at the end of each window, and at once for what is out
// of order; each acknowledgement is on its way for the given time.
func fetch(t *testing.T, server string, window int, way time.Duration) (file []byte, agreed string, acks int) {
	t.Helper()
	var conn *net.UDPConn
	var err error
	nettest.In(t, "client", func() { conn, err = net.ListenUDP("udp4", nil) })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	to, err := net.ResolveUDPAddr("udp4", server)
	if err != nil {
		t.Fatal(err)
	}
	request := fmt.Sprintf("\x00\x01file\x00octet\x00tsize\x000\x00blksize\x001468\x00windowsize\x00%d\x00", window)
	if _, err := conn.WriteTo([]byte(request), to); err != nil {
		t.Fatal(err)
	}
	size := 1 // of the window, until the server agrees to another
	got := 0
	for buf := make([]byte, 2000); ; {
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, from, err := conn.ReadFromUDP(buf)
		if err != nil {
			t.Fatalf("after %d bytes: %v", len(file), err)
		}
		ack := func() {
			if way > 0 {
				<-time.After(way)
			}
			acks++
			conn.WriteTo(binary.BigEndian.AppendUint16([]byte{0, 4}, uint16(len(file)/1468)), from)
		}
		switch buf[1] {
		case 6:
			agreed = strings.ReplaceAll(string(buf[2:n-1]), "\x00", " ")
			fmt.Sscanf(agreed[max(0, strings.Index(agreed, "windowsize")):], "windowsize %d", &size)
			ack()
		case 3:
			if binary.BigEndian.Uint16(buf[2:]) != uint16(len(file)/1468+1) {
				if got != 0 {
					got = 0
					ack()
				}
				continue
			}
			file = append(file, buf[4:n]...)
			if got++; got == size || n < 4+1468 {
				got = 0
				if n < 4+1468 {
					conn.WriteTo(append([]byte{0, 4}, buf[2:4]...), from)
					return file, agreed, acks + 1
				}
				ack()
			}
		default:
			t.Fatalf("answer %q", buf[:n])
		}
	}
}

// TestBesideDnsmasq fetches a file with and without windows, from us and from
// dnsmasq, over the same link of 1 Gbit/s, also where an answer takes its time
// as in a real network and real firmware, and says how long each took.
func TestBesideDnsmasq(t *testing.T) {
	nettest.Tool(t, "dnsmasq")
	nettest.Tool(t, "tc")
	if !nettest.Isolate(t) {
		return
	}
	nettest.Veth(t, "10.0.0.1/24")
	nettest.Run(t, "ip -n client addr add 10.0.0.2/24 dev cli")
	nettest.Run(t, "tc qdisc add dev srv root tbf rate 1gbit burst 32kb latency 50ms")
	dir := t.TempDir()
	want := make([]byte, 2<<20+77)
	rand.NewChaCha8([32]byte{}).Read(want)
	if err := os.WriteFile(filepath.Join(dir, "file"), want, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const way = 300 * time.Microsecond
	acks := map[string]int{}
	served := make(chan string, 10)
	ours := serve(t, dir, served)
	defer nettest.Start(t, "dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --user=root --pid-file= --log-facility=- --interface=srv --bind-interfaces --enable-tftp --tftp-root="+dir, "TFTP root")()
	for _, c := range []struct {
		name   string
		port   int
		window int
		way    time.Duration
	}{
		{"huck", ours, 1, 0}, {"huck", ours, 16, 0}, {"dnsmasq", 69, 16, 0},
		{"huck", ours, 1, way}, {"huck", ours, 4, way}, {"huck", ours, 16, way}, {"dnsmasq", 69, 16, way},
	} {
		began := time.Now()
		got, agreed, n := fetch(t, fmt.Sprintf("10.0.0.1:%d", c.port), c.window, c.way)
		took := time.Since(began)
		acks[fmt.Sprint(c.name, c.window, c.way > 0)] = n
		if !bytes.Equal(got, want) {
			t.Errorf("%s, window %d: %d bytes that are not the file", c.name, c.window, len(got))
		}
		if window := fmt.Sprintf("windowsize %d", c.window); c.name == "huck" && !strings.Contains(agreed, window) {
			t.Errorf("asked for %s, got %q", window, agreed)
		}
		t.Logf("%-8s windowsize %2d asked for, answers take %v: %v, %.1f MB/s (agreed: %s)", c.name, c.window, c.way, took.Round(time.Millisecond), float64(len(want))/1e6/took.Seconds(), agreed)
	}
	// Time would tell of the machine.
	if one, sixteen := acks["huck1true"], acks["huck16true"]; sixteen > one/3 {
		t.Errorf("with a window of 16 there are %d answers to wait for, with one of 1 %d", sixteen, one)
	}
}
