package qemutests_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"huck/imager/api"
	"huck/qemu-tests/proc"
	"huck/qemu-tests/vm"
)

// Acceptance 6: what cannot work ends in a message that names the cause, on
// the console and in the events, and nothing is written.
func TestRefusals(t *testing.T) {
	t.Parallel()
	s := newSite(t, 10*time.Minute)
	img := s.golden(tiny)
	other := s.capture(s.tinyDisk("other", 8*mib, 2), "withdrawn")
	s.must(s.StartServer(s.ctx, rate))

	// The image's last used block is far beyond 32 MiB.
	small := s.machine("small", 32*mib, tiny.memory)
	s.refused(small, img.Ref, "only", `too few|too small|smaller than`)

	m := s.machine("refuses", tiny.size, tiny.memory)
	s.refused(m, img.Ref, "serial=NOT-THERE", `matches none`)

	_, err := s.Assign(s.ctx, m, "nonesuch", "only", "--once")
	var exit *proc.ExitError
	if !errors.As(err, &exit) || exit.Code != 4 {
		t.Errorf("assigning an image that is not there: %v, want exit code 4", err)
	}

	// The image goes away after it was assigned.
	s.assign(m, other, "--once")
	_, err = s.Imager(s.ctx, "remove", other.Ref, "--store", s.Store())
	s.must(err)
	_, err = s.Imager(s.ctx, "gc", "--store", s.Store())
	s.must(err)
	s.fails(m, `(?i)not found|not in the store|no image`, true)

	// A chunk rots in the store.
	s.assign(m, img, "--once")
	s.corrupt()
	s.fails(m, `chunk [0-9a-f]+: .*content hashes to`, false)
	if bootable(t, m) {
		t.Error("a disk that lacks a chunk has a partition table")
	}
}

// refused lets a new machine register and assigns something to it that it
// cannot do.
func (s *labSite) refused(m *vm.Machine, ref, rule, cause string) {
	s.t.Helper()
	s.must(m.PowerOn())
	_, err := s.Node(s.ctx, m)
	s.must(err)
	m.Cut()
	_, err = s.Assign(s.ctx, m, ref, rule, "--once")
	s.must(err)
	s.fails(m, cause, true)
}

// fails switches a machine on and waits for the cause on the console and in the
// events; untouched says that its disk must be as it was.
func (s *labSite) fails(m *vm.Machine, cause string, untouched bool) {
	s.t.Helper()
	s.fillDisk(m)
	hash := diskHash(s.t, m.Disk(0))
	node, err := s.Node(s.ctx, m)
	s.must(err)
	from := s.Events.Len()
	s.must(m.PowerOn())
	defer m.Cut()
	s.expect(m, `huck: step \S+: FAILED: .*(`+cause+`)`)
	named := regexp.MustCompile(cause)
	_, _, err = s.Events.Wait(s.ctx, from, "that names "+cause, func(e api.Event) bool {
		return e.Node == node.ID && e.State == api.StepFailed && named.MatchString(e.Error)
	})
	s.must(err)
	for _, e := range s.Events.Since(from) {
		if e.Type == api.EventInstalled || e.Type == api.EventVerified {
			s.t.Errorf("%s reported %s", m.Name(), e.Type)
		}
	}
	if untouched && diskHash(s.t, m.Disk(0)) != hash {
		s.t.Errorf("%s was written to", m.Name())
	}
}

// corrupt flips a bit in the middle of the largest file of the store, which
// holds chunks.
func (s *labSite) corrupt() {
	s.t.Helper()
	var largest string
	var size int64
	s.must(filepath.WalkDir(s.Store(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > size {
			largest, size = path, info.Size()
		}
		return err
	}))
	f, err := os.OpenFile(largest, os.O_RDWR, 0)
	s.must(err)
	var b [1]byte
	_, err = f.ReadAt(b[:], size/2)
	s.must(err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], size/2)
	s.must(err)
	s.must(f.Close())
}
