// Package disktest has what the tests of several packages do with block devices.
package disktest

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// OwnMounts gives the process a mount namespace of its own, for TestMain. A program
// that makes one for itself, as the tests of other packages do, copies all mounts
// there are: what was mounted here would stay so, and its device in use, until that
// program has ended. Where there is no right to it all stays as it is: tests that
// mount something say themselves what they lack.
func OwnMounts() {
	const inside = "HUCK_TEST_OWN_MOUNTS"
	if os.Getenv(inside) != "" {
		return
	}
	runtime.LockOSThread() // a thread has a namespace; the program that it executes has that one
	if unix.Unshare(unix.CLONE_NEWNS) != nil {
		runtime.UnlockOSThread()
		return
	}
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), inside+"=1"))
	}
	panic(err)
}

// NeedRoot skips a test that mounts something or makes a block device, which
// takes root. Where all is to be tested (REQUIRE_TOOLS=1) it fails.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("REQUIRE_TOOLS") == "1" {
		t.Fatal("not root")
	}
	t.Skip("not root")
}
