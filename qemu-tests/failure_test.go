package qemutests_test

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"huck/imager/api"
	"huck/qemu-tests/disks"
	"huck/qemu-tests/vm"
)

// smallTiny is a tiny system that is installed in a moment.
func (s *labSite) smallTiny(panics bool) captured {
	s.t.Helper()
	path := s.Path("small-source.raw")
	s.must(disks.Tiny{Init: s.Programs.TinyInit, Kernel: s.Programs.Kernel(), Payload: 4 * mib, Seed: 7, Panics: panics}.Write(s.ctx, path))
	return s.capture(path, "small")
}

// content returns the offset of the first block of a disk from from on that is
// not all zeros.
func (s *labSite) content(disk string, from int64) int64 {
	s.t.Helper()
	f, err := os.Open(disk)
	s.must(err)
	defer f.Close()
	block := make([]byte, 4096)
	for ; ; from += int64(len(block)) {
		_, err := f.ReadAt(block, from)
		s.must(err)
		if bytes.Count(block, []byte{0}) < len(block) {
			return from
		}
	}
}

// told waits until the server has said something of a node.
func (s *labSite) told(node string, from int, pattern string) int {
	s.t.Helper()
	words := regexp.MustCompile(pattern)
	_, next, err := s.Events.Wait(s.ctx, from, "that says "+pattern, func(e api.Event) bool {
		return e.Node == node && words.MatchString(e.Message+" "+e.Error)
	})
	s.must(err)
	return next
}

// restarted cuts the power and switches the machine on again.
func (s *labSite) restarted(m *vm.Machine) {
	s.t.Helper()
	m.Cut()
	s.must(m.PowerOn())
}

// TestWriteError: a disk that fails in mid-install is named with the offset, on
// the console and in the events; and an installation that failed is not begun
// again at the next boot once that was its last try.
func TestWriteError(t *testing.T) {
	t.Parallel()
	s := newSite(t, 6*time.Minute)
	img := s.smallTiny(false)
	s.must(s.StartServer(s.ctx, rate))
	m := s.machine("badsector", tiny.size, tiny.memory)
	bad := s.content(s.Path("small-source.raw"), 16*mib)
	s.must(m.Fail(0, fmt.Sprintf("[inject-error]\nevent = \"none\"\niotype = \"write\"\nsector = \"%d\"\nerrno = \"5\"\n", bad/512)))
	node, from := s.started(m, img.Ref, "only", "--once", "--tries", "1")
	failed, _, err := s.Step(s.ctx, node, from, "receive", api.StepFailed)
	s.must(err)
	named := regexp.MustCompile(`write /dev/vda at (\d+).*: input/output error`).FindStringSubmatch(failed.Error)
	if named == nil {
		t.Fatalf("the failure is told as %q", failed.Error)
	}
	var at int64
	fmt.Sscan(named[1], &at)
	if at > bad || at < bad-4*mib {
		t.Errorf("the write at %d is said to have failed, the bad sector is at %d", at, bad)
	}
	s.expect(m, `huck: step receive: FAILED: .*write /dev/vda at \d+`)
	s.expect(m, `huck: GIVEN UP: .*write /dev/vda at \d+`)
	if bootable(t, m) {
		t.Error("a disk that lacks a write has a partition table")
	}

	from = s.Events.Len()
	s.restarted(m)
	s.expect(m, `huck: STOPPED: 1 installations in a row did not complete \(the last: receive: .*write /dev/vda at`)
	s.told(node, from, `stopped: 1 installations in a row`)
	for _, e := range s.Events.Since(from) {
		// What the boot before told last may arrive after its console's words.
		if e.Step == "receive" && e.Boot != failed.Boot {
			t.Errorf("a stopped node received: %+v", e)
		}
	}
}

// TestKexecLost: a system that kexec starts and that panics. The machine is back
// twice; then it is left to its own disk, by its boot script, which its BIOS
// starts.
func TestKexecLost(t *testing.T) {
	t.Parallel()
	s := newSite(t, 8*time.Minute)
	img := s.smallTiny(true)
	s.must(s.StartServer(s.ctx, rate))
	s.kexecLost(s.machine("panics", tiny.size, tiny.memory), img, disks.BIOSWords)
}

// TestRareKexecLost: the same with UEFI, which goes on to its next entry. Here
// that is the network by the firmware's own ROM, so it is the appliance that has
// the disk started.
func TestRareKexecLost(t *testing.T) {
	s := newSite(t, 10*time.Minute)
	disk := s.Path("uefi-source.raw")
	s.must(disks.Tiny{Init: s.Programs.TinyInit, Kernel: s.Programs.Kernel(), Payload: 4 * mib, Seed: 7, Panics: true}.WriteUEFI(s.ctx, disk))
	img := s.capture(disk, "small")
	s.must(s.StartServer(s.ctx, rate))
	m, err := s.Plug(s.ctx, vm.Config{Name: "panics", Network: s.Network, Disks: []string{s.disk("panics", tiny.size)}, Firmware: vm.UEFI})
	s.must(err)
	s.kexecLost(m, img, `(?s)starting the system on the disk.*BdsDxe: starting Boot[0-9A-F]{4} "Huck: installed system" from HD\(1,GPT,`)
}

// kexecLost installs a system that panics; own is what the console shows when
// the firmware starts the disk.
func (s *labSite) kexecLost(m *vm.Machine, img captured, own string) {
	s.t.Helper()
	node, from := s.started(m, img.Ref, "only", "--once", "--then", "kexec")
	from = s.told(node, from, `back \d+s after its kexec`)
	from = s.told(node, from, `back \d+s after its kexec`)
	from = s.told(node, from, `kexec did not start its system 2 times in a row`)
	s.told(node, from, `nothing to do: boots its own disk by its firmware`)
	if n := strings.Count(m.Console().String(), "Kernel panic"); n != 2 {
		s.t.Errorf("the system panicked %d times, want twice", n)
	}
	s.expect(m, own)
	n, err := s.Node(s.ctx, m)
	s.must(err)
	if n.Start != api.ThenReboot {
		s.t.Errorf("its model is started by %s", n.Start)
	}
}
