package qemutests_test

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"huck/qemu-tests/lab"
	"huck/qemu-tests/proc"
	"huck/qemu-tests/site"
)

// The network has a DHCP server of its own, on another host, that knows nothing
// of booting. Beside it the boot server's proxy brings each firmware to the
// appliance, which is told no server by its lease and, loaded by UEFI as one
// file, by nothing else, and finds it.
func TestProxy(t *testing.T) { tryProxy(t, "BIOS iPXE", "UEFI PXE") }

func TestRareProxyHTTP(t *testing.T) { tryProxy(t, "UEFI HTTP Boot") }

func tryProxy(t *testing.T, ways ...string) {
	s := newSite(t, 10*time.Minute)
	s.DHCP = "proxy"
	host, err := s.Network.AddHost(s.ctx, netip.MustParsePrefix("10.77.0.2/24"))
	s.must(err)
	other, err := proc.Start(proc.Command{
		Netns: host,
		Args: []string{"dnsmasq", "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--user=root", "--port=0",
			"--interface=" + lab.Interface, "--bind-interfaces", "--dhcp-range=" + strings.Replace(lab.Pool, "-", ",", 1) + ",1h",
			"--dhcp-leasefile=/dev/null", "--pid-file=", "--no-ping"},
	})
	s.must(err)
	t.Cleanup(other.Kill)
	_, _, err = other.Stderr.Wait(s.ctx, regexp.MustCompile(`sockets bound`), 0)
	s.must(err)
	s.must(s.StartServer(s.ctx, rate))
	for _, w := range site.Ways {
		if !slices.Contains(ways, w.Name) {
			continue
		}
		t.Run(w.Name, func(t *testing.T) {
			s := &labSite{Site: s.Site, t: t, ctx: s.ctx}
			m := s.wayIn(w)
			s.must(m.PowerOn())
			defer m.Cut()
			s.waits(m, w)
			if _, _, err := other.Stderr.Wait(s.ctx, regexp.MustCompile(`DHCPACK\S* \S+ `+m.MAC()), 0); err != nil {
				t.Errorf("its address is not from the other server: %v", err)
			}
		})
	}
}
