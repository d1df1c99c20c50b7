package steps

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Uptime returns the seconds since the kernel started, as in its own messages:
// "[  12.3]".
func Uptime() string {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return "[     ?]"
	}
	return fmt.Sprintf("[%6.1f]", float64(ts.Nano())/1e9)
}
