package console

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"huck/initramfs/steps"
)

// tty is one console.
type tty struct {
	path    string
	out     io.Writer // where there is no file
	lines   chan string
	resized chan [2]int // rows and columns of a terminal that answered
	typing  []byte      // of an answer; listen's own

	// writing is held while something goes out, so that a shell gets the tty when
	// nothing does.
	writing sync.Mutex

	mu     sync.Mutex
	file   *os.File      // nil where nothing can be typed
	cooked *unix.Termios // as it was found
	lost   int
	held   bool // a shell has the tty
	screen bool // it is a terminal: lines go to the board only
	stale  bool // what it shows is not what we painted
}

// open opens the tty, anew if it was open: non-blocking, so that neither a
// missing carrier nor a full line can hold us up. Keys come at once and are not
// echoed.
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
	t.file, t.stale = f, true
	t.raw()
	return nil
}

// raw takes the line discipline out of the way of input; t.mu is held. What is
// no terminal device cannot, and need not.
func (t *tty) raw() {
	t.control(func(fd int) {
		now, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return
		}
		if t.cooked == nil {
			saved := *now
			t.cooked = &saved
		}
		now.Lflag &^= unix.ICANON | unix.ECHO | unix.ISIG | unix.IEXTEN
		now.Iflag &^= unix.ICRNL | unix.INLCR
		now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 1, 0
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, now)
	})
}

// cook puts the line discipline back; t.mu is held.
func (t *tty) cook() {
	if t.cooked != nil {
		t.control(func(fd int) { _ = unix.IoctlSetTermios(fd, unix.TCSETS, t.cooked) })
	}
}

func (t *tty) control(do func(fd int)) {
	if t.file == nil {
		return
	}
	if raw, err := t.file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { do(int(fd)) })
	}
}

// typed returns the file to read from.
func (t *tty) typed() *os.File {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.file
}

// release gives the tty back as it was found.
func (t *tty) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cook()
	if t.file != nil {
		_ = t.file.Close()
	}
}

// say has a line written, where lines are.
func (t *tty) say(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held || t.screen {
		return
	}
	select {
	case t.lines <- line:
	default:
		t.lost++
	}
}

// hold gives the tty to a shell, or takes it back.
func (t *tty) hold(held bool) {
	t.mu.Lock()
	t.held, t.stale = held, true
	screen := t.screen
	if held {
		t.cook()
	}
	t.mu.Unlock()
	if held && screen {
		t.writing.Lock()
		defer t.writing.Unlock()
		t.emit("\x1b[r\x1b[?25h\x1b[2J\x1b[H")
	}
}

// write takes lines to the tty, or once it has said that it is a terminal,
// what changes on its screen.
func (t *tty) write(ctx context.Context, b *board) {
	var paint *painter
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	var fresh time.Time
	if t.typed() != nil {
		t.emit(probe)
	}
	for {
		select {
		case line := <-t.lines:
			if paint == nil { // else it is on the board
				t.emit(t.losses() + line)
			}
		case size := <-t.resized:
			paint, fresh = &painter{rows: size[0], cols: size[1]}, time.Now()
			t.draw(paint, b, &fresh)
		case <-tick.C:
			if paint != nil {
				t.draw(paint, b, &fresh)
			}
		case <-ctx.Done():
			if paint != nil {
				t.draw(paint, b, &fresh) // the last words, for whoever looks at what is left
				t.emit(paint.leave())
			}
			return
		}
	}
}

// draw brings the screen up to date, unless a shell has it.
func (t *tty) draw(p *painter, b *board, fresh *time.Time) {
	t.writing.Lock()
	defer t.writing.Unlock()
	held, stale := t.takeStale()
	if held {
		return
	}
	now := time.Now()
	to := b.page(p.rows, p.cols, now, steps.Uptime())
	if stale {
		p.shown = nil
	}
	if p.shown != nil && now.Sub(*fresh) > refresh {
		*fresh = now
		t.emit(p.refresh(to))
		return
	}
	t.emit(p.paint(to))
}

// emit writes without holding up those who say something.
func (t *tty) emit(s string) {
	if s == "" {
		return
	}
	t.mu.Lock()
	out := t.out
	if t.file != nil {
		out = t.file
		_ = t.file.SetWriteDeadline(time.Now().Add(5 * time.Second))
	}
	t.mu.Unlock()
	_, _ = io.WriteString(out, s)
}

// echo shows what is typed where there is no screen that does.
func (t *tty) echo(s string) {
	t.mu.Lock()
	quiet := t.held || t.screen
	t.mu.Unlock()
	if !quiet {
		t.emit(s)
	}
}

// losses says how many lines were lost since it was last asked.
func (t *tty) losses() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lost == 0 {
		return ""
	}
	n := t.lost
	t.lost = 0
	return fmt.Sprintf("huck: %d lines lost, this console was too slow\r\n", n)
}

func (t *tty) takeStale() (held, stale bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held {
		return true, false
	}
	stale, t.stale = t.stale, false
	return false, stale
}

// The sizes a terminal may say it has; beyond them it is taken for one of the
// nearest.
const (
	minRows, maxRows = 12, 100
	minCols, maxCols = 40, 250
)

// listen reads keys, and answers of the terminal. Whoever presses a key where
// there was only a log has a terminal, perhaps: it is asked again.
func (t *tty) listen(ctx context.Context, c *Console) {
	var in input
	buf := make([]byte, 256)
	for {
		n, err := t.typed().Read(buf)
		if err != nil || ctx.Err() != nil {
			return
		}
		keys, rows, cols := in.feed(buf[:n])
		if rows > 1 && cols > 1 {
			t.becomeScreen(min(max(rows, minRows), maxRows), min(max(cols, minCols), maxCols))
		}
		if len(keys) > 0 {
			t.mu.Lock()
			unknown := !t.screen && !t.held
			t.mu.Unlock()
			if unknown {
				t.emit(probe)
			}
		}
		for _, k := range keys {
			c.key(ctx, t, k)
		}
	}
}

func (t *tty) becomeScreen(rows, cols int) {
	t.mu.Lock()
	t.screen, t.stale = true, false
	t.mu.Unlock()
	select {
	case t.resized <- [2]int{rows, cols}:
	default: // the painter has not seen the last one yet
	}
}
