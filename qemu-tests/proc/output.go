// Package proc runs the programs of a VM test (QEMU, the boot server, judges
// such as e2fsck), always reads what they say, and lets a test wait for a line
// of it.
package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"sync"
)

// ErrEnded is wrapped when a program ended before it said what was waited for.
var ErrEnded = errors.New("output ended")

// Output keeps what a program says, in memory and in a file. Its writer never
// blocks, so that a console nobody looks at cannot stall its machine.
type Output struct {
	file io.WriteCloser

	mu      sync.Mutex
	text    []byte
	ended   bool
	changed chan struct{}
}

// NewOutput returns an output that also writes to a new file at path; an empty
// path keeps it in memory only.
func NewOutput(path string) (*Output, error) {
	o := &Output{changed: make(chan struct{})}
	if path == "" {
		return o, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("proc: keep output: %v", err)
	}
	o.file = f
	return o, nil
}

// Write implements io.Writer. A log file that cannot be written does not
// disturb the program.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file != nil {
		_, _ = o.file.Write(p)
	}
	o.text = append(o.text, p...)
	o.wake()
	return len(p), nil
}

// End says that nothing more will come and closes the file.
func (o *Output) End() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return
	}
	o.ended = true
	if o.file != nil {
		_ = o.file.Close()
	}
	o.wake()
}

func (o *Output) wake() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// String returns all that was said so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// Len returns the number of bytes said so far, a position to Wait from.
func (o *Output) Len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.text)
}

// Wait waits until re matches what was said from byte position from on, and
// returns the match's groups and the position after it. It ends early with an
// error that wraps ErrEnded if the program does, or the context's error.
func (o *Output) Wait(ctx context.Context, re *regexp.Regexp, from int) (groups []string, next int, err error) {
	for {
		o.mu.Lock()
		text, ended, changed := o.text[min(from, len(o.text)):], o.ended, o.changed
		o.mu.Unlock()
		if at := re.FindSubmatchIndex(text); at != nil {
			for i := 0; i < len(at); i += 2 {
				group := ""
				if at[i] >= 0 {
					group = string(text[at[i]:at[i+1]])
				}
				groups = append(groups, group)
			}
			return groups, from + at[1], nil
		}
		if ended {
			return nil, 0, fmt.Errorf("proc: wait for %q: %w; last words:\n%s", re, ErrEnded, tail(text))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, 0, fmt.Errorf("proc: wait for %q: %w; last words:\n%s", re, context.Cause(ctx), tail(text))
		}
	}
}

// tail returns the last lines of a console for an error message.
func tail(text []byte) string {
	const most = 1500
	if len(text) > most {
		text = text[len(text)-most:]
	}
	return string(text)
}
