// Command fsguest is all there is of a virtual machine in which tests use
// filesystems that the host's kernel may not know: PID 1 of an initramfs with
// modules, below /modules, which it loads in the order of their names. Then it
// obeys lines typed on the console. KIND is a filesystem with its options, as in
// "ext4,noatime", DISK the number of a disk, the first partition of which is
// meant:
//
//	fill KIND DISK FOLDER     make files in a folder of it and remove a third
//	same KIND DISK DISK...    compare all files with those of the first
//	sync KIND DISK            fsync more files, after "fill", and stay mounted
//	synced KIND DISK          check what "sync" has written
//	sh COMMAND...             have a shell do something, if there is busybox
//	poweroff                  switch the machine off
//
// Each is answered by a line "ok LINE" or "failed LINE: cause"; fill adds how
// many bytes are used, as the kernel counts them, and sh the exit code and, quoted
// as in Go, what was said.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "fsguest: this is PID 1 of a test's virtual machine; it does nothing elsewhere")
		os.Exit(2)
	}
	if err := setUp(); err != nil {
		fmt.Printf("fsguest: FAILED: %v\n", err)
	} else {
		fmt.Println("fsguest: ready")
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		if answer, err := obey(line); err != nil {
			fmt.Printf("failed %s: %v\n", line, err)
		} else {
			fmt.Printf("ok %s %s\n", line, answer)
		}
	}
	fmt.Printf("fsguest: console lost: %v\n", lines.Err())
	select {} // a PID 1 that ends is a kernel panic
}

// setUp mounts what the kernel tells of itself and loads the modules.
func setUp() error {
	for _, m := range []struct{ kind, dir string }{
		{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"debugfs", "/sys/kernel/debug"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %v", m.dir, err)
		}
	}
	modules, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	for _, name := range modules { // sorted
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("load %s: %v", name, err)
		}
	}
	return nil
}

func obey(line string) (answer string, err error) {
	words := strings.Fields(line)
	word, args := words[0], words[1:]
	switch {
	case word == "sh":
		return shell(strings.TrimPrefix(line, "sh "))
	case word == "fill" && len(args) == 3:
		return fill(args[0], args[1], args[2])
	case word == "same" && len(args) >= 3:
		return "", same(args[0], args[1], args[2:])
	case word == "sync" && len(args) == 2:
		return "", writeSynced(args[0], args[1])
	case word == "synced" && len(args) == 2:
		return "", checkSynced(args[0], args[1])
	case word == "poweroff":
		unix.Sync()
		return "", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	return "", fmt.Errorf("unknown words")
}

// shell runs a command. The order of what it says on both of its outputs is kept.
func shell(command string) (answer string, err error) {
	cmd := exec.Command("/bin/busybox", "sh", "-c", command)
	cmd.Env = []string{"PATH=/bin:/applets"}
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return "", err
	}
	return fmt.Sprintf("%d %q", cmd.ProcessState.ExitCode(), out), nil
}
