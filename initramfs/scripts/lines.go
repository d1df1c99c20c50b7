package scripts

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// maxLine bounds a line in bytes; longer ones are cut into several.
	maxLine = 1024
	// maxLines bounds the lines of one script: each is an event that the server
	// stores.
	maxLines = 1000
)

// lines makes lines of what is written to it. It is not safe for concurrent
// use.
type lines struct {
	tell func(string)
	rest []byte
	told int
	left int // lines that were not told
}

// Write implements io.Writer; it has no errors, so that no script fails for
// what it says.
func (l *lines) Write(p []byte) (int, error) {
	for _, c := range p {
		if c == '\n' || len(l.rest) >= maxLine && utf8.RuneStart(c) {
			l.flush()
		}
		if c != '\n' {
			l.rest = append(l.rest, c)
		}
	}
	return len(p), nil
}

func (l *lines) flush() {
	text := strings.ToValidUTF8(string(bytes.TrimRight(l.rest, "\r ")), "?")
	l.rest = l.rest[:0]
	// A progress bar's last state, and nothing that moves the cursor.
	text = text[strings.LastIndexByte(text, '\r')+1:]
	text = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, text)
	switch {
	case text == "":
	case l.told == maxLines:
		l.left++
	default:
		l.told++
		l.tell(text)
	}
}

// end tells what is left.
func (l *lines) end() {
	if len(l.rest) > 0 {
		l.flush()
	}
	if l.left > 0 {
		l.tell(fmt.Sprintf("(%d more lines are left out)", l.left))
	}
}
