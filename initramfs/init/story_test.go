package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/install"
	"huck/initramfs/bootos"
	"huck/initramfs/efiboot"
)

func TestInstallThenKexec(t *testing.T) {
	s := newScene(t)
	s.server.deaf = 3 // a server being restarted delays the report, not more
	s.server.assign(install1(api.ThenKexec))
	s.start(t)
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.order(t, "step network: done", "step server: done", "step register: done", "step assignment: done", "step target: done",
		"receive deb:1 to /dev/sda over lo, verify true", "step verify: done", "step receive: done", "reread /dev/sda",
		`event installed report  {"event":"done"`, "load /dev/sda", "event step kexec done", "leave", "kexec")
	s.order(t, `event verified verify done {"digest"`, "event installed")
	s.without(t, "reboot", "poweroff", "FAILED")
}

func TestThen(t *testing.T) {
	for then, want := range map[api.Then]string{api.ThenReboot: "reboot", api.ThenPoweroff: "poweroff"} {
		s := newScene(t)
		s.server.assign(install1(then))
		s.start(t)
		if err := <-s.done; err != nil {
			t.Fatal(err)
		}
		s.order(t, "event installed", "leave", "\n"+want)
		s.without(t, "load /dev/sda")
	}
}

// TestThenWait: a machine told to wait does so, also when the server, whose
// assignment was for once, says to boot the disk from now on.
func TestThenWait(t *testing.T) {
	s := newScene(t)
	s.server.assign(install1(api.ThenWait))
	s.start(t)
	s.await(t, "event installed")
	s.server.assign(api.Assignment{Serial: 2, Action: api.ActionBoot, Disk: "only"})
	s.await(t, "console waiting for an assignment (node n1")
	s.server.assign(api.Assignment{Serial: 3, Action: api.ActionInstall, Ref: "deb:2", Disk: "only", Then: api.ThenPoweroff})
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.order(t, "receive deb:1", "receive deb:2", "poweroff")
	s.without(t, "load /dev/sda")
}

func TestKexecFailsAfterInstall(t *testing.T) {
	for _, m := range []func(*fakeMachine){
		func(m *fakeMachine) { m.load = bootos.ErrNoSystem },
		func(m *fakeMachine) { m.kexec = errors.New("EBUSY") },
	} {
		s := newScene(t)
		m(s.machine)
		s.server.assign(install1(api.ThenKexec))
		s.start(t)
		if err := <-s.done; err != nil {
			t.Fatal(err)
		}
		s.order(t, "event installed", "load /dev/sda", "leave", "\nreboot")
	}
}

func TestBoot(t *testing.T) {
	s := newScene(t)
	s.server.assign(api.Assignment{Serial: 1, Action: api.ActionBoot, Disk: "serial=S1"})
	s.start(t)
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.order(t, "load /dev/sda", "leave", "kexec")
	s.without(t, "receive", "event installed")
}

// TestBootFails: a disk that cannot be started leads to waiting, not to a
// reboot, which would lead back here.
func TestBootFails(t *testing.T) {
	s := newScene(t)
	s.machine.load = bootos.ErrNoSystem
	s.server.assign(api.Assignment{Serial: 1, Action: api.ActionBoot, Disk: "only"})
	s.start(t)
	s.await(t, "console GIVEN UP: step kexec: no bootable system found")
	s.await(t, "console waiting for an assignment")
	s.without(t, "reboot", "leave")
}

// TestBootByReboot: the server knows what kexec is worth on this machine.
func TestBootByReboot(t *testing.T) {
	s := newScene(t)
	s.server.assign(api.Assignment{Serial: 1, Action: api.ActionBoot, Disk: "only", Then: api.ThenReboot})
	s.start(t)
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.order(t, "event step reboot leaving", "leave", "\nreboot")
	s.without(t, "load", "kexec")
}

// TestMaintenance: nothing happens until it ends.
func TestMaintenance(t *testing.T) {
	s := newScene(t)
	s.server.assign(api.Assignment{Serial: 1, Action: api.ActionShell, Ref: "deb:1", Disk: "only"})
	s.start(t)
	s.await(t, "console in maintenance: nothing is written; bootserver maintain n1 --end ends it")
	s.await(t, "offer")
	s.await(t, "event step maintenance running")
	s.without(t, "receive", "load")
	s.server.assign(api.Assignment{Serial: 2, Action: api.ActionInstall, Ref: "deb:1", Disk: "only", Then: api.ThenPoweroff})
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.order(t, "step maintenance: done", "receive deb:1", "poweroff")
}

