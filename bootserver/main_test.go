package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"huck/bootserver/nettest"
	"huck/imager/api"
)

// command runs the program and returns its output and exit code.
func command(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	err := run(t.Context(), Env{&out, &errs}, args)
	if err != nil {
		fmt.Fprintln(&errs, err)
	}
	return out.String(), errs.String(), exitCode(err)
}

// running is a server under test.
type running struct {
	http, url string
	stop      func() error // as SIGTERM does, and waits
	log       *safeBuffer
}

// safeBuffer collects a log that is written and read at once.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// start runs `bootserver serve` until its ready line.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	srv := &running{log: &safeBuffer{}}
	done := make(chan error, 1)
	go func() {
		err := run(ctx, Env{w, srv.log}, append([]string{"serve", "--json", "--http", ":0"}, args...))
		w.CloseWithError(fmt.Errorf("serve ended: %v", err))
		done <- err
	}()
	srv.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { srv.stop() })
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("no ready line: %v\n%s", err, srv.log)
	}
	var ready struct{ Event, HTTP, URL string }
	if err := json.Unmarshal([]byte(line), &ready); err != nil || ready.Event != "ready" {
		t.Fatalf("ready line %q: %v", line, err)
	}
	srv.http, srv.url = ready.HTTP, ready.URL
	return srv
}

// ends ends the server, which what waits for news, for up to api.LongPoll, must
// not hold up.
func (r *running) ends(t *testing.T) {
	t.Helper()
	began := time.Now()
	if err := r.stop(); err != nil || time.Since(began) > api.LongPoll/2 {
		t.Errorf("serve ended with %v after %v\n%s", err, time.Since(began), r.log)
	}
}

