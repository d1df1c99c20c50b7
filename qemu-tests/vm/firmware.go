package vm

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Firmware is what a machine is started by.
type Firmware string

// The firmware that Debian packages: SeaBIOS, and edk2's OVMF without and with
// Secure Boot. The latter has the keys of OVMF_VARS_4M.snakeoil.fd enrolled,
// for which everybody has the private key (SnakeoilKey).
const (
	BIOS   Firmware = ""
	UEFI   Firmware = "uefi"
	Secure Firmware = "secure"
)

// Debian's package ovmf. The key's passphrase is "snakeoil".
const (
	ovmf         = "/usr/share/OVMF/"
	SnakeoilKey  = "/usr/share/ovmf/PkKek-1-snakeoil.key"
	SnakeoilCert = "/usr/share/ovmf/PkKek-1-snakeoil.pem"
)

// UEFIMemory is what a machine with UEFI has by default, in MiB.
const UEFIMemory = 512

// Boot is what a machine is started from.
type Boot string

// The ways to start. On a machine with UEFI, Network goes by the ROM of its
// network card, if it has one, else by what UEFINet chooses of edk2's own.
const (
	Network Boot = "" // or the kernel that the configuration names
	Disk    Boot = "disk"
	USB     Boot = "usb"
	CD      Boot = "cd"
)

// NIC says what code the network card brings along.
type NIC string

// By default a card has QEMU's iPXE ROM, for BIOS and UEFI. Bare has none:
// then UEFI uses its own network stack, by PXE or by HTTP Boot.
const (
	IPXE     NIC = ""
	BarePXE  NIC = "pxe"
	BareHTTP NIC = "http"
)

// code returns the firmware's file, and the file with its variables to start from.
func (f Firmware) code() (code, vars string) {
	if f == Secure {
		return ovmf + "OVMF_CODE_4M.secboot.fd", ovmf + "OVMF_VARS_4M.snakeoil.fd"
	}
	return ovmf + "OVMF_CODE_4M.fd", ovmf + "OVMF_VARS_4M.fd"
}

// board returns QEMU's arguments for the board and its firmware.
func (m *Machine) board() []string {
	// graphics=off makes BIOS and iPXE speak on the serial port, too; GRUB
	// hangs for 100 s without a graphics card.
	if m.cfg.Firmware == BIOS {
		return []string{"-machine", "pc,graphics=off", "-vga", "std"}
	}
	code, _ := m.cfg.Firmware.code()
	args := []string{"-machine", "q35,graphics=off,smm=off", "-vga", "std"}
	if m.cfg.Firmware == Secure {
		// The variables are then out of reach of all but the firmware.
		args = []string{"-machine", "q35,graphics=off,smm=on", "-vga", "std", "-global", "driver=cfi.pflash01,property=secure,value=on"}
	}
	return append(args,
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+code,
		"-drive", "if=pflash,format=raw,unit=1,file="+m.vars())
}

// vars is the file with the variables of this machine's firmware.
func (m *Machine) vars() string { return m.cfg.Disks[0] + ".vars" }

// makeVars gives the firmware its variables, which live as long as the disk.
func (m *Machine) makeVars() (err error) {
	if m.cfg.Firmware == BIOS {
		return nil
	}
	if len(m.cfg.Disks) == 0 {
		return fmt.Errorf("vm: %s has UEFI and no disk, beside which its variables would be kept", m.cfg.Name)
	}
	_, name := m.cfg.Firmware.code()
	from, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("vm: %w", err)
	}
	defer from.Close()
	to, err := os.OpenFile(m.vars(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("vm: %w", err)
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// boot returns QEMU's arguments for what the machine is started from. Both
// kinds of firmware follow the bootindex of devices.
func (m *Machine) boot() []string {
	medium := []string{"-drive", "if=none,id=medium,format=raw,readonly=on,file=" + m.cfg.Medium}
	switch {
	case m.cfg.Kernel != "":
		args := []string{"-kernel", m.cfg.Kernel, "-append", m.cfg.Append}
		if m.cfg.Initrd != "" {
			args = append(args, "-initrd", m.cfg.Initrd)
		}
		return args
	case m.cfg.Boot == USB:
		return append(medium, "-device", "qemu-xhci,id=usb", "-device", "usb-storage,bus=usb.0,drive=medium,serial=stick,bootindex=1")
	case m.cfg.Boot == CD && m.cfg.Firmware == BIOS:
		return append(medium, "-device", "ide-cd,drive=medium,bootindex=1")
	case m.cfg.Boot == CD:
		return append(medium, "-device", "ide-cd,bus=ide.0,drive=medium,bootindex=1")
	case m.cfg.Boot == Disk && m.cfg.Firmware == BIOS:
		return []string{"-boot", "order=c,reboot-timeout=5000"}
	case m.cfg.Boot == Network && m.cfg.Firmware == BIOS:
		return []string{"-boot", "order=n,reboot-timeout=5000"}
	}
	return nil
}

// card returns the properties of the network card.
func (m *Machine) card() (properties string, more []string) {
	if m.cfg.Firmware == BIOS {
		return "", nil
	}
	off := func(what string) { more = append(more, "-fw_cfg", "name=opt/org.tianocore/"+what+",string=n") }
	// edk2 tries PXE over IPv4, PXE over IPv6, HTTP over both, in this order, and each for a minute.
	off("IPv6PXESupport")
	if m.cfg.NIC == BareHTTP {
		off("IPv4PXESupport")
	}
	if m.cfg.NIC != IPXE {
		properties = ",romfile="
	}
	if m.cfg.Boot == Network {
		properties += ",bootindex=1"
	}
	return properties, more
}

// diskIndex puts disk i behind what the machine is started from: OVMF drops
// boot entries of devices that QEMU has given no place.
func (m *Machine) diskIndex(i int) string {
	if m.cfg.Firmware == BIOS {
		return ""
	}
	return fmt.Sprintf(",bootindex=%d", 10+i)
}
