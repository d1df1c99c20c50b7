package qemutests_test

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"huck/qemu-tests/proc"
	"huck/qemu-tests/vm"
)

// A machine that trusts one key starts what is signed with it, and neither
// what is signed and then changed nor what is not signed.
func TestSecureBoot(t *testing.T) {
	s := newSite(t, 10*time.Minute)
	key := s.Path("key.pem")
	_, err := proc.Run(s.ctx, proc.Command{Args: []string{"openssl", "rsa", "-in", vm.SnakeoilKey, "-passin", "pass:snakeoil", "-out", key}})
	s.must(err)
	good, err := s.Programs.MediumWith(s.ctx, "--sb-key", key, "--sb-cert", vm.SnakeoilCert)
	s.must(err)
	signed, err := os.ReadFile(good)
	s.must(err)
	unsigned, err := s.Programs.MediumWith(s.ctx)
	s.must(err)

	m := s.secure("signed", good)
	s.expect(m, `huck: .* the Huck appliance`)
	t.Logf("signed: the appliance is there %v after power-on", time.Since(m.OnAt()).Round(10*time.Millisecond))
	m.Cut()

	tampered := s.Path("tampered.iso")
	s.must(os.WriteFile(tampered, s.tamper(signed), 0o644))
	for name, medium := range map[string]string{"tampered": tampered, "unsigned": unsigned} {
		m := s.secure(name, medium)
		s.expect(m, `failed to load Boot\S+ .*: (Access Denied|Security Violation)`)
		if said := m.Console().String(); strings.Contains(said, "EFI stub") || strings.Contains(said, "huck:") {
			t.Errorf("%s: it was started", name)
		}
		m.Cut()
	}
}

// secure switches a machine on that boots a medium under Secure Boot.
func (s *labSite) secure(name, medium string) *vm.Machine {
	s.t.Helper()
	disk, err := s.Disk(name, 16*mib)
	s.must(err)
	m, err := s.Plug(s.ctx, vm.Config{Name: name, Network: s.Network, Disks: []string{disk}, Firmware: vm.Secure, Boot: vm.USB, Medium: medium})
	s.must(err)
	s.must(m.PowerOn())
	return m
}

// tamper returns a copy of a medium with one bit of the kernel turned over,
// wherever the kernel is: 1 MiB into it stands its compressed code.
func (s *labSite) tamper(medium []byte) []byte {
	s.t.Helper()
	kernel, err := os.ReadFile(s.Programs.Kernel())
	s.must(err)
	part := kernel[mib : mib+64]
	if n := bytes.Count(medium, part); n != 2 { // for BIOS, and in the UKI
		s.t.Fatalf("the kernel is on the medium %d times", n)
	}
	other := bytes.Clone(part)
	other[0] ^= 1
	return bytes.ReplaceAll(medium, part, other)
}
