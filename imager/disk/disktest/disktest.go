// Package disktest has what the tests of several packages do with block devices.
package disktest

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Settled waits until nobody has the block device dev mounted, after it has been
// unmounted here. A process that copied our mount namespace meanwhile, as programs
// in namespaces of their own do, keeps what was mounted until it has ended, and
// whoever opens the device for himself is told that it is busy.
func Settled(t testing.TB, dev string) {
	t.Helper()
	tick, deadline := time.NewTicker(20*time.Millisecond), time.After(time.Minute)
	defer tick.Stop()
	for {
		fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if err == nil {
			_ = unix.Close(fd) // it was only read
			return
		}
		if !errors.Is(err, unix.EBUSY) {
			t.Fatalf("%s: %v", dev, err)
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s is still mounted somewhere", dev)
		}
	}
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
