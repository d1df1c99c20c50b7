// Command init is all there is of the tiny operating system that VM tests
// install: PID 1 that says its hostname and "login:" on the console, as an
// installed system does, and then obeys a few words typed there:
//
//	rewrite N SEED   overwrite N of the files below /data with other bytes
//	cat FILE         print a file
//	write FILE TEXT  make a file
//	poweroff         unmount cleanly and switch the machine off
//
// Each is answered by a line "ok WORD" or "failed WORD: cause". Called as the
// interpreter of a script (#!/sbin/init) it obeys the lines of that file, and
// ends with 1 at the first that fails.
package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) == 2 && os.Getpid() != 1 {
		if err := script(os.Args[1]); err != nil {
			fmt.Println("failed", err)
			os.Exit(1)
		}
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is PID 1 of a test's operating system; it does nothing elsewhere")
		os.Exit(2)
	}
	if err := setUp(); err != nil {
		fmt.Printf("tinyos: FAILED: %v\n", err)
	}
	name, _ := os.Hostname()
	fmt.Printf("\n%s login: ", name)
	words := bufio.NewScanner(os.Stdin)
	for words.Scan() {
		word := strings.TrimSpace(words.Text())
		if word == "" {
			continue
		}
		if err := obey(word); err != nil {
			fmt.Printf("failed %s: %v\n", word, err)
			continue
		}
		fmt.Printf("ok %s\n", word)
	}
	fmt.Printf("tinyos: console lost: %v\n", words.Err())
	select {} // a PID 1 that ends is a kernel panic
}

// setUp makes the root writable and takes the hostname from /etc/hostname.
func setUp() error {
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT, ""); err != nil {
		return fmt.Errorf("remount / read-write: %v", err)
	}
	name, err := os.ReadFile("/etc/hostname")
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(strings.TrimSpace(string(name)))); err != nil {
		return fmt.Errorf("set hostname: %v", err)
	}
	return os.WriteFile("/booted", []byte("yes\n"), 0o644)
}

// script obeys a file, comments apart.
func script(name string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if err := obey(os.ExpandEnv(line)); err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
	}
	return nil
}

func obey(line string) error {
	if name, ok := strings.CutPrefix(line, "cat "); ok {
		b, err := os.ReadFile(name)
		fmt.Printf("%s\n", b)
		return err
	}
	if rest, ok := strings.CutPrefix(line, "write "); ok {
		name, text, _ := strings.Cut(rest, " ")
		return os.WriteFile(name, []byte(text+"\n"), 0o644)
	}
	var n, seed int
	if _, err := fmt.Sscanf(line, "rewrite %d %d", &n, &seed); err == nil {
		return rewrite(n, uint64(seed))
	}
	if line == "poweroff" {
		return powerOff()
	}
	return fmt.Errorf("unknown word")
}

// rewrite overwrites the first n files below /data, in the order of their
// names, in place.
func rewrite(n int, seed uint64) error {
	files, err := filepath.Glob("/data/*")
	if err != nil {
		return err
	}
	if len(files) < n {
		return fmt.Errorf("there are only %d files", len(files))
	}
	random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	for _, name := range files[:n] {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		content := make([]byte, info.Size())
		_, _ = random.Read(content) // never fails
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		if _, err = f.Write(content); err == nil {
			err = f.Sync()
		}
		if e := f.Close(); err == nil {
			err = e
		}
		if err != nil {
			return err
		}
	}
	unix.Sync()
	return nil
}

func powerOff() error {
	unix.Sync()
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("remount / read-only: %v", err)
	}
	fmt.Println("ok poweroff")
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
