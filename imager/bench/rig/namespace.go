package rig

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespace is a thread in a network namespace of its own.
type namespace struct {
	tid  int
	jobs chan func()
	done chan struct{}
}

func newNamespace() (*namespace, error) {
	ns := &namespace{jobs: make(chan func()), done: make(chan struct{})}
	ready := make(chan error, 1)
	go ns.serve(ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("new network namespace: %w", err)
	}
	return ns, nil
}

// serve runs jobs until close. The thread is never unlocked, so it ends with
// the goroutine and takes with it the programs that it started (Pdeathsig goes
// by thread) and the namespace.
func (ns *namespace) serve(ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// A process's first thread never ends. Hold it while another takes the job.
		defer runtime.UnlockOSThread()
		started := make(chan error, 1)
		go ns.serve(started)
		ready <- <-started
		return
	}
	defer close(ns.done)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		ready <- err
		return
	}
	ns.tid = unix.Gettid()
	ready <- nil
	for job := range ns.jobs {
		job()
	}
}

func (ns *namespace) close() {
	close(ns.jobs)
	<-ns.done
}

// do calls f on the thread and returns what it returns.
func (ns *namespace) do(f func() error) error {
	result := make(chan error, 1)
	ns.jobs <- func() { result <- f() }
	return <-result
}

// output runs a program with the given input and returns what it prints.
func (ns *namespace) output(ctx context.Context, input string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &said
	err := ns.do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return out.Bytes(), nil
}

func (ns *namespace) run(ctx context.Context, input string, args ...string) error {
	_, err := ns.output(ctx, input, args...)
	return err
}
