// Bootserver starts machines that have no system: it leases addresses, hands
// out the appliance, tells each machine which image it is to carry, and sends
// the images. BOOTING.md beside it tells the way of a boot; `bootserver
// --help` its command line.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"huck/bootserver/config"
	"huck/imager/api"
	"huck/imager/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, Env{Stdout: os.Stdout, Stderr: os.Stderr}, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bootserver:", err)
	}
	os.Exit(exitCode(err))
}

// Env is what the program has of the world.
type Env struct {
	Stdout, Stderr io.Writer
}

// The exit codes, as --help prints them.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitNotFound    = 4
	exitInterrupted = 130
)

const description = `Starts machines over the network and tells each which image it is to carry.

Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 not found, 130 interrupted.`

// usageError is about the words on the command line.
type usageError struct{ error }

// errRefused is wrapped by what is refused before anything was changed.
var errRefused = errors.New("refused")

func exitCode(err error) int {
	var said *api.Error
	code := ""
	if errors.As(err, &said) {
		code = said.Code
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, new(usageError)), code == "bad_request":
		return exitUsage
	case errors.Is(err, errRefused):
		return exitRefused
	case errors.Is(err, store.ErrNotFound), code == "not_found":
		return exitNotFound
	}
	return exitFailed
}

// cli is the whole command line.
type cli struct {
	JSON  bool `name:"json" help:"Results and logs as JSON, one value a line."`
	Quiet bool `short:"q" help:"Log warnings and errors only."`

	Version kong.VersionFlag `name:"version" help:"Print the version and exit."`

	Serve    serveCmd    `cmd:"" help:"Serve until SIGTERM."`
	Nodes    nodesCmd    `cmd:"" help:"List the machines."`
	Events   eventsCmd   `cmd:"" help:"Print what happened, and what happens."`
	Assign   assignCmd   `cmd:"" help:"Tell a machine, or each of a group, which image to carry."`
	Capture  captureCmd  `cmd:"" help:"Have a machine put an image of its disk into the store."`
	Unassign unassignCmd `cmd:"" help:"Take the assignment of a machine or a group away."`
	Group    groupCmd    `cmd:"" help:"Put machines into a group; each gets the group's assignment unless it has one of its own."`
	Maintain maintainCmd `cmd:"" help:"Keep a machine in the rescue shell, with nothing written to its disk."`
	Model    modelCmd    `cmd:"" help:"Say how machines of a model start the system on their disk; else it is kexec until that was seen to fail."`
}

// app is what every command gets.
type app struct {
	ctx         context.Context
	env         Env
	json, quiet bool
	config      *config.File // empty without --config
}

// helpShown unwinds a run that printed help, after which kong expects the
// process to be gone.
type helpShown struct{}

func run(ctx context.Context, env Env, args []string) (err error) {
	var c cli
	file := new(config.File)
	parser, err := kong.New(&c, kong.Bind(file), kong.Name("bootserver"), kong.Description(description), kong.Vars{"version": api.Version()},
		kong.Writers(env.Stdout, env.Stderr), kong.Exit(func(int) { panic(helpShown{}) }))
	if err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(helpShown); !ok {
				panic(r)
			}
			err = nil
		}
	}()
	k, err := parser.Parse(args)
	if err != nil {
		return usageError{fmt.Errorf("%w; see bootserver --help", err)}
	}
	err = k.Run(&app{ctx: ctx, env: env, json: c.JSON, quiet: c.Quiet, config: file})
	if ctx.Err() != nil && err != nil {
		// Whatever broke then broke because of the signal.
		return fmt.Errorf("interrupted: %w", context.Canceled)
	}
	return err
}

// logger writes to stderr.
func (a *app) logger(level slog.Level) *slog.Logger {
	if a.quiet {
		level = max(level, slog.LevelWarn)
	}
	opts := &slog.HandlerOptions{Level: level}
	if a.json {
		return slog.New(slog.NewJSONHandler(a.env.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(a.env.Stderr, opts))
}
