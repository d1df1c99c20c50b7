package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxCrashes of the boot are mended by starting it anew, the last one by a reboot of the machine.
	maxCrashes = 3
	// crashPause leaves time to read what stands on the console.
	crashPause = 10 * time.Second
	// crashFile is where a boot that panics leaves its last words, and spoolFile
	// where any leaves what the server does not have yet, for the next to report.
	crashFile = "/run/huck-crash"
	spoolFile = "/run/huck-events"
	// reportTime is what the last boot before a restart of the machine has for that.
	reportTime = 2 * time.Minute
)

// supervise is process 1. It does so little that it cannot fail: if it ended,
// the kernel would panic. The boot is a child, so that a panic in any of its
// goroutines, or the kernel's out-of-memory killer, ends neither the machine
// nor what is known about it. Only this process reaps orphans; the child can
// use os/exec without losing its own children's exit codes to that.
func supervise(self string) int {
	for _, err := range mountAll() {
		fmt.Fprintln(os.Stderr, "huck:", err)
	}
	for crashes := 1; ; crashes++ {
		crashed(runChild(self, 0))
		fmt.Fprintf(os.Stderr, "huck: crash %d of %d\r\n", crashes, maxCrashes)
		time.Sleep(crashPause)
		if crashes == maxCrashes {
			fmt.Fprint(os.Stderr, "huck: reporting, then restarting the machine\r\n")
			crashed(runChild(self, reportTime, reportArg))
			if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
				fmt.Fprintln(os.Stderr, "huck: reboot:", err)
			}
			crashes = 0
		}
	}
}

// crashed notes how a boot ended, for the next one to report: one that was
// killed could not leave any words.
func crashed(status syscall.WaitStatus, err error) {
	words := "the boot has crashed: " + describeStatus(status)
	if err != nil {
		words += ", " + err.Error()
	}
	fmt.Fprintf(os.Stderr, "\r\nhuck: %s\r\n", words)
	if f, err := os.OpenFile(crashFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err == nil {
		fmt.Fprintln(f, words)
		_ = f.Close()
	}
	_ = unix.Kill(-1, unix.SIGKILL) // shells it left behind, which would keep the consoles
	unix.Sync()
}

// runChild runs the boot and reaps everything until it has ended; with a limit
// it is killed then.
func runChild(self string, limit time.Duration, args ...string) (syscall.WaitStatus, error) {
	var status syscall.WaitStatus
	pid, err := syscall.ForkExec(self, append([]string{childName}, args...), &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=/bbin:/bin", "HOME=/", "TERM=linux"}, Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		return status, fmt.Errorf("start %s: %w", self, err)
	}
	if limit > 0 {
		defer time.AfterFunc(limit, func() { _ = unix.Kill(pid, unix.SIGKILL) }).Stop()
	}
	for {
		dead, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return status, fmt.Errorf("wait: %w", err)
		case dead == pid:
			return status, nil
		}
	}
}

func describeStatus(s syscall.WaitStatus) string {
	if s.Signaled() {
		return "signal " + s.Signal().String()
	}
	return fmt.Sprintf("exit code %d", s.ExitStatus())
}

// mountAll mounts what the kernel has to offer. What is there already is fine.
func mountAll() (errs []error) {
	const dull = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
	for _, m := range []struct {
		kind, where string
		flags       uintptr
		data        string
		optional    bool
	}{
		{kind: "devtmpfs", where: "/dev", flags: unix.MS_NOSUID, data: "mode=0755"},
		{kind: "devpts", where: "/dev/pts", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "mode=0620,ptmxmode=0666"},
		{kind: "proc", where: "/proc", flags: dull},
		{kind: "sysfs", where: "/sys", flags: dull},
		{kind: "efivarfs", where: "/sys/firmware/efi/efivars", flags: dull, optional: true},
		{kind: "tmpfs", where: "/run", flags: dull, data: "mode=0755"},
		{kind: "tmpfs", where: "/tmp", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=1777"},
	} {
		err := os.MkdirAll(m.where, 0o755)
		if err == nil {
			err = unix.Mount(m.kind, m.where, m.kind, m.flags, m.data)
		}
		if err != nil && !m.optional && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, fmt.Errorf("mount %s on %s: %w", m.kind, m.where, err))
		}
	}
	if err := os.MkdirAll("/etc", 0o755); err != nil {
		errs = append(errs, err)
	}
	return errs
}
