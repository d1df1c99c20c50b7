package disk_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"huck/imager/disk"
)

// TestDiscardError: a disk that refuses a discard is as one that does none, one
// that fails is not.
func TestDiscardError(t *testing.T) {
	for _, c := range []struct {
		err         error
		unsupported bool
	}{
		{unix.EOPNOTSUPP, true},
		{unix.EREMOTEIO, true},
		{unix.EIO, false},
		{unix.ENODEV, false},
	} {
		got := disk.DiscardError(c.err)
		if !errors.Is(got, c.err) || errors.Is(got, errors.ErrUnsupported) != c.unsupported {
			t.Errorf("%v became %v", c.err, got)
		}
	}
}
