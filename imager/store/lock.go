package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how often a lock that another program holds is tried again.
// flock(2) cannot be waited for and cancelled at once.
const lockPoll = 20 * time.Millisecond

// lock is a flock(2) on the store's lock file. Writers share it, GC has it
// alone. The kernel drops it when its holder dies.
type lock struct{ f *os.File }

// shared waits for a shared lock.
func (d *Dir) shared(ctx context.Context) (*lock, error) {
	l, err := d.openLock()
	if err != nil {
		return nil, err
	}
	return l, l.wait(ctx, unix.LOCK_SH)
}

// sharedTidy is shared for a writer of chunks: if nobody else holds a lock, it
// clears away what writers left that died.
func (d *Dir) sharedTidy(ctx context.Context) (*lock, error) {
	l, err := d.openLock()
	if err != nil {
		return nil, err
	}
	if l.try(unix.LOCK_EX) == nil {
		if err := d.clearTemp(); err != nil {
			d.log.Warn("store: temporary files stay", "err", err)
		}
	}
	return l, l.wait(ctx, unix.LOCK_SH)
}

// exclusive waits until no writer is at work.
func (d *Dir) exclusive(ctx context.Context) (*lock, error) {
	l, err := d.openLock()
	if err != nil {
		return nil, err
	}
	if errors.Is(l.try(unix.LOCK_EX), unix.EWOULDBLOCK) {
		d.log.Info("store: waiting for writers", "store", d.path)
	}
	return l, l.wait(ctx, unix.LOCK_EX)
}

func (d *Dir) openLock() (*lock, error) {
	f, err := os.OpenFile(filepath.Join(d.path, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("store: lock: %w", err)
	}
	return &lock{f}, nil
}

func (l *lock) try(how int) error {
	for {
		if err := unix.Flock(int(l.f.Fd()), how|unix.LOCK_NB); err != unix.EINTR {
			return err
		}
	}
}

// wait tries until it has the lock. Without it, it closes the file.
func (l *lock) wait(ctx context.Context, how int) error {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		err := l.try(how)
		if err == nil {
			return nil
		}
		if err != unix.EWOULDBLOCK {
			l.f.Close()
			return fmt.Errorf("store: lock: %v", err)
		}
		select {
		case <-ctx.Done():
			l.f.Close()
			return fmt.Errorf("store: lock held by another program: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// release gives the lock back. Closing a file that was not written to has no
// error that matters.
func (l *lock) release() { l.f.Close() }

// clearTemp removes temporary files. The caller has the exclusive lock, so
// their writers are dead.
func (d *Dir) clearTemp() error {
	files, err := os.ReadDir(d.dir(tempDir))
	if err != nil {
		return fmt.Errorf("store: %v", err)
	}
	for _, f := range files {
		if err := os.Remove(filepath.Join(d.dir(tempDir), f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("store: %v", err)
		}
	}
	return nil
}
