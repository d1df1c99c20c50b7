package kernel

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	reportEvery = 15 * time.Second
	// A compiler ends within this after SIGTERM, or is killed.
	patience  = 5 * time.Second
	tailLines = 30
)

// run runs one phase of the build: its output goes to the log file, its progress to the user, and on failure the log's
// end, too. When ctx ends, the command ends with all it started.
func (t *tree) run(ctx context.Context, phase string, cmd *exec.Cmd) error {
	logFile, err := os.OpenFile(t.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close()
	fmt.Fprintf(logFile, "\n== %s: %s\n", phase, strings.Join(cmd.Args, " "))
	out := &watcher{log: logFile}
	cmd.Stdout, cmd.Stderr = out, out
	killAsGroup(cmd)

	t.log("%s (log: %s)", phase, t.logFile())
	stop := t.report(phase, out)
	err = cmd.Run()
	stop()
	switch {
	case ctx.Err() != nil:
		endGroup(cmd)
		return fmt.Errorf("%s: %w", phase, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("%s: %w; the end of %s:\n%s", phase, err, t.logFile(), out.tail())
	}
	return nil
}

// killAsGroup makes the command lead a process group of its own, which hears of ctx's end as one: make's compilers do
// not outlive it.
func killAsGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = patience
}

// endGroup kills what ignored SIGTERM. That nobody is left is the usual answer and no error.
func endGroup(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
}

// report says now and then how far the phase is, until the returned function is called.
func (t *tree) report(phase string, out *watcher) (stop func()) {
	begun := time.Now()
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(reportEvery)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				lines, last := out.progress()
				t.log("%s, %s, %d lines, %s", phase, time.Since(begun).Round(time.Second), lines, last)
			}
		}
	}()
	return func() { close(done); <-ended }
}

// watcher passes a command's output on to the log and remembers the last lines of it.
type watcher struct {
	log *os.File

	mu    sync.Mutex
	rest  []byte // an unfinished line
	last  []string
	count int
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, p...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			break
		}
		w.rest = rest
		w.count++
		w.last = append(w.last, string(line))
		if len(w.last) > tailLines {
			w.last = w.last[1:]
		}
	}
	return w.log.Write(p)
}

func (w *watcher) progress() (lines int, last string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.last) > 0 {
		last = strings.Join(strings.Fields(w.last[len(w.last)-1]), " ")
	}
	return w.count, last
}

func (w *watcher) tail() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.last, "\n")
}
