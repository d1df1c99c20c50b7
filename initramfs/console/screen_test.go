package console_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"huck/imager/api"
	"huck/initramfs/console"
)

// terminal is what a VT100 does of what it is sent, as far as we use it.
type terminal struct {
	rows, cols int
	answer     io.Writer // nil: it is a log

	mu        sync.Mutex
	cells     [][]rune
	row, col  int
	saved     [2]int
	top, bot  int // margins, from 0, bot excluded
	seq       string
	bytes     int
	unknown   []string
	leftovers []byte
}

func newTerminal(rows, cols int) *terminal {
	t := &terminal{rows: rows, cols: cols, bot: rows}
	t.blank()
	return t
}

func (t *terminal) blank() {
	t.cells = nil
	for range t.rows {
		t.cells = append(t.cells, []rune(strings.Repeat(" ", t.cols)))
	}
}

func (t *terminal) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	for _, r := range t.cells {
		b.WriteString(strings.TrimRight(string(r), " ") + "\n")
	}
	return b.String()
}

func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes += len(p)
	text := string(t.leftovers) + string(p)
	t.leftovers = nil
	for i, r := range text {
		if r == 0xfffd && len(text)-i < 4 { // a character cut in two
			t.leftovers = []byte(text[i:])
			break
		}
		t.rune(r)
	}
	return len(p), nil
}

func (t *terminal) rune(r rune) {
	switch {
	case t.seq != "":
		t.seq += string(r)
		if len(t.seq) == 2 && r == '[' || len(t.seq) > 2 && (r < '@' || r > '~') {
			return
		}
		t.do(t.seq)
		t.seq = ""
	case r == 0x1b:
		t.seq = "\x1b"
	case r == '\r':
		t.col = 0
	case r == '\n':
		if t.row+1 == t.bot {
			t.cells = append(append(append(append([][]rune(nil), t.cells[:t.top]...), t.cells[t.top+1:t.bot]...), []rune(strings.Repeat(" ", t.cols))), t.cells[t.bot:]...)
		} else if t.row+1 < t.rows {
			t.row++
		}
	default:
		t.cells[t.row][min(t.col, t.cols-1)] = r
		t.col++
	}
}

func (t *terminal) do(seq string) {
	final := seq[len(seq)-1]
	var n []int
	if len(seq) > 2 {
		for p := range strings.SplitSeq(seq[2:len(seq)-1], ";") {
			v, _ := strconv.Atoi(p)
			n = append(n, v)
		}
	}
	arg := func(i, def int) int {
		if i < len(n) && n[i] > 0 {
			return n[i]
		}
		return def
	}
	switch {
	case seq == "\x1b7":
		t.saved = [2]int{t.row, t.col}
	case seq == "\x1b8":
		t.row, t.col = t.saved[0], t.saved[1]
	case seq == "\x1b[0m", seq == "\x1b[?25l", seq == "\x1b[?25h":
	case final == 'H':
		t.row, t.col = min(arg(0, 1), t.rows)-1, min(arg(1, 1), t.cols)-1
	case final == 'K':
		copy(t.cells[t.row][min(t.col, t.cols):], []rune(strings.Repeat(" ", t.cols)))
	case seq == "\x1b[2J":
		t.blank()
	case final == 'r':
		t.top, t.bot = arg(0, 1)-1, arg(1, t.rows)
	case seq == "\x1b[6n":
		if t.answer != nil {
			fmt.Fprintf(t.answer, "\x1b[%d;%dR", t.row+1, t.col+1)
		}
	default:
		t.unknown = append(t.unknown, seq)
	}
}

