package console_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"huck/imager/api"
	"huck/initramfs/console"
)

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestLines(t *testing.T) {
	var out buffer
	c := console.New(&out)
	c.Printf("step %s: FAILED: %v", "x", errors.New("a\nb"))
	c.Close()
	if got, want := out.String(), "huck: step x: FAILED: a\nhuck:   b\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// stuck is a console that takes nothing until released.
type stuck struct {
	release chan struct{}
	out     buffer
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.release
	return s.out.Write(p)
}

func TestStuckConsoleHoldsNobodyUp(t *testing.T) {
	s := &stuck{release: make(chan struct{})}
	c := console.New(s)
	for i := range 1000 {
		c.Printf("line %d", i)
	}
	close(s.release)
	c.Close()
	if got := s.out.String(); !strings.Contains(got, "lines lost") || !strings.Contains(got, "line 0\r") {
		t.Errorf("console has %.200q…", got)
	}
}

// pty opens a pseudo-terminal and returns its master and the slave's path.
func pty(t *testing.T) (*os.File, string) {
	t.Helper()
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Cleanup(func() { m.Close() })
	if err := unix.IoctlSetPointerInt(int(m.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(m.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	return m, fmt.Sprintf("/dev/pts/%d", n)
}

// TestShell: Enter opens a shell, and the console keeps quiet while it runs.
func TestShell(t *testing.T) {
	master, path := pty(t)
	dir := t.TempDir()
	active := filepath.Join(dir, "active")
	if err := os.WriteFile(active, []byte(filepath.Base(path)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var screen buffer
	go io.Copy(&screen, master) // ends when the master is closed
	c := console.Open(active, filepath.Dir(path), io.Discard)
	defer c.Close()
	if c.Main() != path {
		t.Fatalf("main console %q, want %q", c.Main(), path)
	}
	opened, leave := make(chan string), make(chan struct{})
	shell := func(_ context.Context, tty string) error {
		opened <- tty
		<-leave
		// A session of its own, as shells have; its end hangs the terminal up.
		f, err := os.OpenFile(tty, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		cmd := exec.Command("true")
		cmd.Stdin = f
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		return cmd.Run()
	}
	nothing := func() {}
	c.Offer(console.Actions{Shell: shell, Retry: nothing, Reboot: nothing, PowerOff: nothing})
	select {
	case <-opened:
		t.Fatal("a shell that nobody asked for")
	case <-time.After(100 * time.Millisecond):
	}
	for tries := 0; ; tries++ {
		master.WriteString("\n")
		select {
		case tty := <-opened:
			if tty != path {
				t.Errorf("shell on %q", tty)
			}
		case <-time.After(200 * time.Millisecond):
			if tries < 50 {
				continue
			}
			t.Fatal("no shell")
		}
		break
	}
	c.Printf("not to be seen")
	leave <- struct{}{}
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(screen.String(), "has ended"); {
		if time.Now().After(deadline) {
			t.Fatalf("screen: %q", screen.String())
		}
		select {
		case <-opened: // a second Enter from above
			leave <- struct{}{}
		case <-time.After(10 * time.Millisecond):
		}
	}
	if strings.Contains(screen.String(), "not to be seen") {
		t.Error("the console wrote while a shell was open")
	}
}

func TestHandler(t *testing.T) {
	var lines []string
	var events []api.Event
	log := slog.New(&console.Handler{
		Print: func(f string, a ...any) { lines = append(lines, fmt.Sprintf(f, a...)) },
		Event: func(e api.Event) { events = append(events, e) },
	})
	log.Debug("not this")
	log.With("dev", "sda").WithGroup("g").Info("100% sure", "n", 1)
	log.Warn("odd", "err", errors.New("a b"))
	want := []string{"100% sure dev=sda g.n=1", `warn: odd err="a b"`}
	if len(lines) != 2 || lines[0] != want[0] || lines[1] != want[1] {
		t.Errorf("lines %q, want %q", lines, want)
	}
	if len(events) != 2 || events[1].Type != api.EventLog || events[1].Message != `odd err="a b"` {
		t.Errorf("events %+v", events)
	}
}

// TestAsk: what is typed answers the question that is open, Enter alone does
// not, and without a keyboard nobody waits.
func TestAsk(t *testing.T) {
	master, path := pty(t)
	active := filepath.Join(t.TempDir(), "active")
	if err := os.WriteFile(active, []byte(filepath.Base(path)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var screen buffer
	go io.Copy(&screen, master) // ends when the master is closed
	c := console.Open(active, filepath.Dir(path), io.Discard)
	defer c.Close()
	answers := make(chan string)
	go func() {
		line, err := c.Ask(t.Context(), "which disk?")
		answers <- fmt.Sprint(line, err)
	}()
	for deadline := time.After(10 * time.Second); !strings.Contains(screen.String(), "which disk?"); {
		select {
		case <-deadline:
			t.Fatalf("screen: %q", screen.String())
		case <-time.After(time.Millisecond):
		}
	}
	master.WriteString("\n")
	master.WriteString(" S1 \n")
	if got := <-answers; got != "S1<nil>" {
		t.Errorf("answer %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Ask(ctx, "again?"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := console.New(io.Discard).Ask(t.Context(), "anybody?"); err == nil {
		t.Error("an answer without a keyboard")
	}
}
