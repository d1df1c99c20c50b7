package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// workload is a folder with the program to measure, and files and images of
// random bytes: nothing compresses, so that chunks are stored and sent raw and
// encoded bytes are the file's.
type workload struct {
	dir    string
	imager string
	made   map[string]bool
}

// newWorkload builds the imager into a new folder, or takes a given one. The
// caller calls remove.
func newWorkload(ctx context.Context, imager string) (*workload, error) {
	dir, err := os.MkdirTemp("", "huck-bench-")
	if err != nil {
		return nil, err
	}
	w := &workload{dir: dir, imager: imager, made: make(map[string]bool)}
	if imager == "" {
		w.imager = filepath.Join(dir, "imager")
		if _, err := output(ctx, "go", "build", "-o", w.imager, "huck/imager"); err != nil {
			return nil, errors.Join(err, w.remove())
		}
	}
	return w, nil
}

func (w *workload) remove() error { return os.RemoveAll(w.dir) }

func (w *workload) store() string { return filepath.Join(w.dir, "store") }

// image makes a file of random bytes and an image of it, if it is not made
// yet, and returns the file's path and the image's name.
func (w *workload) image(ctx context.Context, size int64, seed byte) (file, name string, err error) {
	name = fmt.Sprintf("bench%d-%d", seed, size>>20)
	file = filepath.Join(w.dir, name+".raw")
	if w.made[name] {
		return file, name, nil
	}
	if err := randomFile(file, size, seed); err != nil {
		return "", "", err
	}
	if _, err := output(ctx, w.imager, "--quiet", "capture", file, "--store", w.store(), "--name", name); err != nil {
		return "", "", err
	}
	w.made[name] = true
	return file, name, nil
}

func randomFile(path string, size int64, seed byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	buf := bufio.NewWriterSize(f, 1<<20)
	_, err = io.CopyN(buf, rand.NewChaCha8([32]byte{seed}), size)
	if err == nil {
		err = buf.Flush()
	}
	return errors.Join(err, f.Close())
}

// idleMemory returns what the imager has resident when it does nothing.
func (w *workload) idleMemory(ctx context.Context) (int64, error) {
	cmd := exec.CommandContext(ctx, w.imager, "--help")
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s --help: %w", w.imager, err)
	}
	return cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10, nil
}

// has reports whether a command of the imager knows a flag.
func (w *workload) has(ctx context.Context, command, flag string) (bool, error) {
	help, err := output(ctx, w.imager, command, "--help")
	return strings.Contains(string(help), flag), err
}

// output runs a program to its end.
func output(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = 5 * time.Second
	b, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return b, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return b, fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return b, nil
}

// wait returns when d has passed or ctx is done.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// poll calls f every step until it says that it is done.
func poll(ctx context.Context, step time.Duration, f func() (done bool, err error)) error {
	for {
		if done, err := f(); done || err != nil {
			return err
		}
		if err := wait(ctx, step); err != nil {
			return err
		}
	}
}
