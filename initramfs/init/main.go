// Init is the appliance: the first and only program of the system that boots
// on a machine to image it. As process 1 it mounts what the kernel offers and
// keeps one child alive, which is the boot itself (story.go reads top to
// bottom). Called by another name it is that command of the rescue shell.
//
//	init                   as process 1: boot
//	init --list-commands   print the names it answers to, one a line
//	init NAME [ARG…]       run that command; as does a link of that name
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"huck/initramfs/rescue"
)

// childName is what process 1 calls its child, in argv[0].
const childName = "huck-boot"

// reportArg has the child tell the server of crashes and restart the machine,
// and nothing else.
const reportArg = "report"

func main() { os.Exit(run(context.Background(), os.Args, rescue.Std())) }

// run returns the exit code.
func run(ctx context.Context, args []string, s rescue.IO) int {
	name, rest := filepath.Base(args[0]), args[1:]
	switch {
	case os.Getpid() == 1:
		// Its arguments are what the kernel could not use of its command line; none is for us.
		return supervise(args[0])
	case name == childName:
		return bootMachine(ctx, len(rest) > 0 && rest[0] == reportArg)
	case rescue.Has(name):
		return rescue.Run(ctx, s, name, rest)
	case len(rest) == 1 && rest[0] == "--list-commands":
		for _, n := range rescue.Names() {
			fmt.Fprintln(s.Out, n)
		}
		return 0
	case len(rest) > 0 && rescue.Has(rest[0]):
		return rescue.Run(ctx, s, rest[0], rest[1:])
	}
	fmt.Fprintf(s.Err, "usage: init --list-commands | init NAME [ARG…]\nWithout arguments it is for process 1 only.\n")
	return 2
}
