package main

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// watchdogTimeout is what the hardware is asked for; it restarts the machine when it has heard nothing for so long.
	watchdogTimeout = 60 // seconds
	// watchdogPet is how often it hears from us.
	watchdogPet = 5 * time.Second
	// watchdogGrace is how long a step may go on beyond its limit: it is cancelled there, and should end at once.
	watchdogGrace = 5 * time.Minute
)

// startWatchdog watches over the boot: while overdue stays within the grace it
// keeps the hardware's watchdog quiet, if there is one. Beyond that it calls
// bite, once, and the hardware hears no more. The function it returns ends that
// and stops the hardware's, for the next system knows nothing of it.
func startWatchdog(overdue func() time.Duration, bite func()) (stop func(), err error) {
	pet := func() {}
	f, err := os.OpenFile("/dev/watchdog", os.O_WRONLY, 0)
	if err == nil {
		// Not all drivers can; then their own timeout holds.
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, watchdogTimeout)
		pet = func() { _, _ = f.Write([]byte{0}) } // one that cannot be reached will tell in its own way
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		guard(ctx, overdue, pet, bite)
	}()
	return func() {
		cancel()
		<-ended
		if f != nil {
			_, _ = f.Write([]byte("V")) // the magic that says the end is meant (Documentation/watchdog/watchdog-api.rst)
			_ = f.Close()
		}
	}, err
}

// guard pets until ctx is done or overdue reaches the grace; then it bites.
func guard(ctx context.Context, overdue func() time.Duration, pet, bite func()) {
	tick := time.NewTicker(watchdogPet)
	defer tick.Stop()
	for {
		if overdue() >= watchdogGrace {
			bite()
			return
		}
		pet()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
