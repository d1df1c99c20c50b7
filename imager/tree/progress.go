package tree

import (
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"huck/imager/decompress"
)

// Steps of Config.Progress, in their order.
const (
	// StepUnpack counts the archives' bytes. A folder has no such step.
	StepUnpack = "unpack"
	// StepFill counts the bytes that the tree's files take, of which those that
	// the disk takes so far are an estimate: mkfs.ext4 tells nothing.
	StepFill = "fill"
	// StepAttributes counts the bytes of the commands that debugfs is given.
	StepAttributes = "attributes"
)

// fillEvery is how often a disk is looked at while it is filled.
const fillEvery = 500 * time.Millisecond

func (m *maker) tell(step string) func(done, total int64) {
	return func(done, total int64) {
		if m.cfg.Progress != nil {
			m.cfg.Progress(step, done, total)
		}
	}
}

func (m *maker) meter(step string) *decompress.Meter { return decompress.NewMeter(m.tell(step)) }

// filling tells how far a disk is filled with the tree in dir, until it is
// ended, which must be called with whether it is complete.
func (m *maker) filling(dir string) (end func(complete bool)) {
	tell, total, before := m.tell(StepFill), taken(dir), taken(m.disk)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(fillEvery)
		defer tick.Stop()
		for done := int64(0); ; {
			select {
			case <-stop:
				return
			case <-tick.C:
				done = min(max(done, taken(m.disk)-before), total)
				tell(done, total)
			}
		}
	}()
	return func(complete bool) {
		close(stop)
		<-stopped
		if complete {
			tell(total, total)
		}
	}
}

// taken is how many bytes a file, or all files in a folder, take on their disk.
// What cannot be looked at counts nothing; whoever needs it will tell.
func taken(path string) int64 {
	var sum int64
	linked := make(map[uint64]bool)
	_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		st, err := d.Info()
		if err != nil {
			return nil
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		if !ok || linked[sys.Ino] {
			return nil
		}
		if sys.Nlink > 1 {
			linked[sys.Ino] = true
		}
		sum += sys.Blocks * 512 // stat(2): whatever the filesystem's blocks are
		return nil
	})
	return sum
}
