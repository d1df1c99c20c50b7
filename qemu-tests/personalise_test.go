package qemutests_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"huck/imager/api"
	"huck/imager/personal"
	"huck/qemu-tests/vm"
)

// document writes a personalisation to a file.
func (s *labSite) document(name string, d personal.Document) string {
	s.t.Helper()
	b, err := json.Marshal(d)
	s.must(err)
	path := s.Path(name)
	s.must(os.WriteFile(path, b, 0o600))
	return path
}

// own is what makes a machine itself.
type own struct{ hostname, machineID, hostKey string }

// own logs in to the tiny system and looks.
func (s *labSite) own(m *vm.Machine) (o own) {
	s.t.Helper()
	ask := func(pattern string, from int) (string, int) {
		s.t.Helper()
		found, next, err := m.Expect(s.ctx, pattern, from)
		s.must(err)
		return found[1], next
	}
	var at int
	o.hostname, at = ask(`(\S+) login: `, 0)
	s.must(m.Type("cat /etc/machine-id"))
	o.machineID, at = ask(`([0-9a-f]{32})\s`, at)
	s.must(m.Type("cat /etc/ssh/ssh_host_ed25519_key.pub"))
	o.hostKey, _ = ask(`(ssh-ed25519 \S+) `, at)
	return o
}

// said waits for a line of a script's output among a node's events.
func (s *labSite) said(node string, from int, pattern string) {
	s.t.Helper()
	line := regexp.MustCompile(pattern)
	_, _, err := s.Events.Wait(s.ctx, from, "that a script says "+pattern, func(e api.Event) bool {
		return e.Node == node && e.Type == api.EventLog && line.MatchString(e.Message)
	})
	s.must(err)
}

// TestPersonalise: two machines from one image have hostnames, machine IDs and
// SSH host keys of their own; one that is installed again takes the changes
// back, and is itself again; and a script that fails ends an installation.
func TestPersonalise(t *testing.T) {
	t.Parallel()
	s := newSite(t, 12*time.Minute)
	img := s.golden(tiny)
	s.must(s.StartServer(s.ctx, rate))
	doc := personal.Document{
		Hostname: `tiny-{{replace ":" "" .MAC}}`, MachineID: personal.MachineDerived, SSHHostKeys: personal.KeysStored,
		Files: []personal.File{{Path: "/etc/deep/motd", Content: "This is {{.Hostname}}.\n"}},
		Scripts: personal.Scripts{
			Before: []personal.Script{{Name: "look", Text: "echo before: $HUCK_NODE has $HUCK_DISK"}},
			After:  []personal.Script{{Name: "check", Text: "#!/sbin/init\nwrite /etc/script $HUCK_NODE\ncat /etc/deep/motd\n"}},
		},
	}
	options := []string{"--once", "--then", "kexec", "--personalise", s.document("own.json", doc)}
	var machines [2]*vm.Machine
	var owns [2]own
	for i, name := range []string{"first", "second"} {
		m := s.machine(name, tiny.size+32*mib, tiny.memory)
		node, from := s.started(m, img.Ref, "only", options...)
		hostname := "tiny-" + strings.ReplaceAll(m.MAC(), ":", "")
		s.said(node, from, `^before: `+node+` has /dev/vda$`)
		s.verified(node, from, img)
		s.said(node, from, `^This is `+hostname+`\.$`)
		s.installed(node, from, img)
		owns[i] = s.own(m)
		t.Logf("%s is %+v", name, owns[i])
		if owns[i].hostname != hostname {
			t.Errorf("%s is called %s, want %s", name, owns[i].hostname, hostname)
		}
		s.must(m.Type("cat /etc/script"))
		s.expect(m, regexp.QuoteMeta(node)+`\s`)
		s.must(m.Type("poweroff"))
		s.must(m.WaitOff(s.ctx))
		machines[i] = m
	}
	if owns[0].machineID == owns[1].machineID || owns[0].hostKey == owns[1].hostKey {
		t.Errorf("two machines are %+v and %+v", owns[0], owns[1])
	}

	// Installed again, the first fetches what it had changed, and is itself again.
	m := machines[0]
	s.assign(m, img, options...)
	node, from := strings.ReplaceAll(m.MAC(), ":", "-"), s.Events.Len()
	s.must(m.PowerOn())
	r := s.installed(node, from, img)
	t.Logf("installed again: %d of %d chunks in place, %d bytes written", r.ChunksInPlace, img.chunks, r.WrittenBytes)
	if r.ChunksInPlace == img.chunks || r.ChunksInPlace < img.chunks*8/10 {
		t.Errorf("%d of %d chunks were in place, want most, and not all", r.ChunksInPlace, img.chunks)
	}
	if again := s.own(m); again != owns[0] {
		t.Errorf("the first was %+v and is %+v", owns[0], again)
	}
	s.must(m.Type("poweroff"))
	s.must(m.WaitOff(s.ctx))
	s.scriptFails(m, node, img)
}

// scriptFails: before anything is written, a script that fails ends it all.
func (s *labSite) scriptFails(m *vm.Machine, node string, img captured) {
	s.t.Helper()
	hash := diskHash(s.t, m.Disk(0))
	s.assign(m, img, "--once", "--then", "kexec", "--personalise", s.document("fails.json", personal.Document{
		Scripts: personal.Scripts{Before: []personal.Script{{Name: "broken", Text: "echo about to fail\nexit 3\n"}}},
	}))
	from := s.Events.Len()
	s.must(m.PowerOn())
	s.said(node, from, `^about to fail$`)
	e, _, err := s.Step(s.ctx, node, from, "scripts-before", api.StepFailed)
	s.must(err)
	if !strings.Contains(e.Error, "script broken ended with exit status 3") {
		s.t.Errorf("the failure is reported as %q", e.Error)
	}
	s.expect(m, "GIVEN UP: .*script broken ended with exit status 3")
	m.Cut()
	if diskHash(s.t, m.Disk(0)) != hash {
		s.t.Error("the disk was written to")
	}
}
