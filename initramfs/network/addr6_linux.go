package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dadTime is how long an address may be tentative: duplicate address detection
// takes a second and a random one before it (RFC 4862 section 5.4).
const dadTime = 10 * time.Second

func sysctl6(ifname, key string) string {
	return filepath.Join("/proc/sys/net/ipv6/conf", ifname, key)
}

// enable6 has the kernel listen to routers on an interface
// (Documentation/networking/ip-sysctl.rst).
func enable6(ifname string) error {
	for _, key := range []struct{ name, value string }{{"disable_ipv6", "0"}, {"accept_ra", "1"}, {"autoconf", "1"}} {
		if err := os.WriteFile(sysctl6(ifname, key.name), []byte(key.value), 0); err != nil {
			return fmt.Errorf("network: IPv6 on %s: %w", ifname, err)
		}
	}
	return nil
}

// addrs6 calls visit with the IPv6 addresses of an interface beyond the link
// and their flags.
func addrs6(ifname string, visit func(p netip.Prefix, flags int)) error {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("network: interface %s: %v", ifname, err)
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return fmt.Errorf("network: addresses of %s: %v", ifname, err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.IsGlobalUnicast() {
			bits, _ := a.Mask.Size()
			visit(netip.PrefixFrom(ip, bits), a.Flags)
		}
	}
	return nil
}

// unusable are addresses that are being checked, are somebody else's, or are
// about to expire.
const unusable = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED

// global6 returns an address that may be used; invalid if there is none.
func global6(ifname string) (found netip.Prefix, err error) {
	err = addrs6(ifname, func(p netip.Prefix, flags int) {
		if !found.IsValid() && flags&unusable == 0 {
			found = p
		}
	})
	return found, err
}

// errDuplicate says that another machine has the address.
var errDuplicate = errors.New("the address is in use by another machine (duplicate address detection)")

// settled waits until an address has been checked for duplicates.
func settled(ctx context.Context, ifname string, addr netip.Addr) error {
	for deadline := time.Now().Add(dadTime); ; {
		there, flags := false, 0
		err := addrs6(ifname, func(p netip.Prefix, f int) {
			if p.Addr() == addr {
				there, flags = true, f
			}
		})
		switch {
		case err != nil:
			return err
		case flags&unix.IFA_F_DADFAILED != 0:
			return fmt.Errorf("network: %s: %v: %w", ifname, addr, errDuplicate)
		case there && flags&unix.IFA_F_TENTATIVE == 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("network: %s: %v is still not checked for duplicates", ifname, addr)
		}
		if err := sleep(ctx, poll); err != nil {
			return err
		}
	}
}

// present tells whether an interface has an address.
func present(ifname string, addr netip.Addr) (ok bool, err error) {
	err = addrs6(ifname, func(p netip.Prefix, _ int) { ok = ok || p.Addr() == addr })
	return ok, err
}
