package proc_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"huck/qemu-tests/proc"
)

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestOutputWait(t *testing.T) {
	log := filepath.Join(t.TempDir(), "console")
	o, err := proc.NewOutput(log)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends by itself
		for _, s := range []string{"one\ntw", "o login: ", "two login: "} {
			_, _ = o.Write([]byte(s))
		}
		o.End()
	}()
	groups, next, err := o.Wait(deadline(t), regexp.MustCompile(`(\w+) login: `), 0)
	if err != nil || groups[1] != "two" || next != len("one\ntwo login: ") {
		t.Errorf("got %q, %d, %v", groups, next, err)
	}
	if _, next, err = o.Wait(deadline(t), regexp.MustCompile(`two`), next); err != nil || next != len("one\ntwo login: two") {
		t.Errorf("from the first match on: %d, %v", next, err)
	}
	if _, _, err := o.Wait(deadline(t), regexp.MustCompile(`three`), 0); !errors.Is(err, proc.ErrEnded) || !strings.Contains(err.Error(), "two login: ") {
		t.Errorf("after the end: %v", err)
	}
	if b, err := os.ReadFile(log); err != nil || string(b) != o.String() {
		t.Errorf("the file has %q, %v", b, err)
	}
}

func TestOutputWaitGivesUp(t *testing.T) {
	o, err := proc.NewOutput("")
	if err != nil {
		t.Fatal(err)
	}
	over := errors.New("over")
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, over)
	defer cancel()
	if _, _, err := o.Wait(ctx, regexp.MustCompile(`x`), 0); !errors.Is(err, over) {
		t.Errorf("got %v", err)
	}
}

func TestProcTalks(t *testing.T) {
	p, err := proc.Start(proc.Command{Args: []string{"sh", "-c", "read word; echo said $word; exit 3"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	if _, err := p.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Stdout.Wait(deadline(t), regexp.MustCompile(`said hello`), 0); err != nil {
		t.Error(err)
	}
	if err := p.Wait(deadline(t)); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("ended with %v", err)
	}
}

// Stop and Kill reach the children of the program, too.
func TestProcEndsItsGroup(t *testing.T) {
	for name, end := range map[string]func(*proc.Proc){
		"kill":            func(p *proc.Proc) { p.Kill() },
		"stop":            func(p *proc.Proc) { _ = p.Stop(10 * time.Second) },
		"stop, then kill": func(p *proc.Proc) { _ = p.Stop(0) },
	} {
		t.Run(name, func(t *testing.T) {
			p, err := proc.Start(proc.Command{Args: []string{"sh", "-c", "sleep 600 & echo child $!; wait"}})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Kill()
			groups, _, err := p.Stdout.Wait(deadline(t), regexp.MustCompile(`child (\d+)\n`), 0)
			if err != nil {
				t.Fatal(err)
			}
			end(p)
			var child int
			if _, err := fmt.Sscan(groups[1], &child); err != nil {
				t.Fatal(err)
			}
			for ctx := deadline(t); alive(child); {
				if ctx.Err() != nil {
					t.Fatalf("process %d still runs", child)
				}
			}
		})
	}
}

// alive tells a running process from one that is gone or a zombie.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestRun(t *testing.T) {
	out, err := proc.RunInput(deadline(t), proc.Command{Args: []string{"tr", "a-z", "A-Z"}}, []byte("huck"))
	if err != nil || string(out) != "HUCK" {
		t.Errorf("got %q, %v", out, err)
	}
	var exit *proc.ExitError
	out, err = proc.Run(deadline(t), proc.Command{Args: []string{"sh", "-c", "echo partly; echo why >&2; exit 5"}})
	if !errors.As(err, &exit) || exit.Code != 5 || string(out) != "partly\n" || !strings.Contains(err.Error(), "why") {
		t.Errorf("got %q, %v", out, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := proc.Run(ctx, proc.Command{Args: []string{"sleep", "600"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
