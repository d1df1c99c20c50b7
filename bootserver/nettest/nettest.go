// Package nettest runs a test in a network of its own: new network and mount
// namespaces that vanish with the process, so that nothing is left behind and
// no port is anybody else's.
package nettest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const inside = "HUCK_NETTEST"

// Isolate returns true in a process that has the network for itself. At first
// it starts that process, which runs the calling test only, reports its
// outcome as t's, and returns false.
func Isolate(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		prepare(t)
		return true
	}
	if os.Getuid() != 0 {
		skip(t, "not root")
	}
	Tool(t, "ip")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("%s", out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	return false
}

// prepare makes the mount namespace private, so that `ip netns` can keep its
// names in it.
func prepare(t *testing.T) {
	t.Helper()
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", "/run/netns", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	Run(t, "ip link set lo up")
}

// Veth makes a cable: the end "srv" here with the given address, the end "cli"
// in the namespace "client". An empty address gives none.
func Veth(t *testing.T, address string) {
	t.Helper()
	Run(t, "ip netns add client")
	Run(t, "ip link add srv type veth peer name cli netns client")
	if address != "" {
		Run(t, "ip addr add "+address+" dev srv")
	}
	Run(t, "ip link set srv up")
	Run(t, "ip -n client link set lo up")
	Run(t, "ip -n client link set cli up")
	await(t, "ip -o link show srv", "state UP")
	await(t, "ip -n client -o link show cli", "state UP")
}

// Switch makes a switch, the interface "srv" here with the given address, and
// a namespace for each name, plugged in with its interface "net".
func Switch(t *testing.T, address string, names ...string) {
	t.Helper()
	Run(t, "ip link add srv type bridge")
	Run(t, "ip addr add "+address+" dev srv")
	Run(t, "ip link set srv up")
	for _, name := range names {
		Run(t, "ip netns add "+name)
		Run(t, "ip link add to-"+name+" type veth peer name net netns "+name)
		Run(t, "ip link set to-"+name+" master srv up")
		Run(t, "ip -n "+name+" link set lo up")
		Run(t, "ip -n "+name+" link set net up")
	}
	for _, name := range names {
		await(t, "ip -n "+name+" -o link show net", "state UP")
		await(t, "ip -o -d link show to-"+name, "state forwarding")
	}
}

// await runs a command line until it says so. The kernel puts an interface to
// work some time after it was switched on, and drops what is sent before.
func await(t *testing.T, line, want string) {
	t.Helper()
	tick, deadline := time.NewTicker(5*time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for {
		out := Run(t, line)
		if strings.Contains(out, want) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: no %q in %s", line, want, out)
		}
	}
}

// Start runs a command line of plain words until stop, and returns when the
// program has said ready on standard error.
func Start(t *testing.T, line, ready string) (stop func()) {
	t.Helper()
	w := strings.Fields(line)
	cmd := exec.Command(w[0], w[1:]...)
	log, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	var said strings.Builder
	lines := bufio.NewScanner(log)
	for lines.Scan() && !strings.Contains(lines.Text(), ready) {
		fmt.Fprintln(&said, lines.Text())
	}
	if !strings.Contains(lines.Text(), ready) {
		cmd.Wait()
		t.Fatalf("%s ended: %s", line, &said)
	}
	drained := make(chan struct{})
	go func() { defer close(drained); io.Copy(io.Discard, log) }() // ends with the program
	return func() { cmd.Process.Signal(syscall.SIGTERM); <-drained; cmd.Wait() }
}

// In calls f on a thread that is in the given namespace: the sockets that f
// opens belong there and stay so.
func In(t *testing.T, namespace string, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() { // ends with its thread, which is never unlocked and used again
		runtime.LockOSThread()
		ns, err := os.Open("/run/netns/" + namespace)
		if err == nil {
			err = errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), ns.Close())
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("enter namespace %s: %v", namespace, err)
	}
}

// Tool skips the test, or fails it when REQUIRE_TOOLS=1, if a program is not
// installed.
func Tool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		skip(t, err.Error())
	}
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("REQUIRE_TOOLS") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Run runs a command line of plain words, fails the test if it fails, and
// returns its output, both streams.
func Run(t *testing.T, line string) string {
	t.Helper()
	w := strings.Fields(line)
	out, err := exec.CommandContext(t.Context(), w[0], w[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}
