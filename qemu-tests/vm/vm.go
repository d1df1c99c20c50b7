// Package vm runs virtual machines under QEMU's emulator (TCG), so that no
// hardware support is needed: BIOS and UEFI machines that boot from a network,
// a stick, a CD, a disk or a kernel given directly, with a serial console that
// is always drained, and a power switch.
package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"huck/qemu-tests/lab"
	"huck/qemu-tests/proc"
)

// Memory is what a machine has by default, in MiB; the appliance needs at
// least 80.
const Memory = 256

// KernelArgs are words that every Linux in a machine should have on its command
// line: on a busy host the emulator's timer interrupts come in bursts, which
// makes the kernel's check of them panic now and then.
const KernelArgs = "no_timer_check"

// Config describes a machine. It stays the same from one power-on to the next.
type Config struct {
	// Name tells machines apart: it is in file names and is the serial number
	// in SMBIOS.
	Name string
	// Network is where the machine is plugged in; nil for none.
	Network *lab.Network
	// Disks are files in raw format, each a virtio disk with the serial number
	// NAME-diskN.
	Disks []string
	// Firmware starts the machine, from Boot.
	Firmware Firmware
	Boot     Boot
	// Medium is the file to start from where Boot is USB or CD.
	Medium string
	// NIC says how the machine boots from the network.
	NIC NIC
	// Kernel, Initrd and Append start a kernel directly.
	Kernel, Initrd, Append string
	// Memory in MiB; 0 is the default.
	Memory int
	// LogDir is where consoles and packet captures are kept.
	LogDir string
	// DeadCards have a link and nobody at its other end; the machine finds them
	// before its real one.
	DeadCards int
	// Trace are events of which QEMU tells on its standard error, see Said.
	Trace []string
	// VLAN is the tag that the machine has to speak with; 0 for none.
	VLAN uint16
}

// Machine is a virtual machine that is on or off.
type Machine struct {
	cfg    Config
	number int // tells machines of one network apart
	tap    string
	mac    string
	starts int
	faults map[int]string // by disk
	// attached are the disks of the next power-on.
	attached []Attached
	run      *proc.Proc
	onAt     time.Time
}

