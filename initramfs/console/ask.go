package console

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"
)

// errNoKeyboard says that none of the consoles can be typed on.
var errNoKeyboard = errors.New("console: nothing can be typed on any console")

// maxAnswer bounds a typed line, in bytes.
const maxAnswer = 200

// asking is a question that waits for a line.
type asking struct {
	question string
	answer   chan string
}

// Ask prints a question on every console and returns the first line that
// somebody types on any of them, without surrounding space. Enter alone is no
// answer: it opens a shell, where one is offered. One question is asked at a
// time; meanwhile keys are letters of the answer. It fails when ctx is done, or
// at once where nothing can be typed.
func (c *Console) Ask(ctx context.Context, question string) (string, error) {
	keyboard := false
	for _, t := range c.ttys {
		keyboard = keyboard || t.typed() != nil
	}
	if !keyboard {
		return "", errNoKeyboard
	}
	q := &asking{question, make(chan string, 1)}
	c.setAsking(q)
	defer c.setAsking(nil)
	c.Printf("%s", question)
	select {
	case line := <-q.answer:
		return line, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (c *Console) setAsking(q *asking) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asking = q
	text := ""
	if q != nil {
		text = q.question + ": "
	}
	c.board.ask(text)
}

// letter takes a key of an answer; it reports false for Enter alone.
func (c *Console) letter(t *tty, q *asking, k byte) bool {
	switch {
	case k == '\r' || k == '\n':
		line := strings.TrimSpace(string(t.typing))
		t.typing = nil
		t.echo("\r\n")
		if line == "" {
			return false
		}
		select {
		case q.answer <- line:
		default: // there is an answer already
		}
	case k == 0x7f || k == '\b':
		if n := len(t.typing); n > 0 {
			_, size := utf8.DecodeLastRune(t.typing)
			t.typing = t.typing[:n-size]
			t.echo("\b \b")
		}
	case k >= ' ' && len(t.typing) < maxAnswer:
		t.typing = append(t.typing, k)
		t.echo(string([]byte{k}))
	}
	c.board.ask(q.question + ": " + plain(string(t.typing)))
	return true
}
