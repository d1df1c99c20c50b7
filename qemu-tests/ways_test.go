package qemutests_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"huck/qemu-tests/lab"
	"huck/qemu-tests/proc"
	"huck/qemu-tests/site"
	"huck/qemu-tests/vm"
)

// rareWays are those that only `make test-all` goes: another kind of the same
// boot sector, firmware or file. BIOS with an iPXE ROM is the way of all other
// tests.
var rareWays = []string{"BIOS CD", "UEFI CD"}

func TestWays(t *testing.T) {
	tryWays(t, func(name string) bool { return name != "BIOS iPXE" && !slices.Contains(rareWays, name) })
}

func TestRareWays(t *testing.T) {
	tryWays(t, func(name string) bool { return slices.Contains(rareWays, name) })
}

func tryWays(t *testing.T, wanted func(name string) bool) {
	s := newSite(t, 12*time.Minute)
	s.must(s.StartServer(s.ctx, rate))
	for _, w := range site.Ways {
		if !wanted(w.Name) {
			continue
		}
		t.Run(w.Name, func(t *testing.T) {
			s := &labSite{Site: s.Site, t: t, ctx: s.ctx}
			m := s.wayIn(w)
			s.must(m.PowerOn())
			defer m.Cut()
			s.waits(m, w)
		})
	}
}

// wayIn plugs in a machine with an empty disk that is started in this way.
func (s *labSite) wayIn(w site.Way) *vm.Machine {
	s.t.Helper()
	medium, err := "", error(nil)
	if w.Boot == vm.USB || w.Boot == vm.CD {
		medium, err = plainMedium()
		s.must(err)
	}
	m, err := s.PlugWay(s.ctx, w, w.FileName(), 64*mib, medium)
	s.must(err)
	return m
}

// waits expects that the appliance is there, the machine is listed, and that
// the medium it came from, if it looks like a disk, is known for what it is.
func (s *labSite) waits(m *vm.Machine, w site.Way) {
	s.t.Helper()
	s.expect(m, `huck: waiting for an assignment`)
	s.t.Logf("%s: waiting for an assignment %v after power-on", w.Name, time.Since(m.OnAt()).Round(10*time.Millisecond))
	if !strings.Contains(m.Console().String(), w.Proof) {
		s.t.Errorf("nothing on the console says %q: has it come another way?", w.Proof)
	}
	node, err := s.Node(s.ctx, m)
	s.must(err)
	want := "uefi"
	if w.Firmware == vm.BIOS {
		want = "bios"
	}
	if node.Inventory.Firmware != want || node.Known {
		s.t.Errorf("listed as %+v, want an unknown machine with %s", node, want)
	}
	boot := 0
	for _, d := range node.Inventory.Disks {
		if d.Boot {
			boot++
		}
	}
	if (w.Boot == vm.USB) != (boot == 1) || len(node.Inventory.Disks) != 1+boot {
		s.t.Errorf("disks are %+v", node.Inventory.Disks)
	}
}

// plainMedium builds the stick and CD that carries no image, once a run.
var plainMedium = sync.OnceValues(func() (string, error) {
	p, err := programs()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), scaled(5*time.Minute))
	defer cancel()
	return p.Medium(ctx)
})

// The boot server leaves DHCP to another's server, which knows nothing but two
// file names. The card's own ROM is iPXE here, and no plainer one exists for
// QEMU; it is given undionly.kpxe all the same, as a PXE ROM would be, and what
// that becomes asks again.
func TestUndionly(t *testing.T) {
	tryChain(t, site.Way{Name: "BIOS undionly", Proof: "Huck: starting the appliance from http"}, "undionly.kpxe")
}

// The same by UEFI, whose own PXE is given iPXE.
func TestRareSnponly(t *testing.T) {
	tryChain(t, site.Way{Name: "UEFI snponly", Firmware: vm.UEFI, NIC: vm.BarePXE, Proof: "NBP filename is snponly.efi"}, "snponly.efi")
}

func tryChain(t *testing.T, w site.Way, loader string) {
	s := newSite(t, 8*time.Minute)
	s.DHCP = "off"
	s.must(s.StartServer(s.ctx, rate))
	m := s.wayIn(w)
	other := s.otherDHCP(loader)
	s.must(m.PowerOn())
	s.must(s.ServerSays(s.ctx, `"tftp: sent".*"file":"`+loader))
	s.bootFile(other, fmt.Sprintf("http://%s:8480/boot/ipxe?mac=%s", lab.Server.Addr(), strings.ReplaceAll(m.MAC(), ":", "-")))
	s.waits(m, w)
	if n := strings.Count(m.Console().String(), "iPXE initialising devices"); w.Firmware == vm.BIOS && n != 2 {
		t.Errorf("iPXE was started %d times, want the ROM's and %s", n, loader)
	}
}

// otherDHCP starts somebody else's DHCP server, which gives everybody the file
// loader, from our TFTP. It advertises itself as a router for IPv6, as iPXE
// would wait for one.
func (s *labSite) otherDHCP(loader string) *proc.Proc {
	s.t.Helper()
	s.bootFile(nil, loader)
	_, err := proc.Run(s.ctx, proc.Command{Netns: s.Network.Netns, Args: []string{"ip", "addr", "add", "fd77::1/64", "dev", lab.Interface, "nodad"}})
	s.must(err)
	p, err := proc.Start(proc.Command{
		Netns: s.Network.Netns,
		Args: []string{"dnsmasq", "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--user=root", "--port=0",
			"--interface=" + lab.Interface, "--bind-interfaces", "--dhcp-range=" + strings.Replace(lab.Pool, "-", ",", 1) + ",1h",
			"--dhcp-leasefile=" + s.Path("leases"), "--pid-file=" + s.Path("dnsmasq.pid"), "--dhcp-optsfile=" + s.Path("dhcp-options"),
			"--enable-ra", "--dhcp-range=fd77::,ra-only"},
	})
	s.must(err)
	s.t.Cleanup(p.Kill)
	_, _, err = p.Stderr.Wait(s.ctx, regexp.MustCompile(`DHCP, IP range`), 0)
	s.must(err)
	return p
}

// bootFile has the other DHCP server, if it runs, name another file.
func (s *labSite) bootFile(other *proc.Proc, file string) {
	s.t.Helper()
	text := fmt.Sprintf("option:bootfile-name,%s\noption:server-ip-address,%s\noption:tftp-server,%[2]s\n", file, lab.Server.Addr())
	s.must(os.WriteFile(s.Path("dhcp-options"), []byte(text), 0o644))
	if other != nil {
		s.must(syscall.Kill(other.Pid(), syscall.SIGHUP))
	}
}

// Firmware loads the file over a slow protocol, and it is in memory twice.
func TestUKISize(t *testing.T) {
	require(t)
	p, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(p.UKI())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.2f MiB", float64(info.Size())/mib)
	if info.Size() > 20*mib {
		t.Errorf("the UKI has %d bytes, at most %d are allowed", info.Size(), 20*mib)
	}
}
