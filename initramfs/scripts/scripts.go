// Package scripts runs an operator's scripts: in the appliance before a disk is
// written, and in the installed system after that (bootserver/PERSONALISE.md,
// Scripts).
package scripts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"huck/imager/personal"
	"huck/initramfs/installed"
)

// linger is how long the output of what a script left running is waited for.
const linger = 2 * time.Second

// Failed tells how a script ended that did not end well.
type Failed struct {
	// Name is the script's, How its end.
	Name, How string
}

func (e *Failed) Error() string { return fmt.Sprintf("script %s %s", e.Name, e.How) }

// Config says how scripts are run.
type Config struct {
	// Env is their environment, PATH and HOME apart.
	Env []string
	// Line is called with each line of output, by one goroutine.
	Line func(string)
}

// Here runs a script in the appliance: by the program shell, called by the name
// of sh. A script that does not end with 0 in its time is a *Failed.
func Here(ctx context.Context, shell string, s personal.Script, cfg Config) error {
	f, err := os.CreateTemp("", "huck-script-")
	if err != nil {
		return fmt.Errorf("scripts: %w", err)
	}
	defer os.Remove(f.Name())
	if _, err := f.WriteString(s.Text); err != nil {
		return errors.Join(fmt.Errorf("scripts: %w", err), f.Close())
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("scripts: %w", err)
	}
	cmd := exec.Command(shell, f.Name())
	cmd.Args[0] = "sh"
	cmd.Dir = "/"
	return run(ctx, cmd, s, cfg)
}

// Where scripts stand while they run in an installed system, in a folder that
// is in memory.
const (
	runDir    = "/run"
	scriptDir = runDir + "/huck"
)

// resolvConf names the DNS servers, here and there.
const resolvConf = "/etc/resolv.conf"

// Prepare mounts in the system what programs need: once before In.
func Prepare(sys *installed.System) error {
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := sys.Bind(dir, "", dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{runDir, "/tmp"} {
		if err := sys.Bind("huck", "tmpfs", dir); err != nil {
			return err
		}
	}
	place, err := sys.FS.Place(scriptDir[1:])
	if err == nil {
		err = sys.FS.Root.Mkdir(place, 0o700)
	}
	if err != nil {
		return fmt.Errorf("scripts: %w", err)
	}
	return names(sys)
}

// names lets the system's programs resolve names as we do: its own file is most
// often a link to what a daemon makes, or names the servers of another place.
func names(sys *installed.System) error {
	ours, err := os.ReadFile(resolvConf)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("scripts: %w", err)
	}
	place, err := sys.FS.Place(resolvConf[1:])
	if err != nil {
		return fmt.Errorf("scripts: %w", err)
	}
	if strings.HasPrefix(place, runDir[1:]+"/") { // in memory
		if err = sys.FS.Root.MkdirAll(filepath.Dir(place), 0o755); err == nil {
			err = sys.FS.Root.WriteFile(place, ours, 0o644)
		}
		return err
	}
	if info, err := sys.FS.Root.Lstat(place); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	return sys.Bind(resolvConf, "", resolvConf)
}

// In runs a script with the system as its root, by its /bin/sh or by what the
// script's first line names. What it leaves running is killed.
func In(ctx context.Context, sys *installed.System, s personal.Script, cfg Config) error {
	name := filepath.Join(scriptDir, s.Name)
	place, err := sys.FS.Place(name[1:])
	if err == nil {
		err = sys.FS.Root.WriteFile(place, []byte(s.Text), 0o700)
	}
	if err != nil {
		return fmt.Errorf("scripts: %w", err)
	}
	cmd := &exec.Cmd{Path: "/bin/sh", Args: []string{"/bin/sh", name}, Dir: "/"}
	if strings.HasPrefix(s.Text, "#!") {
		cmd = &exec.Cmd{Path: name, Args: []string{name}, Dir: "/"}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: sys.Dir}
	err = run(ctx, cmd, s, cfg)
	return errors.Join(err, killAll(sys.Dir))
}

// run runs a command in a process group of its own.
func run(ctx context.Context, cmd *exec.Cmd, s personal.Script, cfg Config) error {
	limit, err := s.Limit()
	if err != nil {
		return err
	}
	late := fmt.Errorf("took longer than %v", limit)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, late)
	defer cancel()
	out := &lines{tell: cfg.Line}
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/bbin", "HOME=/root", "LC_ALL=C"}, cfg.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.WaitDelay = linger
	if err := cmd.Start(); err != nil {
		return &Failed{s.Name, "cannot be started: " + err.Error()}
	}
	// Not by exec.CommandContext, which kills the shell and leaves what it runs.
	stop := context.AfterFunc(ctx, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	err = cmd.Wait()
	stop()
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // what is left of the group
	out.end()
	switch {
	case context.Cause(ctx) == late:
		return &Failed{s.Name, late.Error()}
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrWaitDelay): // it ended well; what it left behind did not
		return nil
	case err != nil:
		return &Failed{s.Name, "ended with " + err.Error()}
	}
	return nil
}

// killAll kills every process whose root is dir or in it, until there is none.
func killAll(dir string) error {
	for range 100 {
		found := false
		list, err := os.ReadDir("/proc")
		if err != nil {
			return fmt.Errorf("scripts: %w", err)
		}
		for _, e := range list {
			pid, err := strconv.Atoi(e.Name())
			if err != nil {
				continue
			}
			root, err := os.Readlink(filepath.Join("/proc", e.Name(), "root"))
			if err != nil || root != dir && !strings.HasPrefix(root, dir+"/") {
				continue // another's, gone, or dying, which shows no root
			}
			found = true
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if !found {
			return nil
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 20e6}, nil) // they take their time to die
	}
	return fmt.Errorf("scripts: processes with the root %s do not end", dir)
}