// on puts a console on a pseudo-terminal with t at its other end.
func on(t *testing.T, term *terminal, answers bool) (*console.Console, *os.File, string) {
	t.Helper()
	master, path := pty(t)
	active := filepath.Join(t.TempDir(), "active")
	if err := os.WriteFile(active, []byte(filepath.Base(path)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if answers {
		term.answer = master
	}
	ended := make(chan struct{})
	go func() { defer close(ended); io.Copy(term, master) }() // ends when the slave is closed
	c := console.Open(active, filepath.Dir(path), io.Discard)
	t.Cleanup(func() {
		c.Close()
		master.Close()
		<-ended
		if term.unknown != nil {
			t.Errorf("sequences that not every terminal knows: %q", term.unknown)
		}
	})
	return c, master, path
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
}

// TestScreen: on a terminal that answers there is one screen: the step, the
// bar, the rate, where it comes from, the last lines, the keys.
func TestScreen(t *testing.T) {
	term := newTerminal(24, 80)
	c, _, _ := on(t, term, true)
	for i := range 40 {
		c.Printf("line %d …", i)
	}
	c.Event(api.Event{Type: api.EventStep, Step: "receive", State: api.StepRunning})
	c.Event(api.Event{Type: api.EventProgress, Step: "receive", Progress: &api.Progress{
		Total: 2000 << 20, Planned: 1000 << 20, InPlace: 100 << 20, Written: 900 << 20, Rate: 50 << 20,
		Received: map[string]int64{"multicast": 700 << 20, "http": 1 << 20}}})
	c.Logf("progress, which the screen tells better")
	shows := func(texts ...string) func() bool {
		return func() bool {
			for _, s := range texts {
				if !strings.Contains(term.String(), s) {
					return false
				}
			}
			return true
		}
	}
	bar := "[" + strings.Repeat("#", 34) + strings.Repeat(".", 34) + "]  50 %"
	wait(t, "the screen is\n"+term.String(), shows(" receive: running, 0:0", bar, "1000 of 2000 MiB, 50.0 MiB/s, 0:20 left",
		"from multicast 700.0 MiB, http 1.0 MiB; compared 50 %, in place 5 %", "line 39 …", "s shell   r try again   b reboot   p power off"))
	if s := term.String(); strings.Contains(s, "line 24 ") || !strings.Contains(s, "line 25 ") || strings.Contains(s, "better") {
		t.Errorf("the screen is\n%s", s)
	}

	// Lines scroll the log, and cost little more than themselves.
	term.mu.Lock()
	before := term.bytes
	term.mu.Unlock()
	start := time.Now()
	for i := 40; i < 43; i++ {
		c.Printf("line %d", i)
	}
	wait(t, "no new line", shows("line 42", "line 28 …"))
	wait(t, "two seconds", func() bool { return time.Since(start) > 2*time.Second })
	term.mu.Lock()
	spent := term.bytes - before
	term.mu.Unlock()
	if spent > 600 {
		t.Errorf("three lines and two seconds took %d bytes", spent)
	}
	if s := term.String(); strings.Count(s, "line ") != 15 || !strings.Contains(s, bar) {
		t.Errorf("the screen is\n%s", s)
	}
}

// TestKeys: what is dangerous is asked for twice, and says so while a disk is
// being written.
func TestKeys(t *testing.T) {
	for _, answers := range []bool{true, false} {
		term := newTerminal(24, 80)
		c, master, _ := on(t, term, answers)
		done := make(chan string, 8)
		note := func(s string) func() { return func() { done <- s } }
		c.Offer(console.Actions{Shell: func(context.Context, string) error { return nil }, Retry: note("retry"), Reboot: note("reboot"), PowerOff: note("poweroff")})
		press := func(keys, shown string) {
			t.Helper()
			master.WriteString(keys)
			if shown != "" {
				wait(t, fmt.Sprintf("no %q on\n%s", shown, term), func() bool { return strings.Contains(term.String(), shown) })
			}
		}
		press("r", "trying again")
		press("\x1b[A\x1bOP\x1bx", "") // no keys of ours
		press("b", "reboot? y does it")
		press("n", "")
		c.Event(api.Event{Type: api.EventStep, Step: "receive", State: api.StepRunning})
		press("p", "power off? THE DISK IS BEING WRITTEN")
		press("y", "")
		for _, want := range []string{"retry", "poweroff"} {
			select {
			case got := <-done:
				if got != want {
					t.Errorf("a key did %s, want %s", got, want)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("no %s; the screen is\n%s", want, term)
			}
		}
	}
}

// TestLateTerminal: where there was only a log, somebody connects and presses a
// key, and has a screen.
func TestLateTerminal(t *testing.T) {
	term := newTerminal(30, 100)
	c, master, _ := on(t, term, false)
	c.Printf("first")
	wait(t, "no line", func() bool { return strings.Contains(term.String(), "huck: first") })
	term.mu.Lock()
	term.answer = master
	term.mu.Unlock()
	master.WriteString(" ")
	wait(t, "no screen", func() bool {
		s := term.String()
		return strings.HasPrefix(s, " Huck") && strings.Contains(s, "\nfirst\n") && !strings.Contains(s, "huck: first")
	})
}
