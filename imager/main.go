// Imager makes disk images, keeps them in a store, and puts them on disks, on
// this machine or over the network. DESIGN of its command line: `imager --help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"huck/imager/api"
	"huck/imager/capture"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/store"
)

func main() {
	// What runs long allocates next to nothing, so collecting early costs little
	// and keeps the memory near what is in use: a node may have little of it.
	debug.SetGCPercent(25)
	// Go leaves a processor with a system call for a while before it gives it to
	// other goroutines. Two more than there are keep all busy meanwhile.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	env := Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Terminal: term.IsTerminal(int(os.Stderr.Fd())), User: os.Geteuid()}
	err := run(ctx, env, os.Args[1:])
	stop()
	if err != nil && !errors.As(err, new(helpShown)) {
		fmt.Fprintln(os.Stderr, "imager:", err)
	}
	os.Exit(exitCode(err))
}

// Env is what the program has of the world.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Terminal says that Stderr is one.
	Terminal bool
	// User is the number of who runs it, 0 for root.
	User int
}

// The exit codes, as --help prints them.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitNotFound    = 4
	exitDiffers     = 5
	exitInterrupted = 130
)

const description = `Makes images of disks, keeps them in a store, and puts them on disks.

Exit codes: 0 done, 1 failed, 2 usage, 3 refused before the first write,
4 not found, 5 verify or check found differences, 130 interrupted.

Progress goes to standard error. With --json it is such lines, in bytes:
{"event":"progress","job":"import a.vmdk","step":"unpack","done":1,"total":9}
Only what goes before the job proper (unpack, fill, attributes) or after it
(convert, verify) has a step.`

// usageError is about the words on the command line.
type usageError struct{ error }

// helpShown ends a run that only printed help.
type helpShown struct{}

func (helpShown) Error() string { return "help shown" }

// errDiffers ends a verify or check that found what should not be.
var errDiffers = errors.New("differences found")

func exitCode(err error) int {
	var (
		usage   usageError
		said    *api.Error
		target  *install.Refused
		source  *capture.Refused
		differs *install.DiffError
	)
	switch {
	case err == nil, errors.As(err, new(helpShown)):
		return 0
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &target), errors.As(err, &source):
		return exitRefused
	case errors.Is(err, store.ErrNotFound), errors.As(err, &said) && said.Code == "not_found":
		return exitNotFound
	case errors.Is(err, errDiffers), errors.As(err, &differs):
		return exitDiffers
	}
	return exitFailed
}

// cli is the whole command line.
type cli struct {
	JSON  bool `name:"json" help:"Results and progress as JSON, one value a line."`
	Quiet bool `short:"q" help:"No progress."`

	Version kong.VersionFlag `name:"version" help:"Print the version and exit."`

	Capture captureCmd `cmd:"" help:"Make an image of a disk and put it into a store."`
	Install installCmd `cmd:"" help:"Put an image from a store on a disk."`
	Send    sendCmd    `cmd:"" help:"Serve an image to the network by multicast and HTTP."`
	Receive receiveCmd `cmd:"" help:"Receive an image from the network and put it on a disk."`
	Images  imagesCmd  `cmd:"" help:"List the images of a store."`
	Show    showCmd    `cmd:"" help:"Show an image's manifest."`
	Diff    diffCmd    `cmd:"" help:"Compare two images."`
	Remove  removeCmd  `cmd:"" help:"Remove a version of an image; gc frees its space."`
	GC      gcCmd      `cmd:"" name:"gc" help:"Free the space of chunks that no image names."`
	Check   checkCmd   `cmd:"" help:"Check a store."`
	Verify  verifyCmd  `cmd:"" help:"Compare a disk with an image."`
	Export  exportCmd  `cmd:"" help:"Write an image to a file."`
	Import  importCmd  `cmd:"" help:"Make an image of a file."`
}

// app is what every command gets.
type app struct {
	ctx context.Context
	env Env
	ui  *ui
	log *slog.Logger
	// store is the folder of the store that was opened.
	store string
}

func run(ctx context.Context, env Env, args []string) (err error) {
	var c cli
	// Kong prints help and then exits, which is main's alone to do.
	exited := false
	parser, err := kong.New(&c, kong.Name("imager"), kong.Description(description), kong.UsageOnError(), kong.Vars{"version": api.Version()},
		kong.Writers(env.Stdout, env.Stderr), kong.Exit(func(int) { exited = true; panic(helpShown{}) }))
	if err != nil {
		return err
	}
	defer func() {
		if exited {
			_ = recover() // Kong's Exit is expected not to return
			err = helpShown{}
		}
	}()
	k, err := parser.Parse(args)
	if err != nil {
		return usageError{fmt.Errorf("%w; see imager --help", err)}
	}
	u := &ui{env: env, json: c.JSON, quiet: c.Quiet}
	level := slog.LevelInfo
	if c.Quiet {
		level = slog.LevelWarn
	}
	a := &app{ctx: ctx, env: env, ui: u, log: u.logger(level)}
	err = k.Run(a)
	if ctx.Err() != nil && err != nil {
		// Whatever broke then broke because of the signal.
		return fmt.Errorf("interrupted: %w", context.Canceled)
	}
	return a.advise(err)
}

// advise adds to an error what to do about it, where the rest of the program
// cannot know.
func (a *app) advise(err error) error {
	switch {
	case errors.As(err, new(*image.ChunkError)) && a.store != "":
		return fmt.Errorf("%w; imager check --read-data --store %s lists the damage and says what mends it", err, a.store)
	case errors.Is(err, store.ErrNotFound) && a.store != "":
		return fmt.Errorf("%w; imager images --store %s lists the images, imager check what else may lack", err, a.store)
	case errors.Is(err, fs.ErrPermission) && a.env.User != 0:
		return fmt.Errorf("%w; run it as root", err)
	}
	return err
}
