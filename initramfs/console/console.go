// Package console talks to the people in front of a machine. Every console that
// the kernel knows gets everything: one that is a terminal (it says so when it
// is asked) as a screen that stays calm, one that is not, a log at the end of a
// serial line, as lines. One that does not take what it gets (a serial line held
// by flow control) loses it and holds nobody up.
//
// Keys, on any of them: s or Enter opens a shell there, r tries again what
// failed, b reboots and p powers off, both once y confirms it.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"huck/imager/api"
)

// Console is all consoles of a machine.
type Console struct {
	ttys             []*tty
	board            board
	writers, readers sync.WaitGroup
	stop             context.CancelFunc

	mu      sync.Mutex
	actions *Actions // nil until offered
	asking  *asking  // the question that waits for a line
	pending func()   // what y confirms
	asked   int      // questions so far
}

// Actions is what keys do. None may block, but for Shell.
type Actions struct {
	// Shell runs a shell on the tty with that path until it ends.
	Shell                   func(ctx context.Context, tty string) error
	Retry, Reboot, PowerOff func()
}

const (
	// depth is how many lines wait for a slow console before they are lost: at
	// 115200 baud a second's worth.
	depth = 128
	// redraw is how often a screen is brought up to date. What changes in half a
	// second is a few hundred bytes, some hundredths of a serial line.
	redraw = 500 * time.Millisecond
	// refresh is how often it is written anew, for what the kernel wrote over it.
	refresh = 20 * time.Second
	// questionTime is how long a question waits.
	questionTime = 10 * time.Second
)

// Open opens the consoles that are active according to sysfs, e.g. "tty0
// ttyS0" in /sys/class/tty/console/active. Lines go to fallback where none can
// be opened.
func Open(active, dev string, fallback io.Writer) *Console {
	var ttys []*tty
	b, err := os.ReadFile(active)
	if err != nil {
		fmt.Fprintf(fallback, "huck: %v\n", err)
	}
	for _, name := range strings.Fields(string(b)) {
		if name == "tty0" {
			name = "tty1" // tty0 is whichever is in front; a shell needs a certain one
		}
		t := &tty{path: filepath.Join(dev, name)}
		if err := t.open(); err != nil {
			fmt.Fprintf(fallback, "huck: %v\n", err)
			continue
		}
		ttys = append(ttys, t)
	}
	if len(ttys) == 0 {
		ttys = []*tty{{out: fallback}}
	}
	return start(ttys)
}

// New returns a console that only writes, to w.
func New(w io.Writer) *Console { return start([]*tty{{out: w}}) }

func start(ttys []*tty) *Console {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Console{ttys: ttys, stop: cancel}
	for _, t := range ttys {
		t.lines = make(chan string, depth)
		t.resized = make(chan [2]int, 1)
		c.writers.Go(func() { t.write(ctx, &c.board) })
		if t.typed() != nil {
			c.readers.Go(func() { t.listen(ctx, c) })
		}
	}
	return c
}

// Close waits for at most a second until all lines are out, then lets go.
func (c *Console) Close() {
	until := time.Now().Add(time.Second)
	for _, t := range c.ttys {
		for len(t.lines) > 0 && time.Now().Before(until) {
			time.Sleep(5 * time.Millisecond)
		}
	}
	c.stop()
	written := make(chan struct{})
	go func() { defer close(written); c.writers.Wait() }() // ends when the files are closed, at the latest
	select {
	case <-written:
	case <-time.After(time.Second):
	}
	for _, t := range c.ttys {
		t.release()
	}
	<-written
	c.readers.Wait()
}

// Printf writes a line, "huck: …", to every console. It never blocks.
func (c *Console) Printf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.board.say(text)
	c.line(text)
}

// Logf writes a line only where there is no screen that tells the same better.
func (c *Console) Logf(format string, args ...any) { c.line(fmt.Sprintf(format, args...)) }

func (c *Console) line(text string) {
	line := "huck: " + strings.ReplaceAll(text, "\n", "\nhuck:   ") + "\r\n"
	for _, t := range c.ttys {
		t.say(line)
	}
}

// Event shows a step or progress on the screens.
func (c *Console) Event(e api.Event) { c.board.event(e, time.Now()) }

// Offer lets keys do something from now on. Only the first call counts.
func (c *Console) Offer(a Actions) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.actions != nil {
		return
	}
	c.actions = &a
	for _, t := range c.ttys {
		t.forget() // what was typed before answers no offer
	}
}

// key does what a key says; t is where it was pressed.
func (c *Console) key(ctx context.Context, t *tty, k byte) {
	c.mu.Lock()
	a, confirmed, q := c.actions, c.pending, c.asking
	c.pending = nil
	c.mu.Unlock()
	if q != nil && c.letter(t, q, k) || a == nil {
		return
	}
	if confirmed != nil {
		c.board.ask("")
		if k == 'y' || k == 'Y' {
			confirmed()
			return
		}
		c.line("no, it goes on")
		return
	}
	switch k {
	case 's', 'S', '\r', '\n':
		t.shell(ctx, c, a.Shell)
	case 'r', 'R':
		c.Printf("trying again, as asked for on %s", t.path)
		a.Retry()
	case 'b', 'B':
		c.confirm("reboot", a.Reboot)
	case 'p', 'P':
		c.confirm("power off", a.PowerOff)
	}
}

// confirm asks on all consoles. A noisy serial line must not reboot a machine.
func (c *Console) confirm(what string, do func()) {
	question := what + "? y does it, any other key does not"
	if c.board.writing() {
		question = what + "? THE DISK IS BEING WRITTEN and will not start. y does it, any other key does not"
	}
	c.mu.Lock()
	c.pending = do
	c.asked++
	mine := c.asked
	c.mu.Unlock()
	c.board.ask(question)
	c.line(question)
	time.AfterFunc(questionTime, func() { // it touches nothing but memory
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.asked == mine && c.pending != nil {
			c.pending = nil
			c.board.ask("")
		}
	})
}

// Main returns the path of the console that the kernel prefers, the last one;
// empty if nothing can be typed on any.
func (c *Console) Main() string { return c.ttys[len(c.ttys)-1].path }

// Shell runs a shell on the console with that path until it ends.
func (c *Console) Shell(ctx context.Context, path string, shell func(ctx context.Context, tty string) error) {
	for _, t := range c.ttys {
		if t.path == path && path != "" {
			t.shell(ctx, c, shell)
		}
	}
}

func (t *tty) shell(ctx context.Context, c *Console, shell func(context.Context, string) error) {
	c.Printf("a shell on %s; the boot goes on", t.path)
	for len(t.lines) > 0 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	t.hold(true)
	err := shell(ctx, t.path)
	// When a session ends, the kernel hangs its terminal up for all who have it open.
	err = errors.Join(err, t.open())
	t.hold(false)
	if err != nil {
		c.Printf("shell on %s: %v", t.path, err)
	}
	c.Printf("the shell on %s has ended, s opens another", t.path)
}

// forget drops what was typed and not read.
func (t *tty) forget() {
	f := t.typed()
	if f == nil {
		return
	}
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetInt(int(fd), unix.TCFLSH, unix.TCIFLUSH) })
	}
}
