// Package lab makes private virtual networks for VM tests: a network namespace
// with a bridge, one end of a veth pair for the server and a tap per machine.
// Nothing of it is visible outside the namespace.
//
//	  server ── lan0 ═ port0 ┐
//	(10.77.0.1)              ├ br0 (no snooping: floods)
//	  QEMU ──────────── tapN ┘
//
// Offloads are off, so that every counter and every dropped packet is one
// packet as it would be on a wire.
package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"huck/qemu-tests/proc"
)

const (
	// Interface is the server's interface.
	Interface = "lan0"
	// Pool is a range for DHCP leases.
	Pool = "10.77.0.100-10.77.0.199"

	serverPort = "port0"
	bridge     = "br0"
	prefix     = "huck-"
	netnsDir   = "/run/netns" // iproute2's
)

// Server is the server's address on the network; the namespace is the lab's
// own, so it needs to differ from nobody's.
var Server = netip.MustParsePrefix("10.77.0.1/24")

// made numbers the namespaces of this process.
var made atomic.Int64

// Network is one private network.
type Network struct {
	// Netns is the namespace's name, for proc.Command.
	Netns string
	taps  int
	ports []*tagged
	hosts []string // namespaces, too
}

// New makes a network, and first removes those whose makers died without
// doing so. It needs root.
func New(ctx context.Context) (*Network, error) {
	if err := RemoveStale(ctx); err != nil {
		return nil, err
	}
	netns, err := makeNamespace(ctx)
	if err != nil {
		return nil, err
	}
	n := &Network{Netns: netns}
	if err := n.setUp(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("lab: %v", err), n.Close())
	}
	return n, nil
}

// makeNamespace makes a namespace that RemoveStale knows for ours.
func makeNamespace(ctx context.Context) (string, error) {
	start, err := startTime(os.Getpid())
	if err != nil {
		return "", fmt.Errorf("lab: %v", err)
	}
	name := fmt.Sprintf("%s%d-%s-%d", prefix, os.Getpid(), start, made.Add(1))
	if _, err := proc.Run(ctx, proc.Command{Args: []string{"ip", "netns", "add", name}}); err != nil {
		return "", fmt.Errorf("lab: make namespace: %v", err)
	}
	return name, nil
}

func (n *Network) setUp(ctx context.Context) error {
	steps := [][]string{
		{"ip", "link", "set", "lo", "up"},
		// The bridge is in the server's namespace; by default it would answer for the server's address, too.
		{"sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1"},
		{"ip", "link", "add", bridge, "type", "bridge", "mcast_snooping", "0", "forward_delay", "0"},
		{"ip", "link", "add", Interface, "type", "veth", "peer", "name", serverPort},
		{"ip", "link", "set", serverPort, "master", bridge},
		{"ip", "addr", "add", Server.String(), "dev", Interface},
		{"ethtool", "-K", Interface, "tso", "off", "gso", "off", "gro", "off", "tx", "off", "tx-udp-segmentation", "off"},
		{"ethtool", "-K", serverPort, "tso", "off", "gso", "off", "gro", "off", "tx", "off"},
		{"ip", "link", "set", bridge, "up"},
		{"ip", "link", "set", serverPort, "up"},
		{"ip", "link", "set", Interface, "up"},
	}
	for _, args := range steps {
		if err := n.run(ctx, args...); err != nil {
			return err
		}
	}
	return n.nft(ctx, counters)
}

func (n *Network) run(ctx context.Context, args ...string) error {
	_, err := proc.Run(ctx, proc.Command{Netns: n.Netns, Args: args})
	return err
}

// Close kills what still runs in the namespace and removes it.
func (n *Network) Close() error {
	for _, p := range n.ports {
		p.close()
	}
	var errs []error
	for _, host := range append(n.hosts, n.Netns) {
		errs = append(errs, remove(context.Background(), host))
	}
	return errors.Join(errs...)
}

// AddHost plugs in another host that runs on this one: a namespace, which it
// returns, with Interface and the given address.
func (n *Network) AddHost(ctx context.Context, addr netip.Prefix) (netns string, err error) {
	if netns, err = makeNamespace(ctx); err != nil {
		return "", err
	}
	n.hosts = append(n.hosts, netns)
	port := fmt.Sprintf("host%d", len(n.hosts))
	for _, args := range [][]string{
		{"ip", "link", "add", port, "type", "veth", "peer", "name", Interface, "netns", netns},
		{"ip", "link", "set", port, "master", bridge, "up"},
		{"ip", "-n", netns, "link", "set", "lo", "up"},
		{"ip", "-n", netns, "addr", "add", addr.String(), "dev", Interface},
		{"ip", "-n", netns, "link", "set", Interface, "up"},
	} {
		if err := n.run(ctx, args...); err != nil {
			return "", fmt.Errorf("lab: add host: %v", err)
		}
	}
	return netns, nil
}

// AddTap makes a port for a machine and returns its interface's name.
func (n *Network) AddTap(ctx context.Context) (string, error) {
	tap := fmt.Sprintf("tap%d", n.taps)
	n.taps++
	for _, args := range [][]string{
		{"ip", "tuntap", "add", tap, "mode", "tap"},
		// The guest's emulated CPU takes packets in bursts.
		{"ip", "link", "set", tap, "txqueuelen", "4000", "master", bridge, "up"},
	} {
		if err := n.run(ctx, args...); err != nil {
			return "", fmt.Errorf("lab: add tap: %v", err)
		}
	}
	return tap, nil
}

// RemoveStale removes the networks of processes that are gone.
func RemoveStale(ctx context.Context) error {
	entries, err := os.ReadDir(netnsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lab: %v", err)
	}
	var errs []error
	for _, e := range entries {
		if stale(e.Name()) {
			errs = append(errs, remove(ctx, e.Name()))
		}
	}
	return errors.Join(errs...)
}

// stale reports whether a namespace is named like ours and its maker is gone.
// The start time tells a process from a later one with the same ID.
func stale(name string) bool {
	rest, ours := strings.CutPrefix(name, prefix)
	part := strings.Split(rest, "-")
	if !ours || len(part) != 3 {
		return false
	}
	pid, err := strconv.Atoi(part[0])
	if err != nil {
		return false
	}
	start, err := startTime(pid)
	return errors.Is(err, os.ErrNotExist) || err == nil && start != part[1]
}

// startTime returns field 22 of proc_pid_stat(5), in clock ticks since boot.
func startTime(pid int) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", err
	}
	// The name in field 2 may hold blanks; nothing after its ")" does.
	_, rest, ok := strings.Cut(string(b), ") ")
	field := strings.Fields(rest)
	if !ok || len(field) < 20 {
		return "", fmt.Errorf("stat of process %d makes no sense", pid)
	}
	return field[19], nil
}

// remove kills the processes inside a namespace of ours, all started by the
// test that made it, and deletes the namespace.
func remove(ctx context.Context, netns string) error {
	pids, err := proc.Run(ctx, proc.Command{Args: []string{"ip", "netns", "pids", netns}})
	if err != nil {
		return fmt.Errorf("lab: remove namespace: %v", err)
	}
	for _, s := range strings.Fields(string(pids)) {
		if pid, err := strconv.Atoi(s); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may just have ended
		}
	}
	if _, err := proc.Run(ctx, proc.Command{Args: []string{"ip", "netns", "del", netns}}); err != nil {
		return fmt.Errorf("lab: remove namespace: %v", err)
	}
	return nil
}
