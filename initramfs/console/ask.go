package console

import (
	"context"
	"strings"
)

// Ask prints a question on every console and returns the first line that
// somebody types on any of them, without surrounding space. Enter alone is no
// answer: it opens a shell, where one is offered. One question is asked at a
// time. It fails when ctx is done, or at once where nothing can be typed.
func (c *Console) Ask(ctx context.Context, question string) (string, error) {
	answer := make(chan string, 1)
	c.asking(answer)
	defer c.asking(nil)
	if !c.listen() {
		return "", errNoKeyboard
	}
	c.Printf("%s", question)
	select {
	case line := <-answer:
		return line, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (c *Console) asking(answer chan string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = answer
}

// typedLine takes what was typed up to Enter: an answer, or the wish for a
// shell.
func (c *Console) typedLine(t *tty, line string) {
	line = strings.TrimSpace(line)
	c.mu.Lock()
	answer, shell, ctx := c.answer, c.shell, c.shellCtx
	c.mu.Unlock()
	switch {
	case answer != nil && line != "":
		select {
		case answer <- line:
		default: // there is an answer already
		}
	case shell != nil:
		t.shell(ctx, c, shell)
	}
}
