package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"time"
)

// env is what run may touch of the process it lives in.
type env struct {
	stdout, stderr io.Writer
	getenv         func(string) string
}

// usageError is a mistake on the command line.
type usageError struct{ msg string }

func (e usageError) Error() string { return e.msg + " (try --help)" }

// step is one thing to build. It says on log how it gets on.
type step struct {
	name string
	run  func(ctx context.Context, opts options, log logFunc) error
}

type logFunc = func(format string, args ...any)

// steps lists what a command builds, in order; nil for a command that does not exist.
func steps(command string) []step {
	kernel := step{"kernel", buildKernel}
	initramfs := step{"initramfs", buildInitramfs}
	uki := step{"uki", buildUKI}
	netboot := step{"netboot", buildNetboot}
	switch command {
	case "kernel":
		return []step{kernel}
	case "initramfs":
		return []step{initramfs}
	case "uki":
		return []step{kernel, initramfs, uki}
	case "medium":
		return []step{kernel, initramfs, {"tools", buildTools}, {"medium", buildMedium}}
	case "netboot", "all":
		return []step{kernel, initramfs, uki, netboot}
	}
	return nil
}

// run is the program without its process.
func run(ctx context.Context, e env, args []string) error {
	command, opts, err := parse(e, args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	todo := steps(command)
	if todo == nil {
		return usageError{fmt.Sprintf("no command %q", command)}
	}
	if err := opts.complete(e); err != nil {
		return err
	}
	for _, s := range todo {
		begun := time.Now()
		log := func(format string, args ...any) {
			fmt.Fprintf(e.stderr, s.name+": "+format+"\n", args...)
		}
		if err := s.run(ctx, opts, log); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		log("done in %.1f s", time.Since(begun).Seconds())
	}
	return nil
}

// parse reads the command line. Flags may stand before and after the command; help has been printed
// when the error is flag.ErrHelp.
func parse(e env, args []string) (command string, opts options, err error) {
	flags := opts.flagSet()
	if slices.Equal(args, []string{"help"}) {
		args = []string{"--help"}
	}
	for len(args) > 0 {
		switch err := flags.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			printHelp(e.stdout, flags)
			return "", opts, err
		case err != nil:
			return "", opts, usageError{err.Error()}
		}
		args = flags.Args()
		if len(args) == 0 {
			break
		}
		if command != "" {
			return "", opts, usageError{fmt.Sprintf("unexpected argument %q after %q", args[0], command)}
		}
		command, args = args[0], args[1:]
	}
	if command == "" {
		return "", opts, usageError{"no command given"}
	}
	return command, opts, nil
}
