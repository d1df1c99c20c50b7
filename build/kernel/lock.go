package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

var errLocked = errors.New("another build is under way")

// tryLock keeps two builds from sharing one tree, with errLocked for the second. The lock goes with the process that
// holds it.
func tryLock(cache string) (unlock func() error, err error) {
	path := filepath.Join(cache, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err {
	case nil:
		return f.Close, nil
	case unix.EWOULDBLOCK:
		return nil, errors.Join(errLocked, f.Close())
	default:
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
}

// lock waits for the lock until ctx ends.
func lock(ctx context.Context, cache string, log func(string, ...any)) (unlock func() error, err error) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for said := false; ; said = true {
		if unlock, err := tryLock(cache); !errors.Is(err, errLocked) {
			return unlock, err
		}
		if !said {
			log("waiting for another build to finish")
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// tidy removes what an interrupted build left, once its kernel is there by other means.
func tidy(cache string) error {
	unlock, err := tryLock(cache)
	if errors.Is(err, errLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(cache, "tree-*"))
	for _, dir := range old {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return errors.Join(err, unlock())
}
