package console

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// painter keeps a terminal (ECMA-48, as the Linux console, VT100 and their
// like) at a page, and sends what differs only: at 115200 baud a whole page
// takes a sixth of a second.
type painter struct {
	rows, cols int
	shown      []string // nil: nothing is known of the screen
	seq        int
}

// paint returns what brings the terminal from what it shows to the page.
func (p *painter) paint(to page) string {
	var out strings.Builder
	room := p.rows - top - bottom
	switch {
	case p.shown == nil:
		out.WriteString("\x1b[0m\x1b[?25l\x1b[2J") // no attributes, no cursor, blank
		p.shown = make([]string, p.rows)
	case to.seq > p.seq && to.seq-p.seq < room:
		// The log moves up, which a terminal does itself within margins (DECSTBM).
		n := to.seq - p.seq
		fmt.Fprintf(&out, "\x1b[%d;%dr\x1b[%d;1H%s\x1b[r", top+1, top+room, top+room, strings.Repeat("\n", n))
		log := p.shown[top : top+room]
		copy(log, log[n:])
		clear(log[room-n:])
	}
	p.seq = to.seq
	for i, line := range to.rows {
		p.row(&out, i, p.shown[i], line)
		p.shown[i] = line
	}
	if out.Len() > 0 {
		// Whatever else is written, the kernel's last words, goes to the bottom.
		fmt.Fprintf(&out, "\x1b[%d;1H", p.rows)
	}
	return out.String()
}

// row writes a line from the first character that differs to the last.
func (p *painter) row(out *strings.Builder, i int, old, line string) {
	if old == line {
		return
	}
	same, column := 0, 1
	for same < len(old) && same < len(line) {
		a, n := utf8.DecodeRuneInString(old[same:])
		b, m := utf8.DecodeRuneInString(line[same:])
		if a != b || n != m {
			break
		}
		same += n
		column++
	}
	rest, before := line[same:], old[same:]
	end := ""
	if utf8.RuneCountInString(rest) < utf8.RuneCountInString(before) {
		end = "\x1b[K" // the old line was longer
	} else if utf8.RuneCountInString(rest) == utf8.RuneCountInString(before) {
		for len(rest) > 0 && len(before) > 0 && rest[len(rest)-1] == before[len(before)-1] && rest[len(rest)-1] < utf8.RuneSelf {
			rest, before = rest[:len(rest)-1], before[:len(before)-1]
		}
	}
	fmt.Fprintf(out, "\x1b[%d;%dH%s%s", i+1, column, rest, end)
}

// refresh forgets what the screen shows, without blanking it: what somebody
// else wrote over it goes.
func (p *painter) refresh(to page) string {
	var out strings.Builder
	for i, line := range to.rows {
		fmt.Fprintf(&out, "\x1b[%d;1H%s\x1b[K", i+1, line)
	}
	p.shown, p.seq = append([]string(nil), to.rows...), to.seq
	fmt.Fprintf(&out, "\x1b[%d;1H", p.rows)
	return out.String()
}

// leave returns what gives the terminal back: cursor shown, at the bottom.
func (p *painter) leave() string {
	p.shown = nil
	return fmt.Sprintf("\x1b[r\x1b[?25h\x1b[%d;1H\r\n", p.rows)
}

// probe asks a terminal how large it is, by moving the cursor as far as it
// goes and asking where it is (DSR 6). A log file does not answer.
const probe = "\x1b7\x1b[r\x1b[999;999H\x1b[6n\x1b8"
