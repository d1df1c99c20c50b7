package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// xzMemory is what xz may take; its highest level needs 65 MiB.
const xzMemory = "256MiB"

// unxz decompresses by the distribution's xz, a program like those that make the
// filesystems. done ends it, whether or not all was read.
func unxz(ctx context.Context, in io.Reader) (r io.Reader, done func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	x := &xzReader{cmd: exec.CommandContext(ctx, "xz", "--decompress", "--stdout", "--memlimit-decompress="+xzMemory)}
	x.cmd.Stdin, x.cmd.Stderr = in, &x.said
	if x.out, err = x.cmd.StdoutPipe(); err == nil {
		err = x.cmd.Start()
	}
	if err != nil {
		cancel()
		if errors.Is(err, exec.ErrNotFound) {
			err = &Refused{Device: "xz", Why: "it is not in PATH: install the package xz-utils"}
		}
		return nil, nil, err
	}
	return x, func() { cancel(); _ = x.wait() }, nil
}

// xzReader is what xz writes.
type xzReader struct {
	cmd   *exec.Cmd
	out   io.Reader
	said  bytes.Buffer
	ended bool
	err   error
}

// Read implements io.Reader. The end is one only if xz found its data sound.
func (x *xzReader) Read(b []byte) (int, error) {
	n, err := x.out.Read(b)
	if err != nil {
		if werr := x.wait(); werr != nil {
			err = werr
		}
	}
	return n, err
}

// wait waits for xz once.
func (x *xzReader) wait() error {
	if !x.ended {
		x.ended = true
		if err := x.cmd.Wait(); err != nil {
			x.err = fmt.Errorf("xz: %w: %s", err, strings.TrimSpace(x.said.String()))
		}
	}
	return x.err
}