func netboot(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"vmlinuz", "initramfs.cpio.zst", "undionly.kpxe", "huck.efi"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("content of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func inClient(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", append([]string{"netns", "exec", "client"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// lease runs udhcpc and returns an environment variable that its script got.
func lease(t *testing.T, variable string, args ...string) string {
	t.Helper()
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ $1 = bound ] && echo \"got=$"+variable+"\" && ip addr replace $ip/$mask dev cli\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	out := inClient(t, append([]string{"udhcpc", "-i", "cli", "-f", "-q", "-n", "-t", "15", "-T", "1", "-s", script}, args...)...)
	_, got, ok := strings.Cut(out, "got=")
	if !ok {
		t.Fatalf("no lease: %s", out)
	}
	got, _, _ = strings.Cut(got, "\n")
	return got
}

// TestBootOnTheWire goes the way of a BIOS machine with the tools of others:
// lease and loader as its ROM, script and kernel as iPXE, then a registration.
// After a restart the lease, the node and its assignment are as they were.
func TestBootOnTheWire(t *testing.T) {
	for _, tool := range []string{"udhcpc", "tftp", "curl"} {
		nettest.Tool(t, tool)
	}
	if !nettest.Isolate(t) {
		return
	}
	nettest.Veth(t, "10.0.0.1/24")
	data := t.TempDir()
	args := []string{"--interface", "srv", "--data", data, "--netboot", netboot(t), "--dhcp", "authoritative", "--pool", "10.0.0.50-10.0.0.60", "--append", "extra=1"}
	srv := start(t, args...)
	if !strings.HasPrefix(srv.http, "10.0.0.1:") {
		t.Errorf("ready at %s", srv.http)
	}
	rom := []string{"-V", "PXEClient:Arch:00000:UNDI:002001"}
	if file := lease(t, "boot_file", rom...); file != "undionly.kpxe" {
		t.Errorf("the ROM is told %q", file)
	}
	loader := filepath.Join(t.TempDir(), "loader")
	inClient(t, "tftp", "-m", "binary", "10.0.0.1", "69", "-c", "get", "undionly.kpxe", loader)
	if b, _ := os.ReadFile(loader); string(b) != "content of undionly.kpxe" {
		t.Errorf("the loader is %q", b)
	}
	scriptURL := lease(t, "boot_file", append(rom, "-x", "0xaf:b10101")...)
	if !strings.HasPrefix(scriptURL, srv.url+"/boot/ipxe?mac=") {
		t.Errorf("iPXE is told %q", scriptURL)
	}
	script := inClient(t, "curl", "-sSf", scriptURL)
	if !strings.Contains(script, "kernel "+srv.url+"/boot/vmlinuz initrd=initramfs.cpio.zst huck.server="+srv.url+" ") || !strings.Contains(script, " extra=1 ||") {
		t.Errorf("script:\n%s", script)
	}
	if got := inClient(t, "curl", "-sSf", srv.url+"/boot/vmlinuz"); got != "content of vmlinuz" {
		t.Errorf("the kernel is %q", got)
	}
	if u := lease(t, "opt224", "-O", "0xe0"); u != "" && !strings.Contains(u, fmt.Sprintf("%x", srv.url)) {
		t.Errorf("option 224 is %q", u)
	}
	inventory := `{"macs":["52:54:00:12:34:56"],"boot_id":"b1"}`
	if reg := inClient(t, "curl", "-sSf", "-d", inventory, srv.url+"/v1/nodes"); !strings.Contains(reg, `"node":"52-54-00-12-34-56"`) {
		t.Errorf("registered: %s", reg)
	}
	if refused := inClient(t, "curl", "-sS", srv.url+"/v1/nodes"); !strings.Contains(refused, "own host only") {
		t.Errorf("a stranger may list: %s", refused)
	}
	first := lease(t, "ip")
	srv.ends(t)

	srv = start(t, args...)
	defer srv.ends(t)
	if again := lease(t, "ip"); again != first || first != "10.0.0.50" {
		t.Errorf("lease %s, after a restart %s", first, again)
	}
	if out, _, code := command(t, "nodes", "--server", srv.url); code != 0 || !strings.Contains(out, "52-54-00-12-34-56") || !strings.Contains(out, "unknown, waits") {
		t.Errorf("nodes: %d\n%s", code, out)
	}
	out, _, _ := command(t, "events", "--server", srv.url)
	for _, want := range []string{"dhcp done", "boots undionly.kpxe", "tftp done", "ipxe done", "seen for the first time"} {
		if !strings.Contains(out, want) {
			t.Errorf("events lack %q:\n%s", want, out)
		}
	}
}

// TestCommands is everything that needs no DHCP, on the loopback.
func TestCommands(t *testing.T) {
	data := t.TempDir()
	srv := start(t, "--interface", "lo", "--data", data, "--netboot", netboot(t))
	server := "--server=" + srv.url

	if _, stderr, code := command(t, "serve", "--interface", "lo", "--data", data, "--http", "127.0.0.1:0"); code != exitRefused || !strings.Contains(stderr, "in use by another") {
		t.Errorf("a second server on the data: %d %s", code, stderr)
	}
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte(`{"hostnam": "x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(srv.url+"/v1/nodes", "application/json", strings.NewReader(`{"macs":["52:54:00:12:34:56"],"boot_id":"b1","cpus":2}`))
	if err != nil {
		t.Fatal(err)
	}
	var reg api.Registered
	if err := json.NewDecoder(resp.Body).Decode(&reg); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	report := `[{"type":"step","step":"receive","state":"running"},{"type":"progress","step":"receive","progress":` +
		`{"total":104857600,"planned":52428800,"in_place":10485760,"written":31457280,"rate":5242880,"received":{"multicast":20971520}}}]`
	post, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.url+"/v1/nodes/"+reg.Node+"/events", strings.NewReader(report))
	if err != nil {
		t.Fatal(err)
	}
	post.Header.Set(api.HeaderAuth, "Bearer "+reg.Token)
	if resp, err = http.DefaultClient.Do(post); err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatalf("report: %v, %v", resp, err)
	}
	resp.Body.Close()

	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"nodes " + server, 0, "52-54-00-12-34-56"},
		{"nodes " + server, 0, "40% of 100 MiB at 5.0 MiB/s, 12s left, compared 50%, in place 10%, multicast 20.0 MiB"},
		{"nodes --json " + server, 0, `"id":"52-54-00-12-34-56"`},
		{"events " + server, 0, "seen for the first time"},
		{"events --json --node 52:54:00:12:34:56 " + server, 0, `"type":"node"`},
		{"assign 52-54-00-12-34-56 nonesuch --disk only --once " + server, exitNotFound, "nonesuch"},
		{"assign 52-54-00-12-34-56 debian --disk sda --once " + server, exitUsage, "disk rule"},
		{"assign 52-54-00-12-34-56 DEBIAN --disk only --once " + server, exitUsage, "name"},
		{"assign 52-54-00-12-34-56 debian --disk only " + server, exitUsage, "--once"},
		{"assign 52-54-00-12-34-56 debian --disk only --once --every-boot " + server, exitUsage, "--once"},
		{"assign 52-54-00-12-34-56 debian --disk only --once --then dance " + server, exitUsage, "dance"},
		{"assign 52-54-00-12-34-56 debian --once " + server, exitUsage, "--disk"},
		{"assign 52-54-00-12-34-56 debian --disk only --once --tries 0 " + server, exitUsage, "--tries"},
		{"assign lab debian --disk only --once " + server, exitNotFound, "debian"},
		{"assign 52-54-00-12-34-56 debian --disk only --once --personalise " + bad + " " + server, exitUsage, "hostnam"},
		{"assign 52-54-00-12-34-56 debian --disk only --once --personalise /none " + server, exitUsage, "/none"},
		{"capture 52-54-00-12-34-56 " + server, exitUsage, "--name"},
		{"capture 52-54-00-12-34-56 --name golden --disk sda " + server, exitUsage, "disk rule"},
		{"capture nobody --name golden " + server, exitNotFound, "nobody"},
		{"capture 52-54-00-12-34-56 --name golden " + server, 0, ""},
		{"nodes " + server, 0, "to be captured as golden"},
		{"capture 52-54-00-12-34-56 --cancel " + server, 0, ""},
		{"capture 52-54-00-12-34-56 --cancel " + server, exitUsage, "not to be captured"},
		{"unassign 52-54-00-12-34-56 " + server, 0, ""},
		{"group lab 52:54:00:12:34:56 02:00:00:00:00:09 " + server, 0, "02-00-00-00-00-09\n52-54-00-12-34-56\n"},
		{"group lab 02-00-00-00-00-09 --remove --json " + server, 0, `{"name":"lab","nodes":["52-54-00-12-34-56"]}`},
		{"group lab " + server, 0, "52-54-00-12-34-56"},
		{"group lab nobody " + server, exitNotFound, "nobody"},
		{"group LAB 52-54-00-12-34-56 " + server, exitUsage, "group name"},
		{"group garage " + server, exitNotFound, "garage"},
		{"group lab --remove " + server, exitUsage, "--remove"},
		{"unassign lab " + server, 0, ""},
		{"maintain lab " + server, 0, ""},
		{"nodes " + server, 0, "receive running, in maintenance"},
		{"maintain 52-54-00-12-34-56 --end " + server, 0, ""},
		{"maintain nobody " + server, exitNotFound, "nobody"},
		{"model 52-54-00-12-34-56 reboot " + server, 0, ""},
		{"nodes --json " + server, 0, `"group":"lab","start":"reboot"`},
		{"model 52-54-00-12-34-56 poweroff " + server, exitUsage, "poweroff"},
		{"unassign nobody " + server, exitNotFound, "nobody"},
		{"nodes --server http://127.0.0.1:1", exitFailed, "boot server"},
		{"nodes --server nonsense", exitUsage, "--server"},
		{"serve --interface lo --data /dev/null/x", exitFailed, "data folder"},
		{"serve --interface lo --data " + data + " --dhcp proxy", exitUsage, "loopback"},
		{"serve --interface lo --data " + data + " --dhcp perhaps", exitUsage, "perhaps"},
		{"serve --interface lo --data " + data + " --dhcp authoritative", exitUsage, "loopback"},
		{"serve --interface none --data " + data, exitUsage, "none"},
		{"serve --interface lo --data " + data + " --log-level loud", exitUsage, "loud"},
		{"serve --interface lo --data " + data + " --rate fast", exitUsage, "rate"},
		{"serve --interface lo --data " + data + " --floor 1", exitUsage, "--floor"},
		{"serve --interface lo --data " + data + " --dscp 64", exitUsage, "--dscp"},
		{"serve --interface lo --data " + data + " --ttl 0", exitUsage, "--ttl"},
		{"serve --interface lo --data " + data + " --append a||b", exitUsage, "iPXE"},
		{"serve --data x", exitUsage, "--interface"},
		{"--help", 0, "130 interrupted"},
		{"--version", 0, api.Version()},
		{"assign --help", 0, "RULE"},
		{"", exitUsage, "expected"},
		{"dance", exitUsage, "dance"},
	} {
		stdout, stderr, code := command(t, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("%s: exit %d, want %d and %q\n%s%s", c.args, code, c.code, c.says, stdout, stderr)
		}
	}
	srv.ends(t)
}

// TestShutdownIsQuick: neither a waiting machine nor a follower holds it up,
// and a command that is interrupted says so.
func TestShutdownIsQuick(t *testing.T) {
	srv := start(t, "--interface", "lo", "--data", t.TempDir(), "--netboot", netboot(t))
	ctx, cancel := context.WithCancel(t.Context())
	var out safeBuffer
	interrupted := make(chan int, 1)
	go func() {
		interrupted <- exitCode(run(ctx, Env{&out, io.Discard}, []string{"events", "--follow", "--server", srv.url}))
	}()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(out.String(), "serving at"); {
		if time.Now().After(deadline) {
			t.Fatalf("the follower got %q", out.String())
		}
		<-time.After(10 * time.Millisecond)
	}
	cancel()
	if code := <-interrupted; code != exitInterrupted {
		t.Errorf("interrupted follower: exit %d", code)
	}
	ended := make(chan int, 1)
	go func() {
		ended <- exitCode(run(t.Context(), Env{io.Discard, io.Discard}, []string{"events", "--follow", "--server", srv.url}))
	}()
	srv.ends(t)
	if code := <-ended; code != exitFailed {
		t.Errorf("follower of a server that ended: exit %d", code)
	}
}