// TestStopped: a server that has seen enough is quoted.
func TestStopped(t *testing.T) {
	s := newScene(t)
	s.server.assign(api.Assignment{Serial: 1, Action: api.ActionWait, Why: "3 installations in a row did not complete"})
	s.start(t)
	s.await(t, "console STOPPED: 3 installations in a row did not complete")
	s.await(t, "console waiting for an assignment")
	s.without(t, "receive", "load")
}

// TestReportOnly: after too many crashes a boot tells what it knows of them, and
// restarts the machine whatever is assigned.
func TestReportOnly(t *testing.T) {
	s := newScene(t)
	s.boot.reportOnly = true
	s.boot.events.Add(api.Event{Type: api.EventLog, Error: "nil pointer"})
	s.server.assign(install1(api.ThenKexec))
	s.start(t)
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.order(t, "event log   nil pointer", "event step restart leaving", "leave", "\nreboot")
	s.without(t, "receive")
}

func TestNothingToDo(t *testing.T) {
	s := newScene(t)
	s.start(t)
	s.await(t, "console waiting for an assignment (node n1, server http://127.0.0.1:")
	s.await(t, "offer")
	s.server.assign(api.Assignment{Serial: 5, Action: api.ActionWait})
	s.server.assign(install1(api.ThenPoweroff))
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.order(t, "waiting", "receive deb:1", "poweroff")
}

// TestPermanentFailures are tried once, end in a message that names the cause
// on the console and in an event, and leave the node waiting for something else.
func TestPermanentFailures(t *testing.T) {
	for _, tt := range []struct {
		name, disk, cause string
		err               error
		then              api.Then
		receives          int
	}{
		{name: "refused", disk: "only", err: &install.Refused{Device: "/dev/sda", Why: "too small"}, cause: "too small", receives: 1},
		{name: "image unknown", disk: "only", err: fmt.Errorf("origin: %w", &api.Error{Code: "not_found", Message: "no image deb:1"}), cause: "no image deb:1", receives: 1},
		{name: "store corrupt", disk: "only", err: fmt.Errorf("origin: %w", &api.Error{Code: "corrupt", Message: "chunk 3fa9 is damaged"}), cause: "chunk 3fa9 is damaged", receives: 1},
		{name: "chunk damaged", disk: "only", err: &image.ChunkError{}, cause: "chunk", receives: 1},
		{name: "no disk", disk: "serial=OTHER", cause: "matches none of /dev/sda"},
		{name: "bad rule", disk: "first", cause: "unknown condition"},
		{name: "unknown then", disk: "only", then: "dance", cause: "dance"},
		{name: "always failing", disk: "only", err: errors.New("write error"), cause: "write error", receives: 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.machine.receives = []error{tt.err}
			a := install1(tt.then)
			if tt.then == "" {
				a.Then = api.ThenPoweroff
			}
			a.Disk = tt.disk
			s.server.assign(a)
			s.start(t)
			deadline := time.After(60 * time.Second)
			for !strings.Contains(s.String(), "GIVEN UP") {
				select {
				case <-deadline:
					t.Fatalf("never given up\n%s", s)
				case <-time.After(20 * time.Millisecond):
				}
			}
			s.await(t, "console waiting for an assignment")
			s.await(t, "event log   ") // it goes its own way
			s.order(t, "GIVEN UP", "offer")
			s.order(t, "console GIVEN UP: ", tt.cause)
			s.order(t, "event log   ", tt.cause)
			if n := strings.Count(s.String(), "receive deb:1 to"); n != tt.receives {
				t.Errorf("received %d times, want %d", n, tt.receives)
			}
			s.without(t, "event installed", "reread", "leave")
			// Another assignment starts the work again.
			s.machine.receives = []error{nil}
			s.server.assign(api.Assignment{Serial: 9, Action: api.ActionInstall, Ref: "deb:9", Disk: "only", Then: api.ThenPoweroff})
			if err := <-s.done; err != nil {
				t.Fatal(err)
			}
			s.order(t, "GIVEN UP", "receive deb:9", "event installed", "leave", "poweroff")
		})
	}
}

// TestPassingFailure: what passes is tried again.
func TestPassingFailure(t *testing.T) {
	s := newScene(t)
	s.machine.receives = []error{errors.New("connection refused"), &install.DiffError{Report: &install.Report{}}, nil}
	s.server.assign(install1(api.ThenPoweroff))
	s.boot.opts.NoVerify = true
	s.start(t)
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.order(t, "verify false", "step receive: FAILED: connection refused (trying again)", "receive deb:1", "receive deb:1", "step receive: done", "event installed", "poweroff")
	s.without(t, "verified")
}

