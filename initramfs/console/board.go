package console

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"huck/imager/api"
)

// keep is how many lines of the log are kept for screens: the tallest there is.
const keep = 100

// board is what there is to show: what the machine is doing, how far it is,
// and what was said last. It is fed with the lines and events that everybody
// else gets.
type board struct {
	mu       sync.Mutex
	step     string
	state    api.StepState
	since    time.Time // of the step
	progress *api.Progress
	log      []string // the last lines
	seq      int      // how many lines there were
	question string   // that waits for an answer
}

// say adds lines to the log.
func (b *board) say(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.SplitSeq(text, "\n") {
		b.log = append(b.log, plain(line))
		b.seq++
	}
	if n := len(b.log) - keep; n > 0 {
		b.log = append(b.log[:0], b.log[n:]...)
	}
}

// plain keeps what stands in a line from steering the terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// event takes what happened at now.
func (b *board) event(e api.Event, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e.Type {
	case api.EventStep:
		if e.Step != b.step || e.State == api.StepRunning {
			b.progress, b.since = nil, now
		}
		b.step, b.state = e.Step, e.State
	case api.EventProgress:
		b.progress = e.Progress
	}
}

// writing tells whether a disk is being written.
func (b *board) writing() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.step == "receive" && b.state != api.StepDone
}

func (b *board) ask(question string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.question = question
}

const (
	top    = 7 // rows above the log
	bottom = 2 // rows below it
	hint   = "s shell   r try again   b reboot   p power off"
)

// page is the screen's content, a line a row, without blanks at the ends; seq
// counts the lines of the log so far.
type page struct {
	rows []string
	seq  int
}

// page lays the board out. There are at least 12 rows and 40 columns.
func (b *board) page(rows, cols int, now time.Time, uptime string) page {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := make([]string, rows)
	title, right := " Huck", strings.Trim(uptime, "[] ")+" s since power-on "
	p[0] = title + strings.Repeat(" ", max(1, cols-len(title)-len(right))) + right
	if b.step != "" {
		p[2] = fmt.Sprintf(" %s: %s, %s", b.step, b.state, clock(now.Sub(b.since)))
	}
	if b.progress != nil {
		p[3], p[4], p[5] = amounts(*b.progress, cols)
	}
	rule := strings.Repeat("-", cols)
	p[top-1], p[rows-bottom] = rule, rule
	room := rows - top - bottom
	last := b.log[max(0, len(b.log)-room):]
	copy(p[top+room-len(last):], last)
	p[rows-1] = " " + hint
	if b.question != "" {
		p[rows-1] = " " + b.question
	}
	for i := range p {
		p[i] = strings.TrimRight(cut(p[i], cols-1), " ") // a last column would wrap on some terminals
	}
	return page{p, b.seq}
}

// amounts tells progress in three lines.
func amounts(p api.Progress, cols int) (bar, rate, from string) {
	const mib = 1 << 20
	percent := p.Percent()
	width := min(cols-12, 100)
	full := int(percent) * width / 100
	bar = fmt.Sprintf(" [%s%s] %3d %%", strings.Repeat("#", full), strings.Repeat(".", width-full), percent)
	rate = fmt.Sprintf(" %d of %d MiB", (p.InPlace+p.Written)/mib, p.Total/mib)
	if p.Rate > 0 {
		rate += fmt.Sprintf(", %.1f MiB/s", float64(p.Rate)/mib)
	}
	if left := p.Left(); left >= 0 {
		rate += ", " + clock(left) + " left"
	}
	from = " from"
	for _, via := range []string{"multicast", "http", "store"} {
		if n := p.Received[via]; n > 0 {
			from += fmt.Sprintf(" %s %.1f MiB,", via, float64(n)/mib)
		}
	}
	if from == " from" {
		from = ""
	} else {
		from = strings.TrimSuffix(from, ",") + ";"
	}
	if p.Total > 0 {
		from += fmt.Sprintf(" compared %d %%, in place %d %%", 100*p.Planned/p.Total, 100*p.InPlace/p.Total)
	}
	return bar, rate, from
}

// clock is a duration as 1:02:03, or 2:03.
func clock(d time.Duration) string {
	s := int(max(0, d).Seconds())
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// cut shortens a line to so many characters.
func cut(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}
