package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"huck/imager/api"
	"huck/imager/capture"
	"huck/imager/disk"
	"huck/imager/inspect"
	"huck/imager/personal"
	"huck/imager/receive"
	"huck/initramfs/bootos"
	"huck/initramfs/efiboot"
	"huck/initramfs/installed"
	"huck/initramfs/inventory"
	"huck/initramfs/medium"
	"huck/initramfs/network"
	"huck/initramfs/personalise"
	"huck/initramfs/scripts"
)

// thisMachine is the machine that we run on.
type thisMachine struct {
	log  *slog.Logger
	uefi bool
	// medium is the name of the volume that we were started from; empty for none.
	medium string
	// last is what Leave does.
	last func()
}

// espDir is where the EFI system partition is mounted for a moment.
const espDir = "/run/huck-esp"

// mountDir is where the installed system's filesystems are mounted to find its kernel.
const mountDir = "/run/huck-disk"

func (m *thisMachine) Inventory() api.Inventory {
	i := inventory.Roots{}.Collect(m.log)
	i.MACs = network.MACs("")
	m.uefi = i.Firmware == "uefi"
	return i
}

// Disks are those of the machine; the medium that it was started from is marked.
func (m *thisMachine) Disks() ([]api.Disk, error) {
	disks, err := disk.List()
	if m.medium != "" {
		medium.Mark(disks, m.medium)
	}
	return disks, err
}

func (m *thisMachine) Contents(d api.Disk) (_ []api.Content, err error) {
	dev, err := disk.Open(d.Path, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	return inspect.Disk(dev, dev.Size(), dev.SectorSize())
}

// DisksMayCome: the kernel has looked for all disks before it starts init
// (kernel-config/disk.config), but for those behind buses that it looks at in
// the background: USB and card readers.
func (m *thisMachine) DisksMayCome() bool {
	for _, pattern := range []string{"/sys/bus/usb/devices/usb*", "/sys/class/mmc_host/*"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 { // fails on bad patterns only
			return true
		}
	}
	return false
}

func (m *thisMachine) DiskComing() bool { return disk.Coming() }

func (m *thisMachine) Receive(ctx context.Context, cfg receive.Config) (api.Result, error) {
	return receive.Run(ctx, cfg)
}

func (m *thisMachine) Capture(ctx context.Context, path string, cfg capture.Config) (capture.Result, error) {
	dev, err := disk.Open(path, false)
	if err != nil {
		return capture.Result{}, err
	}
	defer dev.Close() // opened for reading: nothing can be lost
	cfg.Device = dev
	return capture.Run(ctx, cfg)
}

func (m *thisMachine) Reread(path string) error { return disk.Reread(path) }

func (m *thisMachine) Personalise(path string, p *personal.Personality) (said string, err error) {
	err = m.inside(path, p, func(sys *installed.System) (err error) {
		said, err = personalise.Apply(personalise.System{FS: sys.FS, Writable: sys.Writable}, p)
		return err
	})
	return said, err
}

func (m *thisMachine) ScriptHere(ctx context.Context, s personal.Script, cfg scripts.Config) error {
	return scripts.Here(ctx, "/proc/self/exe", s, cfg)
}

func (m *thisMachine) ScriptsThere(ctx context.Context, path string, p *personal.Personality, cfg scripts.Config) error {
	return m.inside(path, p, func(sys *installed.System) error {
		if err := scripts.Prepare(sys); err != nil {
			return err
		}
		for _, s := range p.Scripts.After {
			cfg.Line("script " + s.Name)
			if err := scripts.In(ctx, sys, s, cfg); err != nil {
				return err
			}
		}
		return nil
	})
}

// inside does something with the system on the disk mounted for writing.
func (m *thisMachine) inside(path string, p *personal.Personality, do func(*installed.System) error) error {
	if err := os.MkdirAll(mountDir, 0o755); err != nil {
		return err
	}
	sys, err := installed.Mount(path, mountDir, p.Root, m.log)
	if err != nil {
		return err
	}
	// What stands on the disk for good is known when it is unmounted.
	return errors.Join(do(sys), sys.Close())
}

// Activity is the disk's line of statistics (Documentation/admin-guide/iostats.rst).
func (m *thisMachine) Activity(path string) string {
	b, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(path), "stat"))
	if err != nil {
		return ""
	}
	return string(b)
}

func (m *thisMachine) BootEntry(path string, next bool) (efiboot.Entry, error) {
	e, err := efiboot.Install(path, espDir)
	if err == nil && next {
		err = efiboot.StartEntryNext(e.Number)
	}
	return e, err
}

func (m *thisMachine) Load(path string) (e bootos.Entry, err error) {
	if err := os.MkdirAll(mountDir, 0o755); err != nil {
		return e, err
	}
	d, err := bootos.Mount(path, mountDir, m.log)
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if e, err = bootos.Find(d.Volumes); err != nil {
		return e, err
	}
	return e, d.Load(e, "/tmp", m.uefi)
}

func (m *thisMachine) Kexec() error    { return bootos.Reboot() }
func (m *thisMachine) Reboot() error   { return power(unix.LINUX_REBOOT_CMD_RESTART) }
func (m *thisMachine) PowerOff() error { return power(unix.LINUX_REBOOT_CMD_POWER_OFF) }

func (m *thisMachine) Leave() {
	m.last()
	unix.Sync()
}

func power(cmd int) error {
	if err := unix.Reboot(cmd); err != nil {
		return fmt.Errorf("reboot(%#x): %w", cmd, err)
	}
	return nil
}

// macs puts the address of the interface that reached the server first.
func macs(all []string, first string) []string {
	if found := network.MACs(first); len(found) > 0 {
		return found
	}
	return all
}
