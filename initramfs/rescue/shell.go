package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/term"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// Shell runs a POSIX shell: a command (-c), a script, or what is typed.
func Shell(ctx context.Context, s IO, args []string) error {
	name, params := "", []string(nil)
	text := s.In
	switch {
	case len(args) > 1 && args[0] == "-c":
		text, params = strings.NewReader(args[1]), args[2:]
	case len(args) > 0 && strings.HasPrefix(args[0], "-"):
		return usageError{}
	case len(args) > 0:
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		text, name, params = f, args[0], args[1:]
	}
	typed, _ := s.In.(*os.File)
	in := s.In
	if len(args) == 0 && (typed == nil || !term.IsTerminal(int(typed.Fd()))) {
		in = nil // the script has the input for itself
	}
	r, err := interp.New(interp.StdIO(in, s.Out, s.Err), interp.Interactive(true), interp.ExecHandlers(builtin),
		interp.Env(expand.ListEnviron(environ()...)), interp.Params(append([]string{"--"}, params...)...))
	if err != nil {
		return err
	}
	if len(args) == 0 && in != nil {
		return exitError(interactive(ctx, s, typed, r))
	}
	prog, err := syntax.NewParser().Parse(text, name)
	if err != nil {
		return err
	}
	return exitError(r.Run(ctx, prog))
}

func exitError(err error) error {
	if code, ok := interp.IsExitStatus(err); ok {
		return ExitError(code)
	}
	return err
}

// environ is the process's environment with a PATH and a HOME.
func environ() []string {
	env := os.Environ()
	for _, e := range []string{"PATH=/bbin:/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/"} {
		key, _, _ := strings.Cut(e, "=")
		if os.Getenv(key) == "" {
			env = append(env, e)
		}
	}
	return env
}

// builtin runs the commands of this package as processes of their own, so that
// none can take the shell with it.
func builtin(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	return func(ctx context.Context, args []string) error {
		if !Has(args[0]) {
			if args[0] == "help" {
				fmt.Fprintln(interp.HandlerCtx(ctx).Stdout, strings.Join(Names(), " "))
				return nil
			}
			return next(ctx, args)
		}
		hc := interp.HandlerCtx(ctx)
		cmd := exec.CommandContext(ctx, "/proc/self/exe", args[1:]...)
		cmd.Args[0] = args[0]
		cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = hc.Dir, hc.Stdin, hc.Stdout, hc.Stderr
		hc.Env.Each(func(name string, v expand.Variable) bool {
			if v.Exported {
				cmd.Env = append(cmd.Env, name+"="+v.String())
			}
			return true
		})
		err := cmd.Run()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			return interp.NewExitStatus(uint8(max(exit.ExitCode(), 1)))
		}
		return err
	}
}

// interactive reads lines with a line editor and runs them. Ctrl-C ends what
// is running, not the shell.
func interactive(ctx context.Context, s IO, tty *os.File, r *interp.Runner) error {
	fmt.Fprint(s.Out, "Rescue shell: \"help\" lists the commands, \"exit\" or Ctrl-D leaves.\r\n")
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{tty, s.Out}, "")
	t.AutoCompleteCallback = func(line string, pos int, key rune) (string, int, bool) {
		if key != '\t' {
			return "", 0, false
		}
		return complete(line, pos, r.Dir)
	}
	parser := syntax.NewParser()
	for {
		t.SetPrompt("huck:" + r.Dir + "# ")
		stmts, err := readCommand(t, tty, parser)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !isSyntax(err):
			return err
		case err != nil:
			fmt.Fprintf(s.Err, "%v\r\n", err)
			continue
		}
		for _, st := range stmts {
			err = interruptible(ctx, func(ctx context.Context) error { return r.Run(ctx, st) })
			if r.Exited() {
				return err
			}
			if _, ok := interp.IsExitStatus(err); err != nil && !ok {
				fmt.Fprintf(s.Err, "%v\r\n", err)
			}
		}
	}
}

func isSyntax(err error) bool {
	return errors.As(err, new(syntax.ParseError)) || errors.As(err, new(syntax.LangError))
}

// readCommand reads lines until they make a whole command.
func readCommand(t *term.Terminal, tty *os.File, parser *syntax.Parser) ([]*syntax.Stmt, error) {
	text := ""
	for {
		line, err := readLine(t, tty)
		if err != nil && !errors.Is(err, term.ErrPasteIndicator) {
			return nil, err
		}
		text += line + "\n"
		f, err := parser.Parse(strings.NewReader(text), "")
		if err == nil {
			return f.Stmts, nil
		}
		if !syntax.IsIncomplete(err) {
			return nil, err
		}
		t.SetPrompt("> ")
	}
}

// readLine has the terminal in raw mode only while a line is being edited.
func readLine(t *term.Terminal, tty *os.File) (string, error) {
	old, err := term.MakeRaw(int(tty.Fd()))
	if err != nil {
		return "", err
	}
	line, err := t.ReadLine()
	return line, errors.Join(err, term.Restore(int(tty.Fd()), old))
}

// interruptible runs do with a context that SIGINT ends.
func interruptible(ctx context.Context, do func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGQUIT)
	defer stop()
	return do(ctx)
}

// complete completes the word before pos: commands first in a line, files elsewhere.
func complete(line string, pos int, dir string) (string, int, bool) {
	start := strings.LastIndexAny(line[:pos], " \t;|&<>=") + 1
	word := line[start:pos]
	var found []string
	if strings.TrimSpace(line[:start]) == "" && !strings.Contains(word, "/") {
		for _, name := range Names() {
			if strings.HasPrefix(name, word) {
				found = append(found, name+" ")
			}
		}
	} else {
		found = files(word, dir)
	}
	if len(found) == 0 {
		return "", 0, false
	}
	common := found[0]
	for _, f := range found[1:] {
		n := 0
		for n < len(common) && n < len(f) && common[n] == f[n] {
			n++
		}
		common = common[:n]
	}
	if len(common) <= len(word) {
		return "", 0, false
	}
	return line[:start] + common + line[pos:], start + len(common), true
}

func files(word, dir string) []string {
	parent, base := filepath.Split(word)
	where := parent
	if !filepath.IsAbs(where) {
		where = filepath.Join(dir, where)
	}
	list, err := os.ReadDir(where)
	if err != nil {
		return nil
	}
	var found []string
	for _, e := range list {
		if !strings.HasPrefix(e.Name(), base) {
			continue
		}
		end := " "
		if e.IsDir() {
			end = "/"
		}
		found = append(found, parent+e.Name()+end)
	}
	slices.Sort(found)
	return found
}

// OnTTY runs a shell in a process of its own with the terminal at path as its
// controlling one, until it ends or ctx is done.
func OnTTY(ctx context.Context, path string) error {
	tty, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("rescue: %w", err)
	}
	defer tty.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{"sh"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.Env = append(environ(), "TERM=linux")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil // the last command's exit code is nobody's business here
	}
	return err
}
