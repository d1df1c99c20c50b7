// Command bench measures Huck beside other programs that do the same, in the
// same run on the same machine, and holds the figures against the project's
// bars. It needs what build/bootstrap.sh bench installs and, where it makes
// networks, root.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

const description = `Measures Huck beside other programs that do the same, in the same run.

Exit codes: 0 done and every bar held, 1 failed or a bar not held, 2 usage, 130 interrupted.`

// Env is what the program has of the world.
type Env struct{ Stdout, Stderr io.Writer }

// cli is the whole command line.
type cli struct {
	Cast  castCmd  `cmd:"" help:"Multicast to many receivers, beside udpcast and uftp."`
	Image imageCmd `cmd:"" help:"Capture and install a disk, beside partclone, zstd and dd."`
	Soak  soakCmd  `cmd:"" help:"Install over and over under random faults, and compare every target."`
}

// errUsage is about the words on the command line.
var errUsage = errors.New("see bench --help")

// errBar ends a run that held all together but not every bar.
var errBar = errors.New("not every bar was held")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, Env{os.Stdout, os.Stderr}, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	os.Exit(exitCode(err))
}

func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled):
		return 130
	case errors.Is(err, errUsage):
		return 2
	}
	return 1
}

func run(ctx context.Context, env Env, args []string) (err error) {
	var c cli
	exited := false
	parser, err := kong.New(&c, kong.Name("bench"), kong.Description(description),
		kong.Writers(env.Stdout, env.Stderr), kong.Exit(func(int) { exited = true; panic("help shown") }),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(env))
	if err != nil {
		return err
	}
	defer func() {
		if exited {
			_ = recover() // Kong's Exit is expected not to return
			err = nil
		}
	}()
	k, err := parser.Parse(args)
	if err != nil {
		return fmt.Errorf("%v; %w", err, errUsage)
	}
	err = k.Run()
	if ctx.Err() != nil && err != nil {
		// Whatever broke then broke because of the signal.
		return fmt.Errorf("interrupted: %w", context.Canceled)
	}
	return err
}
