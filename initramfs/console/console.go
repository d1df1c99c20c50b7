// Package console talks to the people in front of a machine: every console
// that the kernel knows gets every line, one that does not take it (a serial
// line held by flow control) loses it and holds nobody up, and pressing Enter
// on any of them opens a shell there, once that is offered.
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
)

// Console is all consoles of a machine.
type Console struct {
	ttys []*tty
	hear sync.Once // listens
	wg   sync.WaitGroup
	ctx  context.Context // until Close
	stop context.CancelFunc

	mu sync.Mutex
	// shell is what Enter opens, with shellCtx; nil while it is not offered.
	shell    Shell
	shellCtx context.Context
	// answer takes what is typed while a question is open.
	answer chan string
}

// Shell runs on the tty with that path until it ends.
type Shell func(ctx context.Context, tty string) error

// errNoKeyboard says that none of the consoles can be typed on.
var errNoKeyboard = errors.New("console: nothing can be typed on any console")

// depth is how many lines wait for a slow console before they are lost: at
// 115200 baud a second's worth.
const depth = 128

// tty is one console.
type tty struct {
	path  string
	out   io.Writer // where there is no file
	lines chan string

	mu   sync.Mutex
	file *os.File // nil where nothing can be typed
	lost int
	held bool // a shell has the tty
}

// open opens the tty, anew if it was open: non-blocking, so that neither a
// missing carrier nor a full line can hold us up.
func (t *tty) open() error {
	f, err := os.OpenFile(t.path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("console: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file != nil {
		_ = t.file.Close() // nothing written is lost by it
	}
	t.file = f
	return nil
}

// typed returns the file to read from.
func (t *tty) typed() *os.File {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.file
}

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
	c := &Console{ttys: ttys, ctx: ctx, stop: cancel}
	for _, t := range ttys {
		t.lines = make(chan string, depth)
		c.wg.Go(func() { t.write(ctx) })
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
	for _, t := range c.ttys {
		if f := t.typed(); f != nil {
			_ = f.Close()
		}
	}
	c.wg.Wait()
}

// Printf writes a line, "huck: …", to every console. It never blocks.
func (c *Console) Printf(format string, args ...any) {
	line := "huck: " + strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\nhuck:   ") + "\r\n"
	for _, t := range c.ttys {
		t.mu.Lock()
		if !t.held {
			select {
			case t.lines <- line:
			default:
				t.lost++
			}
		}
		t.mu.Unlock()
	}
}

// write takes lines to the tty.
func (t *tty) write(ctx context.Context) {
	for {
		select {
		case line := <-t.lines:
			t.mu.Lock()
			out, lost := t.out, t.lost
			t.lost = 0
			if t.file != nil {
				out = t.file
				_ = t.file.SetWriteDeadline(time.Now().Add(5 * time.Second))
			}
			t.mu.Unlock()
			if lost > 0 {
				line = fmt.Sprintf("huck: %d lines lost, this console was too slow\r\n", lost) + line
			}
			// A console that fails is no reason to stop, and there is nowhere to say so.
			_, _ = io.WriteString(out, line)
		case <-ctx.Done():
			return
		}
	}
}

// Offer lets Enter open a shell on any console from now on. The shell runs
// with the tty's path until it ends; meanwhile no lines are written there.
// Only the first call counts.
func (c *Console) Offer(ctx context.Context, shell Shell) {
	c.mu.Lock()
	if c.shell == nil {
		c.shell, c.shellCtx = shell, ctx
	}
	c.mu.Unlock()
	c.listen()
}

// Offered tells whether Offer was called.
func (c *Console) Offered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shell != nil
}

// listen takes what is typed from now on, and tells whether anything can be.
func (c *Console) listen() (can bool) {
	for _, t := range c.ttys {
		can = can || t.typed() != nil
	}
	c.hear.Do(func() {
		for _, t := range c.ttys {
			if t.typed() != nil {
				c.wg.Go(func() { t.listen(c) })
			}
		}
	})
	return can
}

// Main returns the path of the console that the kernel prefers, the last one;
// empty if nothing can be typed on any.
func (c *Console) Main() string { return c.ttys[len(c.ttys)-1].path }

// Shell runs a shell on the console with that path until it ends.
func (c *Console) Shell(ctx context.Context, path string, shell Shell) {
	for _, t := range c.ttys {
		if t.path == path && path != "" {
			t.shell(ctx, c, shell)
		}
	}
}

func (t *tty) listen(c *Console) {
	// What was typed before answers nothing.
	if raw, err := t.typed().SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetInt(int(fd), unix.TCFLSH, unix.TCIFLUSH) })
	}
	var buf [256]byte
	for {
		n, err := t.typed().Read(buf[:])
		if err != nil || c.ctx.Err() != nil {
			return
		}
		// The terminal hands over whole lines; one that is too long is none.
		if line := string(buf[:n]); strings.ContainsAny(line, "\r\n") {
			c.typedLine(t, line)
		}
	}
}

func (t *tty) shell(ctx context.Context, c *Console, shell Shell) {
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
	c.Printf("the shell on %s has ended, Enter opens another", t.path)
}

func (t *tty) hold(held bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = held
}
