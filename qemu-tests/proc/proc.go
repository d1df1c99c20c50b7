package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Command says what to run.
type Command struct {
	// Netns is the network namespace to run in; empty for the caller's own.
	Netns string
	Args  []string
	Dir   string
	Env   []string // added to the caller's environment by the caller; nil inherits
	// Log is a file for standard output, and LogErr one for standard error;
	// empty keeps them in memory only.
	Log, LogErr string
}

// Proc is a running program in a process group of its own. It dies with the
// process that started it, even if that one is killed.
type Proc struct {
	Stdout, Stderr *Output

	cmd   *exec.Cmd
	stdin io.WriteCloser
	done  chan struct{}
	err   error // valid after done
	kill  sync.Once
}

// Start starts a program. Whoever starts it calls Stop or Kill.
func Start(c Command) (*Proc, error) {
	p := &Proc{done: make(chan struct{})}
	var err error
	if p.Stdout, err = NewOutput(c.Log); err != nil {
		return nil, err
	}
	if p.Stderr, err = NewOutput(c.LogErr); err != nil {
		return nil, err
	}
	p.cmd = command(c)
	p.cmd.Stdout, p.cmd.Stderr = p.Stdout, p.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("proc: %v", err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("proc: start: %v", err)
	}
	// Ends when the program does; Kill and Stop wait for it.
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
		p.Stdout.End()
		p.Stderr.End()
	}()
	return p, nil
}

func command(c Command) *exec.Cmd {
	args := c.Args
	if c.Netns != "" {
		args = append([]string{"ip", "netns", "exec", c.Netns}, args...) // exec keeps the process ID
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = c.Dir, c.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second // for a grandchild that holds the pipes
	return cmd
}

// Write sends bytes to the program's standard input, as to a serial console.
func (p *Proc) Write(b []byte) (int, error) { return p.stdin.Write(b) }

// Pid returns the process ID.
func (p *Proc) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Wait waits for the end and returns how the program ended.
func (p *Proc) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("proc: wait for %s to end: %w", p.cmd.Args[0], context.Cause(ctx))
	}
}

// Kill ends the whole process group at once (SIGKILL) and waits until it is gone.
func (p *Proc) Kill() {
	p.kill.Do(func() { p.signal(syscall.SIGKILL) })
	<-p.done
}

// Stop asks the program to end (SIGTERM), waits up to patience, then kills it.
func (p *Proc) Stop(patience time.Duration) error {
	p.signal(syscall.SIGTERM)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.err
	case <-timer.C:
		p.Kill()
		return fmt.Errorf("proc: %s did not end within %v of SIGTERM", p.cmd.Args[0], patience)
	}
}

// signal reaches the group only while its leader has not been waited for, so
// that a reused process ID is never hit.
func (p *Proc) signal(s syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, s)
	}
}

// ExitError is a program that ended with a code other than 0.
type ExitError struct {
	Args   []string
	Code   int // -1 if a signal ended it
	Stderr string
}

// Error implements error.
func (e *ExitError) Error() string {
	return fmt.Sprintf("proc: %s: exit code %d: %s", strings.Join(e.Args, " "), e.Code, strings.TrimSpace(e.Stderr))
}

// Run runs a program to its end and returns its standard output. A code other
// than 0 is an *ExitError.
func Run(ctx context.Context, c Command) ([]byte, error) { return RunInput(ctx, c, nil) }

// RunInput is Run with bytes for the standard input.
func RunInput(ctx context.Context, c Command, input []byte) ([]byte, error) {
	cmd := command(c)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("proc: start: %v", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	err := cmd.Wait()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("proc: %s: %w", strings.Join(c.Args, " "), context.Cause(ctx))
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		why := stderr.String()
		if why == "" {
			why = stdout.String()
		}
		return stdout.Bytes(), &ExitError{Args: c.Args, Code: exit.ExitCode(), Stderr: tail([]byte(why))}
	}
	if err != nil {
		return nil, fmt.Errorf("proc: %s: %v", strings.Join(c.Args, " "), err)
	}
	return stdout.Bytes(), nil
}
