// Program build makes what a machine is booted with: the kernel, the initramfs and the folder a boot server serves.
//
// Results land in build/out, which git ignores. Everything that takes long is kept in a cache outside the tree, so a
// second run takes seconds. `go run ./build --help` lists the commands.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes, as in every program of this project. `go run` itself turns all but 0 into 1.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, env{stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}, os.Args[1:])
	code := exitCode(ctx, err)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n", err)
	}
	os.Exit(code)
}

func exitCode(ctx context.Context, err error) int {
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		return exitUsage
	case ctx.Err() != nil:
		return exitInterrupted
	}
	return exitFailed
}
