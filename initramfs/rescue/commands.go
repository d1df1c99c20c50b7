// Package rescue is what a person finds at an appliance's console: a shell and
// the commands of a rescue, all in the one program that init is.
package rescue

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/u-root/u-root/pkg/core"
	"github.com/u-root/u-root/pkg/core/base64"
	"github.com/u-root/u-root/pkg/core/cat"
	"github.com/u-root/u-root/pkg/core/chmod"
	"github.com/u-root/u-root/pkg/core/cp"
	"github.com/u-root/u-root/pkg/core/find"
	"github.com/u-root/u-root/pkg/core/ls"
	"github.com/u-root/u-root/pkg/core/mkdir"
	"github.com/u-root/u-root/pkg/core/mktemp"
	"github.com/u-root/u-root/pkg/core/mv"
	"github.com/u-root/u-root/pkg/core/rm"
	"github.com/u-root/u-root/pkg/core/shasum"
	"github.com/u-root/u-root/pkg/core/tar"
	"github.com/u-root/u-root/pkg/core/touch"
	"github.com/u-root/u-root/pkg/core/xargs"

	"huck/initramfs/cmdline"
)

// IO is where a command reads and writes.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
}

// command runs with its arguments, its own name left out.
type command struct {
	usage string
	run   func(ctx context.Context, s IO, args []string) error
}

// commands returns all commands by name. A function, for the shell's own
// handler needs the table that it stands in.
func commands() map[string]command {
	return map[string]command{
		"base64": uroot(base64.New), "cat": uroot(cat.New), "chmod": uroot(chmod.New), "cp": uroot(cp.New),
		"find": uroot(find.New), "ls": uroot(ls.New), "mkdir": uroot(mkdir.New), "mktemp": uroot(mktemp.New),
		"mv": uroot(mv.New), "rm": uroot(rm.New), "shasum": uroot(shasum.New), "tar": uroot(tar.New),
		"touch": uroot(touch.New), "xargs": uroot(xargs.New),

		"dd":       {"if=FILE of=FILE [bs=N] [count=N] [skip=N] [seek=N] [conv=fsync]", dd},
		"df":       {"", df},
		"disks":    {"", disks},
		"dmesg":    {"", dmesg},
		"free":     {"", free},
		"grep":     {"[-i] [-v] REGEXP [FILE…]", grep},
		"gunzip":   {"< FILE", gunzip},
		"gzip":     {"< FILE", gzipCompress},
		"head":     {"[-n N] [FILE…]", head},
		"hexdump":  {"[-s OFFSET] [-n BYTES] [FILE]", hexdump},
		"ip":       {"[addr|link|route]", ip},
		"keys":     {"", keys},
		"kill":     {"[-SIGNUM] PID…", kill},
		"mount":    {"[-t TYPE] [-o OPTIONS] DEVICE FOLDER", mount},
		"ping":     {"[-c N] ADDRESS", ping},
		"poweroff": {"", poweroff},
		"ps":       {"", ps},
		"reboot":   {"", reboot},
		"sh":       {"[-c COMMAND | FILE [ARG…]]", Shell},
		"sleep":    {"SECONDS", sleep},
		"sync":     {"", syncDisks},
		"tail":     {"[-n N] [FILE…]", tail},
		"umount":   {"[-l] FOLDER", umount},
		"uname":    {"", uname},
		"wc":       {"[FILE…]", wc},
		"wget":     {"URL [FILE]", wget},
	}
}

// keys tells what the kernel command line may say to the appliance.
func keys(_ context.Context, s IO, _ []string) error {
	_, err := io.WriteString(s.Out, cmdline.Help)
	return err
}

// uroot makes one of u-root's commands one of ours.
func uroot(make func() core.Command) command {
	return command{run: func(ctx context.Context, s IO, args []string) error {
		c := make()
		c.SetIO(s.In, s.Out, s.Err)
		return c.RunContext(ctx, args...)
	}}
}

// Names returns the names of all commands, sorted.
func Names() []string {
	var names []string
	for name := range commands() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Has tells whether there is a command of that name.
func Has(name string) bool {
	_, ok := commands()[name]
	return ok
}

// ExitError is the exit code a command ends with when it has said all there is
// to say.
type ExitError int

// Error implements error.
func (e ExitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is a command line that a command cannot make sense of.
type usageError struct{}

func (usageError) Error() string { return "usage" }

// Run runs a command and returns its exit code: 0 done, 1 failed, 2 usage, 127
// unknown.
func Run(ctx context.Context, s IO, name string, args []string) int {
	c, ok := commands()[name]
	if !ok {
		fmt.Fprintf(s.Err, "%s: no such command\n", name)
		return 127
	}
	switch err := c.run(ctx, s, args).(type) {
	case nil:
		return 0
	case ExitError:
		return int(err)
	case usageError:
		fmt.Fprintf(s.Err, "usage: %s %s\n", name, c.usage)
		return 2
	default:
		fmt.Fprintf(s.Err, "%s: %v\n", name, err)
		return 1
	}
}

// Std is the process's own input and output.
func Std() IO { return IO{os.Stdin, os.Stdout, os.Stderr} }