// TestNoServer: DHCP that names no server is said to be the cause.
func TestNoServer(t *testing.T) {
	s := newScene(t)
	l := <-s.boot.net.Leases()
	l.Server = nil
	s.boot.net.(*fakeNet).leases <- l
	s.start(t)
	s.await(t, "step server: FAILED: no server: huck.server= is not on the kernel command line")
	good := newScene(t)
	l = <-good.boot.net.Leases()
	s.boot.net.(*fakeNet).leases <- l // DHCP says more when asked again
	s.await(t, "step server: done")
	if got := s.boot.net.(*fakeNet).chosen; got != "lo" {
		t.Errorf("chose %q", got)
	}
}

// TestDisksSettle: while disks still appear, none is chosen.
func TestDisksSettle(t *testing.T) {
	s := newScene(t)
	s.machine.mayCome = true
	s.boot.disks = disksSeen{}
	late := &lateDisks{fakeMachine: s.machine, start: time.Now()}
	s.boot.m = late
	s.server.assign(api.Assignment{Serial: 1, Action: api.ActionInstall, Ref: "deb:1", Disk: "smallest", Then: api.ThenPoweroff})
	s.start(t)
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.order(t, "receive deb:1 to /dev/sdb")
}

// lateDisks has a second, smaller disk after a second.
type lateDisks struct {
	*fakeMachine
	start time.Time
}

func (m *lateDisks) Disks() ([]api.Disk, error) {
	if time.Since(m.start) > time.Second {
		return append(m.disks[:1:1], api.Disk{Path: "/dev/sdb", Size: 1 << 20}), nil
	}
	return m.disks, nil
}

// TestDuplicates: what the image brings and another disk has already is told,
// and refused where the assignment says so.
func TestDuplicates(t *testing.T) {
	for policy, want := range map[string][]string{
		"":                   {"console WARNING: ", "filesystem UUID ab-cd is on /dev/sdb partition 2", "receive deb:1", "\npoweroff"},
		api.DuplicatesRefuse: {"GIVEN UP", "/dev/sda refused: the image brings what another disk has already", "filesystem UUID ab-cd is on /dev/sdb partition 2"},
	} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.machine.disks = append(s.machine.disks, api.Disk{Path: "/dev/sdb", Size: 1 << 30, Serial: "S2"})
			s.boot.disks.list = s.machine.disks
			s.machine.man.Partitions = []image.Partition{{Number: 1, FSUUID: "AB-CD"}}
			same := []api.Content{{Partition: 2, Kind: "ext4", UUID: "ab-cd"}}
			s.machine.contents = map[string][]api.Content{"/dev/sda": same, "/dev/sdb": same}
			a := install1(api.ThenPoweroff)
			a.Disk, a.Duplicates = "serial=S1", policy
			s.server.assign(a)
			s.start(t)
			if policy == api.DuplicatesRefuse {
				s.await(t, "GIVEN UP: ")
			} else {
				s.await(t, "\npoweroff")
			}
			s.order(t, want...)
			s.without(t, "is on /dev/sda")
		})
	}
}

// TestCandidates: a refused choice shows what stands on the disks.
func TestCandidates(t *testing.T) {
	s := newScene(t)
	s.machine.disks = append(s.machine.disks, api.Disk{Path: "/dev/sdb", Size: 1 << 30, Serial: "S2"})
	s.boot.disks.list = s.machine.disks
	s.machine.contents = map[string][]api.Content{"/dev/sdb": {{Partition: 1, Kind: "ntfs", Label: "Data"}, {Partition: 2}}}
	s.server.assign(install1(api.ThenPoweroff))
	s.start(t)
	s.await(t, "GIVEN UP")
	s.order(t, `rule "only" matches 2`, `/dev/sdb`, `1 ntfs "Data", 2 unknown`)
}

// TestBootEntry: UEFI firmware is told of the disk, and a reset goes there; that
// it cannot be told is no failure.
func TestBootEntry(t *testing.T) {
	for _, tt := range []struct {
		name  string
		entry error
		want  []string
	}{
		{"told", nil, []string{"boot entry for /dev/sda, next false", `Boot0004, \EFI\x.efi`, "event installed", "boot entry for /dev/sda, next true", "leave", "reboot"}},
		{"without a system partition", efiboot.ErrNoESP, []string{"nothing there for UEFI", "event installed", "leave", "reboot"}},
		{"full", errors.New("no space left"), []string{"no boot entry", "event installed", "leave", "reboot"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			s.machine.firmware, s.machine.entry = "uefi", tt.entry
			s.server.assign(install1(api.ThenReboot))
			s.start(t)
			if err := <-s.done; err != nil {
				t.Fatal(err)
			}
			s.order(t, tt.want...)
		})
	}
	s := newScene(t)
	s.machine.firmware = "bios"
	s.server.assign(install1(api.ThenReboot))
	s.start(t)
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.without(t, "boot entry for")
}
