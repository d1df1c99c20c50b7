package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// tagged is a port of a switch that carries one VLAN, tagged, to its machine:
// what the bridge would do, had every kernel that runs these tests VLANs.
//
//	br0 ═ peerN ── tagN ◄─ relay: adds and takes the tag ─► tapN ── QEMU
type tagged struct {
	inside, outside int // packet sockets on tagN and on tapN
	id              uint16
	closed          atomic.Bool
	wg              sync.WaitGroup
}

// AddTaggedTap makes a port for a machine that has to speak with the tag of a
// VLAN, 1 to 4094; what it says without is dropped.
func (n *Network) AddTaggedTap(ctx context.Context, id uint16) (string, error) {
	tap := fmt.Sprintf("tap%d", n.taps)
	in, peer := fmt.Sprintf("tag%d", n.taps), fmt.Sprintf("peer%d", n.taps)
	n.taps++
	for _, args := range [][]string{
		{"ip", "tuntap", "add", tap, "mode", "tap"},
		{"ip", "link", "add", in, "type", "veth", "peer", "name", peer},
		{"ip", "link", "set", peer, "master", bridge, "up"},
		{"ip", "link", "set", in, "promisc", "on", "up"},
		{"ip", "link", "set", tap, "txqueuelen", "4000", "promisc", "on", "up"},
	} {
		if err := n.run(ctx, args...); err != nil {
			return "", fmt.Errorf("lab: add tagged tap: %v", err)
		}
	}
	t := &tagged{id: id}
	if err := n.inside(func() (err error) {
		if t.inside, err = packetSocket(in); err == nil {
			t.outside, err = packetSocket(tap)
		}
		return err
	}); err != nil {
		return "", fmt.Errorf("lab: add tagged tap: %v", err)
	}
	n.ports = append(n.ports, t)
	t.wg.Go(func() { t.relay(t.outside, t.inside, t.untag) })
	t.wg.Go(func() { t.relay(t.inside, t.outside, t.tag) })
	return tap, nil
}

// inside runs f in the network's namespace.
func (n *Network) inside(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		ns, err := os.Open(netnsDir + "/" + n.Netns)
		if err == nil {
			err = errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), ns.Close())
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// packetSocket sees and sends whole frames (packet(7)); a read ends after a
// fifth of a second.
func packetSocket(ifname string) (int, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return -1, err
	}
	all := binary.BigEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	if probe := [2]byte{1, 0}; binary.NativeEndian.Uint16(probe[:]) == 1 {
		all = all<<8 | all>>8 // the kernel wants network byte order
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
	if err != nil {
		return -1, err
	}
	return fd, errors.Join(
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}),
		// The kernel takes tags off frames and tells of them beside.
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}))
}

// relay takes frames from one socket to the other, as change makes them; nil
// drops one.
func (t *tagged) relay(from, to int, change func(frame, oob []byte) []byte) {
	buf, oob := make([]byte, 4+65536), make([]byte, 256)
	for !t.closed.Load() {
		n, m, _, src, err := unix.Recvmsg(from, buf[4:], oob, 0)
		if err != nil {
			continue // the time is over; or the interface went, then we are about to close
		}
		if ll, ok := src.(*unix.SockaddrLinklayer); !ok || ll.Pkttype == unix.PACKET_OUTGOING || n < 14 {
			continue
		}
		if frame := change(buf[:4+n], oob[:m]); frame != nil {
			_, _ = unix.Write(to, frame) // a full queue loses it, as a switch would
		}
	}
}

// untag lets frames of the VLAN through. Frame has four free bytes before it.
func (t *tagged) untag(frame, oob []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		// struct tpacket_auxdata: status at 0, tci at 16 (linux/if_packet.h).
		if m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 18 {
			continue
		}
		status, tci := binary.NativeEndian.Uint32(m.Data), binary.NativeEndian.Uint16(m.Data[16:])
		if status&unix.TP_STATUS_VLAN_VALID != 0 && tci&0xfff == t.id {
			return frame[4:]
		}
	}
	return nil
}

// tag puts the tag behind the addresses.
func (t *tagged) tag(frame, _ []byte) []byte {
	copy(frame, frame[4:16])
	binary.BigEndian.PutUint16(frame[12:], 0x8100)
	binary.BigEndian.PutUint16(frame[14:], t.id)
	return frame
}

func (t *tagged) close() {
	t.closed.Store(true)
	t.wg.Wait()
	_ = unix.Close(t.inside) // nothing is lost
	_ = unix.Close(t.outside)
}
