package qemutests_test

import (
	"strings"
	"testing"
	"time"

	"huck/qemu-tests/vm"
)

// TestIPv6Only: a network without IPv4, a machine whose first card has a link
// that leads nowhere, nothing about the server on its command line: it is
// installed by multicast all the same.
func TestIPv6Only(t *testing.T) {
	s := newSite(t, 6*time.Minute)
	img := s.golden(tiny)
	s.must(s.Network.OnlyIPv6(s.ctx))
	s.must(s.StartServer(s.ctx, rate))
	m, err := s.AddDirect(s.ctx, vm.Config{Name: "six", DeadCards: 1, Memory: tiny.memory}, tiny.size+32*mib)
	s.must(err)
	node, from := s.started(m, img.Ref, "only", "--once", "--then", "kexec")
	s.expect(m, `huck: step server: done in .*http://\[fd00:77::1\]:8480 over eth1`)
	r := s.installed(node, from, img)
	if r.Received["multicast"] < img.EncodedBytes*9/10 {
		t.Errorf("of %d bytes came %v, want almost all by multicast", img.EncodedBytes, r.Received)
	}
	if strings.Contains(m.Console().String(), "10.77.") {
		t.Error("somebody had an IPv4 address")
	}
	s.login(m, tiny)
}

// TestVLAN: a port that carries tagged frames only. The machine gets its lease
// and finds its server in the VLAN, and waits for work.
func TestVLAN(t *testing.T) {
	t.Parallel() // it mostly waits
	s := newSite(t, 4*time.Minute)
	s.must(s.StartServer(s.ctx, rate))
	m, err := s.AddDirect(s.ctx, vm.Config{Name: "tagged", VLAN: 100, Append: "huck.vlan=100"}, 64*mib)
	s.must(err)
	s.must(m.PowerOn())
	s.expect(m, `huck: step server: done in .*http://10\.77\.0\.1:8480 over eth0\.100`)
	s.expect(m, `huck: waiting for an assignment`)
	node, err := s.Node(s.ctx, m)
	s.must(err)
	if want := m.MAC(); len(node.Inventory.MACs) != 1 || node.Inventory.MACs[0] != want {
		t.Errorf("the machine says it is %v, want %s", node.Inventory.MACs, want)
	}
}
