package main

import (
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

// startWatchdog keeps the hardware watchdog quiet, if there is one, for as long
// as overdue stays within the grace. The function it returns ends that and
// stops the watchdog, for the next system knows nothing of it.
func startWatchdog(overdue func() time.Duration) (stop func(), err error) {
	f, err := os.OpenFile("/dev/watchdog", os.O_WRONLY, 0)
	if err != nil {
		return func() {}, err
	}
	// Not all drivers can; then their own timeout holds.
	_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, watchdogTimeout)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(watchdogPet)
		defer tick.Stop()
		for {
			if overdue() < watchdogGrace {
				_, _ = f.Write([]byte{0}) // a watchdog that cannot be reached will tell in its own way
			}
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	}()
	return func() {
		close(done)
		<-ended
		_, _ = f.Write([]byte("V")) // the magic that says the end is meant (Documentation/watchdog/watchdog-api.rst)
		_ = f.Close()
	}, nil
}
