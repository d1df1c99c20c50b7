package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// board shows one line a machine: rewritten in place on a terminal, else a new
// line whenever a machine does something else or has come 20 % further.
type board struct {
	out      io.Writer
	terminal bool
	start    time.Time

	mu     sync.Mutex
	names  []string
	rows   []string
	fifths []int // the last shown fifth of progress
	drawn  bool
}

func newBoard(out io.Writer, terminal bool, names ...string) *board {
	return &board{out: out, terminal: terminal, names: names, rows: make([]string, len(names)), fifths: make([]int, len(names)), start: time.Now()}
}

// set changes a machine's line; percent counts within a progress, 0 otherwise.
func (b *board) set(row int, text string, percent int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if percent > 0 {
		text = fmt.Sprintf("%3d %%  %s", percent, text)
	}
	if b.rows[row] == text {
		return
	}
	b.rows[row] = text
	if b.terminal {
		b.draw()
		return
	}
	if fifth := percent / 20; percent == 0 || percent == 100 || fifth != b.fifths[row] {
		b.fifths[row] = fifth
		fmt.Fprintf(b.out, "%6.1f s  %-7s %s\n", time.Since(b.start).Seconds(), b.names[row], text)
	}
}

// draw writes all lines over those drawn before.
func (b *board) draw() {
	if b.drawn {
		fmt.Fprintf(b.out, "\x1b[%dA", len(b.rows))
	}
	b.drawn = true
	for i, text := range b.rows {
		fmt.Fprintf(b.out, "\r\x1b[K%-7s %.100s\n", b.names[i], text)
	}
}

// end leaves the lines as they are.
func (b *board) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drawn = false
}
