package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Command says what to run on a host.
type Command struct {
	Args []string
	// Dir is where to run it; empty is the caller's folder.
	Dir string
	// Log is a file that its standard error, and its standard output, go to.
	Log string
	// OnLine, if set, is called with every line of its standard output, without
	// the line's end.
	OnLine func(line string)
}

// Process is a running program in a process group of its own. It ends with
// the network at the latest.
type Process struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}

	mu    sync.Mutex
	err   error
	ended time.Time
}

// Usage is what a program cost that has ended.
type Usage struct {
	// CPU is user and system time.
	CPU time.Duration
	// Memory is the most that was resident, in bytes. The kernel's count begins
	// with the process that forked, this one: it is never below its own.
	Memory int64
}

// Start starts a program on host i.
func (n *Network) Start(i int, c Command) (*Process, error) {
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("rig: %v", err)
	}
	p := &Process{cmd: exec.Command(c.Args[0], c.Args[1:]...), log: log, done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = c.Dir, log, log
	if c.OnLine != nil {
		p.cmd.Stdout = &lines{log: log, call: c.OnLine}
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = 5 * time.Second // for a grandchild that holds the pipe
	if err := n.hosts[i].do(p.cmd.Start); err != nil {
		return nil, errors.Join(fmt.Errorf("rig: start on host %d: %v", i, err), log.Close())
	}
	go p.wait() // ends when the program does
	return p, nil
}

func (p *Process) wait() {
	err := p.cmd.Wait()
	p.mu.Lock()
	p.err, p.ended = errors.Join(err, p.log.Close()), time.Now()
	p.mu.Unlock()
	close(p.done)
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Pid returns the process ID.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Ended returns when and how the program ended, which it must have.
func (p *Process) Ended() (time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended, p.err
}

// Usage returns what the program cost, which must have ended.
func (p *Process) Usage() Usage {
	s := p.cmd.ProcessState
	u := Usage{CPU: s.UserTime() + s.SystemTime()}
	if r, ok := s.SysUsage().(*syscall.Rusage); ok {
		u.Memory = r.Maxrss << 10
	}
	return u
}

// Kill ends the process group at once and waits until it is gone.
func (p *Process) Kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// Stop asks the program to end and kills it if it does not do so in time or
// before ctx is done.
func (p *Process) Stop(ctx context.Context, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-ctx.Done():
		p.Kill()
	}
}

// signal reaches the group only while its leader has not been waited for, so
// that a process ID used again is never hit.
func (p *Process) signal(s syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.Pid(), s)
	}
}

// lines calls a function with each line and copies all to a log.
type lines struct {
	log  *os.File
	call func(string)
	part []byte
}

// Write implements io.Writer. A log that cannot be written does not disturb
// the program.
func (l *lines) Write(b []byte) (int, error) {
	_, _ = l.log.Write(b)
	l.part = append(l.part, b...)
	for {
		i := bytes.IndexByte(l.part, '\n')
		if i < 0 {
			return len(b), nil
		}
		line := string(l.part[:i])
		l.part = l.part[i+1:]
		l.call(line)
	}
}