// New plugs a machine into its network; it is off. Number is unique in the
// network, from 1 to 250.
func New(ctx context.Context, number int, cfg Config) (*Machine, error) {
	if number < 1 || number > 250 {
		return nil, fmt.Errorf("vm: machine number %d is not within 1 to 250", number)
	}
	if cfg.Memory == 0 && cfg.Firmware == BIOS {
		cfg.Memory = Memory
	} else if cfg.Memory == 0 {
		cfg.Memory = UEFIMemory
	}
	m := &Machine{cfg: cfg, number: number, mac: fmt.Sprintf("52:54:00:68:75:%02x", number)}
	if err := m.makeVars(); err != nil {
		return nil, err
	}
	if cfg.Network != nil {
		var err error
		add := cfg.Network.AddTap
		if cfg.VLAN != 0 {
			add = func(ctx context.Context) (string, error) { return cfg.Network.AddTaggedTap(ctx, cfg.VLAN) }
		}
		if m.tap, err = add(ctx); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Name returns the machine's name.
func (m *Machine) Name() string { return m.cfg.Name }

// Tap returns the name of the machine's network port.
func (m *Machine) Tap() string { return m.tap }

// MAC returns the address of the machine's network card.
func (m *Machine) MAC() string { return m.mac }

// Disk returns the path of disk i.
func (m *Machine) Disk(i int) string { return m.cfg.Disks[i] }

// Fail has disk i fail as rules say, the configuration of QEMU's blkdebug, from
// the next time the machine is switched on.
func (m *Machine) Fail(i int, rules string) error {
	path := m.cfg.Disks[i] + ".blkdebug"
	if err := os.WriteFile(path, []byte(rules), 0o644); err != nil {
		return fmt.Errorf("vm: %s: %v", m.cfg.Name, err)
	}
	m.faults = map[int]string{i: "blkdebug:" + path + ":"}
	return nil
}

// OnAt returns when the machine was last switched on.
func (m *Machine) OnAt() time.Time { return m.onAt }

// PowerOn starts the machine. Whoever does calls Cut in the end.
func (m *Machine) PowerOn() error {
	if m.On() {
		return fmt.Errorf("vm: %s is on already", m.cfg.Name)
	}
	m.starts++
	command := proc.Command{Args: m.args(), Log: m.file("console"), LogErr: m.file("qemu")}
	if m.cfg.Network != nil {
		command.Netns = m.cfg.Network.Netns
	}
	run, err := proc.Start(command)
	if err != nil {
		return fmt.Errorf("vm: %s: %v", m.cfg.Name, err)
	}
	m.run, m.onAt = run, time.Now()
	return nil
}

// file names a file of the present power-on.
func (m *Machine) file(kind string) string {
	return filepath.Join(m.cfg.LogDir, fmt.Sprintf("%s-%d.%s", m.cfg.Name, m.starts, kind))
}

func (m *Machine) args() []string {
	args := []string{"qemu-system-x86_64",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-display", "none",
		"-m", fmt.Sprint(m.cfg.Memory), "-smp", "1", "-nodefaults", "-serial", "stdio", "-monitor", "none",
		"-uuid", fmt.Sprintf("6875636b-0000-4000-8000-%012x", m.number),
		"-smbios", "type=1,serial=" + m.cfg.Name,
		"-name", m.cfg.Name,
	}
	args = append(args, m.board()...)
	for i, disk := range m.cfg.Disks {
		id := fmt.Sprintf("disk%d", i)
		args = append(args,
			// unsafe: what the guest wrote is in the host's page cache, which
			// outlives QEMU; that is all a test's power cut needs.
			"-drive", "if=none,format=raw,cache=unsafe,discard=unmap,id="+id+",file="+m.faults[i]+disk,
			"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s-%s%s", id, m.cfg.Name, id, m.diskIndex(i)))
	}
	for _, event := range m.cfg.Trace {
		args = append(args, "-trace", event)
	}
	args = append(args, m.attachments()...)
	args = append(args, m.deadCards()...)
	if m.cfg.Network != nil {
		properties, more := m.card()
		args = append(args, more...)
		args = append(args,
			"-netdev", "tap,id=net0,vnet_hdr=off,script=no,downscript=no,ifname="+m.tap, // plain frames in the capture
			"-device", "virtio-net-pci,netdev=net0,mac="+m.mac+properties,
			"-object", "filter-dump,id=dump0,netdev=net0,maxlen=192,file="+m.file("pcap"))
	}
	return append(args, m.boot()...)
}

// On reports whether the machine is on.
func (m *Machine) On() bool {
	if m.run == nil {
		return false
	}
	select {
	case <-m.run.Done():
		return false
	default:
		return true
	}
}

// Cut takes the power away. Nothing happens to a machine that is off.
func (m *Machine) Cut() {
	if m.run != nil {
		m.run.Kill()
	}
}

// WaitOff waits until the machine switches itself off.
func (m *Machine) WaitOff(ctx context.Context) error {
	if err := m.run.Wait(ctx); err != nil {
		return fmt.Errorf("vm: %s: wait for power off: %w; QEMU said: %s", m.cfg.Name, err, m.run.Stderr)
	}
	return nil
}

// Console returns what the machine has said since it was last switched on.
func (m *Machine) Console() *proc.Output { return m.run.Stdout }

// Said returns what QEMU itself has said since the machine was last switched on.
func (m *Machine) Said() *proc.Output { return m.run.Stderr }

// Expect waits until the console has said something that matches pattern since
// position from, and returns the groups and the position after the match.
func (m *Machine) Expect(ctx context.Context, pattern string, from int) (groups []string, next int, err error) {
	groups, next, err = m.Console().Wait(ctx, regexp.MustCompile(pattern), from)
	if errors.Is(err, proc.ErrEnded) {
		return nil, 0, fmt.Errorf("vm: %s went off: %w; QEMU said: %s", m.cfg.Name, err, m.run.Stderr)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("vm: %s: %w", m.cfg.Name, err)
	}
	return groups, next, nil
}

// Type types a line on the serial console.
func (m *Machine) Type(line string) error {
	if _, err := m.run.Write([]byte(line + "\n")); err != nil {
		return fmt.Errorf("vm: type on the console of %s: %v", m.cfg.Name, err)
	}
	return nil
}
